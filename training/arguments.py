"""Every training setting, declared once: type, default, range, and its words in English and Chinese.

The command line, the page's form, ``run.json`` and the checks all come from `TrainingSettings`. Knows what a value may
be; does not know how a run is stored or trained.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from chatglm2.errors import RunError
from training.setting import SettingField, SettingValue, setting, unknown_setting

PROJECT_ROOT = Path(__file__).resolve().parent.parent
DEMO_MODEL = PROJECT_ROOT / "assets" / "demo-model"
SAMPLE_TRAIN_FILE = PROJECT_ROOT / "assets" / "data" / "train.json"


@dataclass(frozen=True)
class TrainingSettings:
    """What a training run is asked to do. The defaults suit the demo model on two CPU cores."""

    model_name_or_path: str = setting(
        str(DEMO_MODEL),
        ("Base model", "基座模型"),
        ("Model directory or hub id; its weights stay frozen.", "模型目录或 Hub 名称；其权重保持冻结。"),
        group="basic",
    )
    train_file: str = setting(
        str(SAMPLE_TRAIN_FILE),
        ("Training data", "训练数据"),
        ("JSON, JSON lines or CSV file, one example a row.", "JSON、JSON Lines 或 CSV 文件，每行一条样本。"),
        group="basic",
    )
    max_steps: int = setting(
        40,
        ("Steps", "训练步数"),
        (
            "How many times the prefix is updated; -1 counts epochs instead.",
            "前缀更新的次数；-1 表示改用轮数。",
        ),
        group="basic",
        minimum=-1,
        maximum=1_000_000,
    )
    per_device_train_batch_size: int = setting(
        16,
        ("Batch size", "批大小"),
        ("Examples computed together; larger needs more memory.", "同时计算的样本数；越大占用内存越多。"),
        group="basic",
        minimum=1,
        maximum=4096,
    )
    learning_rate: float = setting(
        5e-2,
        ("Learning rate", "学习率"),
        (
            "How far each step moves the prefix; lower forgets less of everything else.",
            "每步调整前缀的幅度；较低时对其他能力的遗忘更少。",
        ),
        group="basic",
        minimum=1e-8,
        maximum=1.0,
    )
    pre_seq_len: int = setting(
        16,
        ("Prefix length", "前缀长度"),
        ("Learnt tokens in front of the text of every layer.", "每层文本前可学习的前缀 token 数。"),
        group="basic",
        minimum=1,
        maximum=2048,
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
    validation_file: str | None = setting(
        None,
        ("Validation data", "验证数据"),
        ("Same format; its loss is measured during training.", "格式相同；训练中会测量其损失。"),
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
    source_prefix: str = setting(
        "", ("Text before prompts", "提示前缀文本"), ("Put in front of every prompt.", "加在每条提示之前的文本。")
    )
    max_train_samples: int | None = setting(
        None, ("Training examples", "训练样本数"), ("Use only the first ones.", "只使用前若干条。"), minimum=1
    )
    max_eval_samples: int | None = setting(
        100, ("Validation examples", "验证样本数"), ("Use only the first ones.", "只使用前若干条。"), minimum=1
    )
    truncation: str = setting(
        "keep_answer_cue",
        ("Overlong prompts", "超长提示"),
        (
            "keep_answer_cue shortens the user's text; original cuts the end, and 答： with it.",
            "keep_answer_cue 缩短用户文本；original 从末尾截断，会丢掉“答：”。",
        ),
        choices=("keep_answer_cue", "original"),
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
    )
    quantization_bit: int | None = setting(
        None,
        ("Quantization", "量化"),
        ("Hold the base model in 8 or 4 bits.", "以 8 或 4 位存放基座模型。"),
        choices=(4, 8),
    )
    dtype: str = setting(
        "auto",
        ("Precision", "精度"),
        ("Of the base model; the prefix is always fp32.", "基座模型的精度；前缀始终为 fp32。"),
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    device: str = setting(
        "auto", ("Device", "设备"), ("Where to train.", "在哪里训练。"), choices=("auto", "cpu", "cuda")
    )
    gradient_checkpointing: str = setting(
        "auto",
        ("Recompute activations", "重算激活"),
        (
            "Saves memory and costs time; auto decides by free memory.",
            "节省显存但更慢；auto 按空闲显存决定。",
        ),
        choices=("auto", "on", "off"),
    )
    lr_scheduler_type: str = setting(
        "linear",
        ("Rate schedule", "学习率计划"),
        ("How the rate changes over the run.", "学习率随训练的变化方式。"),
        choices=("linear", "cosine", "constant", "constant_with_warmup"),
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
    eval_steps: int | None = setting(
        None, ("Validate every", "验证间隔"), ("Steps; needs validation data.", "步数；需要验证数据。"), minimum=1
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
    hub: str = setting(
        "huggingface",
        ("Model hub", "模型来源"),
        ("Where a hub id is looked up.", "从哪里查找 Hub 名称。"),
        choices=("huggingface", "modelscope"),
    )
    test_file: str | None = setting(
        None,
        ("Test data", "测试数据"),
        (
            "What --do_predict answers; --validation_file if not given.",
            "--do_predict 回答的数据；默认 --validation_file。",
        ),
        group="evaluation",
    )
    max_predict_samples: int | None = setting(
        None,
        ("Test examples", "测试样本数"),
        ("Use only the first ones.", "只使用前若干条。"),
        group="evaluation",
        minimum=1,
    )
    val_max_target_length: int | None = setting(
        None,
        ("Longest reference", "参考答案最大长度"),
        ("Tokens that are compared; max_target_length if not given.", "参与比较的 token 数；默认 max_target_length。"),
        group="evaluation",
        minimum=3,  # the original counts [gMASK] and sop
        maximum=32768,
    )
    per_device_eval_batch_size: int = setting(
        16,
        ("Answers at a time", "同时回答数"),
        (
            "Answers computed together; more are faster and need more memory.",
            "同时生成的回答数；越大越快，占用内存越多。",
        ),
        group="evaluation",
        minimum=1,
        maximum=4096,
    )
    do_sample: bool = setting(
        True,
        ("Sample", "采样"),
        ("As the original does; off always takes the likeliest token.", "与原版相同；关闭后总是取最可能的 token。"),
        group="evaluation",
    )
    top_p: float = setting(
        0.7,
        ("Top-p", "Top-p"),
        ("Sample among the likeliest tokens that reach this share.", "在累计概率达到该值的最可能 token 中采样。"),
        group="evaluation",
        minimum=0.01,
        maximum=1.0,
    )
    temperature: float = setting(
        0.95,
        ("Temperature", "温度"),
        ("Lower is closer to the likeliest answer.", "越低越接近最可能的回答。"),
        group="evaluation",
        minimum=0.01,
        maximum=10.0,
    )
    num_beams: int = setting(
        1,
        ("Beams", "束数"),
        ("Above 1: beam search, through transformers.", "大于 1 时使用 transformers 的束搜索。"),
        group="evaluation",
        minimum=1,
        maximum=64,
    )
    baseline: bool = setting(
        False,
        ("Baseline", "对照"),
        ("Also let the untuned model answer, and compare.", "同时让未微调的模型回答并比较。"),
        group="evaluation",
    )

    def __post_init__(self) -> None:
        for item in setting_fields():
            object.__setattr__(self, item.name, item.parse(getattr(self, item.name)))
        if self.max_steps == 0:
            raise RunError("--max_steps must be 1 or more, or -1; found 0.", "--max_steps 应为正整数或 -1，实际为 0。")
        if self.eval_steps and not self.validation_file:
            raise RunError(
                "--eval_steps needs --validation_file; none was given.", "--eval_steps 需要同时给出 --validation_file。"
            )

    def to_dict(self) -> dict[str, SettingValue]:
        """All settings by name, as ``run.json`` holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> TrainingSettings:
        """Settings from a form, flags or a file; what is not named keeps its default.

        Raises:
            RunError: for an unknown name, a wrong type or a value out of range.
        """
        known = {item.name for item in setting_fields()}
        for name in values:
            if name not in known:
                raise unknown_setting(name, known)
        return cls(**values)  # type: ignore[arg-type] # __post_init__ parses every value


@cache
def setting_fields() -> tuple[SettingField, ...]:
    """Every setting in order, for a parser or a form."""
    hints = typing.get_type_hints(TrainingSettings)
    return tuple(
        _describe(item.name, hints[item.name], item.default, item.metadata) for item in fields(TrainingSettings)
    )


def _describe(name: str, hint: Any, default: Any, metadata: Mapping[str, Any]) -> SettingField:
    optional = isinstance(hint, types.UnionType)
    kind = next(part for part in typing.get_args(hint) if part is not type(None)) if optional else hint
    return SettingField(name=name, type=kind.__name__, default=default, optional=optional, **metadata)
