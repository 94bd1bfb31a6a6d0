"""Every training setting, declared once: type, default, range, and its words in English and Chinese.

The command line, the page's form, ``run.json`` and the checks all come from `TrainingSettings`. Knows what a value may
be; does not know how a run is stored or trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any, Literal

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from chatglm2.errors import RunError
from chatglm2.model.prefix_files import LONGEST_PREFIX_TOKENS
from training.settings.distributed import DistributedSettings
from training.settings.evaluate import EvaluationSettings
from training.settings.field import CHECKS, SettingField, SettingValue, describe_fields, setting
from training.settings.intervals import whole_steps
from training.settings.keep_recipe import USUAL_STEPS, steps_for
from training.settings.presets import ORIGINAL_DEFAULTS, PRESETS, PresetName
from training.settings.problems import setting_refusal
from training.settings.samples import DEMO_MODEL, SAMPLE_GENERAL_FILE, SAMPLE_TRAIN_FILE

Precision = Literal["auto", "float32", "float16", "bfloat16"]
Share = Literal["chat-first", "even", "training-first"]
Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
]
PREFIX_LEARNING_RATE = 5e-2
TEXT, RANDOM = "text", "random"
# A prefix's rate would ruin weights that have learnt already; this is transformers' own default.
FULL_LEARNING_RATE = 5e-5


@dataclass(frozen=True, config=CHECKS)
class TrainingSettings(EvaluationSettings, DistributedSettings):
    """What a training run is asked to do. The defaults suit the demo model on two CPU cores."""

    preset: PresetName | None = setting(
        None,
        ("Preset", "预设"),
        (
            "Sets several; your own win.",
            "一次设多项，自设的优先。",
        ),
        group="basic",
    )
    model_name_or_path: str = setting(
        str(DEMO_MODEL),
        ("Base model", "基座模型"),
        ("Model directory or hub id.", "模型目录或 Hub 名称。"),
        group="basic",
    )
    train_file: str = setting(
        str(SAMPLE_TRAIN_FILE),
        ("Training data", "训练数据"),
        (
            "JSON, JSON lines, CSV, TSV, Excel or Parquet file, one example a row.",
            "JSON、JSON Lines、CSV、TSV、Excel 或 Parquet 文件，每行一条样本。",
        ),
        group="basic",
        reads="data",
    )
    max_steps: int = setting(
        USUAL_STEPS,
        ("Steps", "训练步数"),
        (
            "How often the prefix is updated; -1 counts epochs.",
            "前缀更新的次数；-1 改用轮数。",
        ),
        group="basic",
        minimum=-1,
        maximum=1_000_000,
    )
    per_device_train_batch_size: int = setting(
        8,
        ("Batch size", "批大小"),
        ("Examples computed together; larger needs more memory.", "同时计算的样本数；越大占用内存越多。"),
        group="basic",
        minimum=1,
        maximum=4096,
    )
    pre_seq_len: int | None = setting(
        16,
        ("Prefix length", "前缀长度"),
        (
            "Learnt tokens in every layer; none: all weights.",
            "每层可学习的 token 数；none 为全部权重。",
        ),
        group="basic",
        minimum=1,
        maximum=LONGEST_PREFIX_TOKENS,
    )
    learning_rate: float = setting(
        PREFIX_LEARNING_RATE,
        ("Learning rate", "学习率"),
        (
            "How far a step goes; all weights start at 5e-05.",
            "每步的幅度；训练全部权重时默认 5e-05。",
        ),
        depending=lambda given: FULL_LEARNING_RATE if given["pre_seq_len"] is None else PREFIX_LEARNING_RATE,
        group="basic",
        minimum=1e-8,
        maximum=1.0,
    )
    max_source_length: int = setting(
        256,
        ("Longest prompt", "提示最大长度"),
        ("Tokens; longer prompts are shortened.", "以 token 计；更长的提示会被缩短。"),
        group="basic",
        minimum=1,
        maximum=32768,
    )
    max_target_length: int = setting(
        256,
        ("Longest answer", "回答最大长度"),
        ("Tokens; longer answers are cut.", "以 token 计；更长的回答会被截断。"),
        group="basic",
        minimum=1,
        maximum=32768,
    )
    prompt_column: str | None = setting(
        None, ("Prompt column", "提示列"), ("Found by its name if empty.", "留空则按列名自动识别。")
    )
    response_column: str | None = setting(
        None, ("Answer column", "回答列"), ("Found by its name if empty.", "留空则按列名自动识别。")
    )
    history_column: str | None = setting(
        None,
        ("History column", "历史列"),
        ("Earlier rounds, a list of [question, answer].", "之前的对话轮次，[问, 答] 的列表。"),
    )
    skip_bad_rows: bool = setting(
        False,
        ("Skip broken rows", "跳过有误的行"),
        (
            "Leave out and count rows that cannot be read, instead of stopping at the first.",
            "跳过并统计无法读取的行，而不是遇到第一处错误就停止。",
        ),
    )
    prefix_init: str = setting(
        TEXT,
        ("Prefix starts from", "前缀的起点"),
        (
            "text: a sentence, which works untrained; random: as in the original; or a checkpoint.",
            "text：一句话，未训练即有效；random：与原版相同；或一个检查点。",
        ),
        depending=lambda given: RANDOM if given["pre_seq_len"] is None else TEXT,
        examples=(TEXT, RANDOM),
        reads="checkpoint",
    )
    prefix_text: str = setting(
        "",
        ("Sentence it starts from", "起点句子"),
        (
            "What the task asks, in a sentence; proposed from the data if empty.",
            "用一句话说明任务；留空则根据数据提出。",
        ),
    )
    keep: float = setting(
        0.5,
        ("How much of the rest to keep", "保留其他能力的程度"),
        (
            "0 to 1: general questions keep the base's own answers beside the task; 0 is off. Above 0.5 a run takes "
            "more steps, up to 240 at 1, unless --max_steps or a preset says how many.",
            "0 到 1：学习任务的同时，让通用问题的回答与基座模型保持一致；0 为关闭。高于 0.5 时步数随之增加，"
            "为 1 时 240 步，除非用 --max_steps 或预设指定。",
        ),
        depending=lambda given: 0.0 if given["pre_seq_len"] is None else 0.5,
        minimum=0.0,
        maximum=1.0,
    )
    keep_file: str | None = setting(
        str(SAMPLE_GENERAL_FILE),
        ("General questions", "通用问题"),
        (
            "File of questions to keep the base's answers to; answers in it are not used.",
            "用于保持基座回答的问题文件；其中的回答不会使用。",
        ),
        reads="data",
        examples=(str(SAMPLE_GENERAL_FILE),),
    )
    keep_own: int = setting(
        256,
        ("Questions by the base", "基座自拟的问题"),
        (
            "So many questions the base may write itself, if it can.",
            "基座模型最多自行写出多少个问题（若它能写）。",
        ),
        minimum=0,
        maximum=4096,
    )
    mix_file: str | None = setting(
        None,
        ("General data to mix in", "混入的通用数据"),
        (
            "File of everyday questions and answers, so that the model forgets less.",
            "日常问答数据文件，使模型少遗忘其他能力。",
        ),
        examples=(str(SAMPLE_GENERAL_FILE),),
        reads="data",
    )
    mix_ratio: float = setting(
        0.3,
        ("Share of general data", "通用数据占比"),
        (
            "Of all rows trained on; an epoch is still one pass over the task's rows, plus this share.",
            "占全部训练样本的比例；一轮仍是遍历一次任务数据，另加这一比例的通用数据。",
        ),
        minimum=0.0,
        maximum=0.95,
    )
    source_prefix: str = setting(
        "", ("Text before prompts", "提示前缀文本"), ("Put in front of every prompt.", "加在每条提示之前的文本。")
    )
    max_train_samples: int | None = setting(
        None, ("Training examples", "训练样本数"), ("Use only the first ones.", "只使用前若干条。"), minimum=1
    )
    truncation: Literal["keep_answer_cue", "original"] = setting(
        "keep_answer_cue",
        ("Overlong prompts", "超长提示"),
        (
            "keep_answer_cue shortens the user's text; original cuts the end, and 答： with it.",
            "keep_answer_cue 缩短用户文本；original 从末尾截断，会丢掉“答：”。",
        ),
    )
    compat: Literal["original"] | None = setting(
        None,
        ("As the original", "与原版一致"),
        (
            "original: its defaults, its truncation and its count of answer tokens, better or not.",
            "original：采用原版的默认值、截断方式和回答 token 的算法，无论优劣。",
        ),
    )
    group_by_length: bool = setting(
        True,
        ("Rows of like length together", "长度相近的样本同批"),
        (
            "Faster; off takes the rows in the order that the original would.",
            "更快；关闭后按原版的顺序取样本。",
        ),
    )
    ignore_pad_token_for_loss: bool = setting(
        True,
        ("Learn answers only", "只学习回答"),
        ("Off also trains on prompts and padding as id 0.", "关闭后提示与填充也按编号 0 参与训练。"),
    )
    num_train_epochs: float = setting(
        1.0,
        ("Epochs", "训练轮数"),
        ("Passes over the data; used when steps is -1.", "遍历数据的次数；步数为 -1 时生效。"),
        minimum=0.001,
        maximum=10_000,
    )
    gradient_accumulation_steps: int = setting(
        1,
        ("Accumulation", "梯度累积"),
        ("Batches averaged into one step.", "多少个批次合并为一步。"),
        minimum=1,
        maximum=4096,
    )
    prefix_projection: bool = setting(
        False,
        ("Projection", "前缀映射"),
        ("Learn the prefix through a small network.", "通过一个小网络学习前缀。"),
    )
    ptuning_checkpoint: str | None = setting(
        None,
        ("Start from prefix", "初始前缀"),
        (
            "Warm start: begin with this checkpoint's prefix and a fresh optimizer.",
            "热启动：从该检查点的前缀开始，优化器重新初始化。",
        ),
        reads="checkpoint",
    )
    quantization_bit: Literal[4, 8] | None = setting(
        None,
        ("Quantization", "量化"),
        ("Hold the base model in 8 or 4 bits.", "以 8 或 4 位存放基座模型。"),
    )
    dtype: Precision = setting(
        "auto",
        ("Precision", "精度"),
        ("Of the model's weights; the prefix is always fp32.", "模型权重的精度；前缀始终为 fp32。"),
    )
    rope_precision: Literal["fp32", "reference"] | None = setting(
        None,
        ("Rotary angles", "旋转角精度"),
        (
            "fp32 is exact; reference rounds as the original does, for prefixes that were trained there in fp16.",
            "fp32 为精确值；reference 与原版一样取半精度，适用于在原版中以 fp16 训练的前缀。",
        ),
    )
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto",
        ("Device", "设备"),
        ("Where to train.", "在哪里训练。"),
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = setting(
        "auto",
        ("Recompute activations", "重算激活"),
        (
            "Saves memory and costs time; auto decides by free memory.",
            "节省显存但更慢；auto 按空闲显存决定。",
        ),
    )
    share: Share = setting(
        "chat-first",
        ("While somebody chats", "有人对话时"),
        (
            "Who goes first on this device; chat-first and even pause the training.",
            "谁优先使用设备；chat-first 和 even 会暂停训练。",
        ),
    )
    lr_scheduler_type: Schedule = setting(
        "linear",
        ("Rate schedule", "学习率计划"),
        ("How the rate changes over the run.", "学习率随训练的变化方式。"),
    )
    warmup_steps: int = setting(
        0, ("Warm-up steps", "预热步数"), ("The rate rises from 0 over these.", "学习率从 0 升起的步数。"), minimum=0
    )
    weight_decay: float = setting(
        0.0, ("Weight decay", "权重衰减"), ("AdamW's.", "AdamW 的权重衰减。"), minimum=0.0, maximum=1.0
    )
    max_grad_norm: float = setting(
        1.0, ("Gradient limit", "梯度上限"), ("Longer gradients are scaled down.", "超过时按比例缩小。"), minimum=0.0
    )
    logging_steps: int = setting(
        1, ("Log every", "日志间隔"), ("Steps between points of the curve.", "曲线上两点之间的步数。"), minimum=1
    )
    save_steps: int = setting(
        20,
        ("Save every", "保存间隔"),
        ("Steps between checkpoints; the last step is always saved.", "检查点之间的步数；最后一步总会保存。"),
        minimum=1,
    )
    save_total_limit: int | None = setting(
        None, ("Keep checkpoints", "保留检查点"), ("Older ones are deleted.", "更早的会被删除。"), minimum=1
    )
    seed: int = setting(
        42,
        ("Seed", "随机种子"),
        ("The same seed repeats the run.", "相同的种子可以重现训练。"),
        minimum=0,
        maximum=2**32 - 1,
    )
    preprocessing_num_workers: int | None = setting(
        None,
        ("Tokenizing workers", "分词进程数"),
        (
            "Accepted for the original's scripts: rows are tokenized as they are used.",
            "为兼容原脚本保留：数据按需分词。",
        ),
        minimum=1,
    )
    hub: Literal["huggingface", "modelscope"] = setting(
        "huggingface",
        ("Model hub", "模型来源"),
        ("Where a hub id is looked up.", "从哪里查找 Hub 名称。"),
    )

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, given: ArgsKwargs, check: ModelWrapValidatorHandler[TrainingSettings]) -> TrainingSettings:
        """Fill in what a preset sets, check every value, then what goes together."""
        values = dict(given.kwargs or {})
        preset = PRESETS.get(str(values.get("preset")))
        together = {
            **(ORIGINAL_DEFAULTS if values.get("compat") == "original" else {}),
            **(preset.values if preset else {}),
            **values,
        }
        if "max_steps" not in together:
            together["max_steps"] = _usual_steps(together)
        try:
            settings = check(ArgsKwargs(given.args, whole_steps(together)))
        except ValidationError as error:
            raise setting_refusal(error, describe_fields(cls)) from None
        settings._check_together()
        return settings

    def _check_together(self) -> None:
        if self.max_steps == 0:
            raise RunError("--max_steps must be 1 or more, or -1; found 0.", "--max_steps 应为正整数或 -1，实际为 0。")
        self.check_validation()
        self.extra(), self.fsdp_words()
        if self.shares_weights:
            self._check_sharing()
        if self.trains_all_weights:
            self._check_full_training()
        elif self.fsdp or self.deepspeed:
            raise RunError(
                "--fsdp and --deepspeed share the weights of full fine-tuning. A prefix is small: leave them out, and "
                "start several processes with torchrun alone; or use --pre_seq_len none.",
                "--fsdp 和 --deepspeed 用于在全量微调时分摊权重。前缀很小：请去掉它们，直接用 torchrun 启动多个进程；"
                "或使用 --pre_seq_len none。",
            )

    @property
    def starts_from_text(self) -> bool:
        """Whether a prefix starts from a sentence."""
        return not self.trains_all_weights and not self.warm_start and self.prefix_init != RANDOM

    @property
    def warm_start(self) -> str | None:
        """The checkpoint whose prefix is trained on, if there is one."""
        named = self.prefix_init if self.prefix_init not in (TEXT, RANDOM) else None
        return self.ptuning_checkpoint or named or None

    @property
    def trains_all_weights(self) -> bool:
        """Full fine-tuning, without a prefix."""
        return self.pre_seq_len is None

    def _check_full_training(self) -> None:
        clashing = {
            "quantization_bit": ("quantized weights cannot learn", "量化后的权重无法训练"),
            "ptuning_checkpoint": ("it is a prefix", "它是一个前缀"),
            "prefix_projection": ("it belongs to a prefix", "它只用于前缀"),
            "preset": ("its learning rate is a prefix's", "它的学习率是为前缀设定的"),
            "keep": ("it holds a prefix to its base", "它用于让前缀不偏离基座模型"),
        }
        for name, (why, why_zh) in clashing.items():
            if getattr(self, name):
                raise RunError(
                    f"--{name} does not go with training all weights: {why}. "
                    "Leave it out, or give a prefix length such as --pre_seq_len 128.",
                    f"训练全部权重时不能使用 --{name}：{why_zh}。请去掉它，或指定前缀长度，例如 --pre_seq_len 128。",
                )

    @property
    def checks_retention(self) -> bool:
        """Whether the run watches what the model forgets."""
        if self.retention_check == "auto":
            return bool(self.eval_steps) and not self.shares_weights
        return self.retention_check == "on"

    @property
    def shares_weights(self) -> bool:
        """Whether no process has the whole model."""
        return bool(self.fsdp or self.deepspeed)

    def _check_sharing(self) -> None:
        """Refuse what needs answers, which only a process with the whole model can give."""
        asked = {"eval_generate_samples": self.eval_generate_samples, "retention_check": self.retention_check == "on"}
        for flag, value in asked.items():
            if value:
                raise RunError(
                    f"--{flag} needs a process that has the whole model; --fsdp and --deepspeed share it out. "
                    "Leave it out, and evaluate the checkpoints afterwards.",
                    f"--{flag} 需要持有完整模型的进程，而 --fsdp 和 --deepspeed 会分摊模型。请去掉它，训练后再评估。",
                )

    def to_dict(self) -> dict[str, SettingValue]:
        """All settings by name, as ``run.json`` holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> TrainingSettings:
        """Settings from a form, flags or a file; what is not named is the preset's, or keeps its default.

        Raises:
            RunError: for an unknown name, a wrong type or a value out of range.
        """
        taken: dict[str, Any] = dict(values)  # every value is checked
        return cls(**taken)


def _usual_steps(values: Mapping[str, Any]) -> int:
    """What follows from ``keep``; a value of it that is none is refused by its own check."""
    with contextlib.suppress(TypeError, ValueError):
        return steps_for(min(float(values.get("keep") or 0), 1.0))
    return USUAL_STEPS


@cache
def setting_fields() -> tuple[SettingField, ...]:
    """Every setting in order, for a parser or a form."""
    fields = dict(describe_fields(TrainingSettings))
    of_evaluation = describe_fields(EvaluationSettings).keys()  # declared first, as a base class's are; shown last
    names = sorted(fields, key=lambda name: name in of_evaluation)
    names.remove("pre_seq_len")  # declared first, as the rate's default depends on it
    names.insert(names.index("learning_rate") + 1, "pre_seq_len")
    return tuple(fields[name] for name in names)
