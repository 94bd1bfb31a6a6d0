"""The settings of validating while training, and of an evaluation on its own; `train.py` has the others.

Knows what a value may be; does not know how anything is measured.
"""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from chatglm2.errors import RunError
from training.settings.field import CHECKS, Settings, setting
from training.settings.samples import SAMPLE_BIAS_FILE, SAMPLE_CHOICES_FILE, SAMPLE_DEV_FILE


@dataclass(frozen=True, config=CHECKS)
class EvaluationSettings(Settings):
    """How well, and what else, the model answers: asked while it trains, or afterwards."""

    validation_file: str | None = setting(
        None,
        ("Validation data", "验证数据"),
        ("Same format; its loss is measured during training.", "格式相同；训练中会测量其损失。"),
        examples=(str(SAMPLE_DEV_FILE),),
        reads="data",
    )
    validation_split: float = setting(
        0.0,
        ("Held back for validation", "留作验证的比例"),
        (
            "Part of the training data that is validated on instead, where no validation data is named.",
            "未指定验证数据时，从训练数据中留出这一部分用于验证，不参与训练。",
        ),
        minimum=0.0,
        maximum=0.5,
    )
    max_eval_samples: int | None = setting(
        100, ("Validation examples", "验证样本数"), ("Use only the first ones.", "只使用前若干条。"), minimum=1
    )
    eval_steps: int | None = setting(
        None, ("Validate every", "验证间隔"), ("Steps; needs validation data.", "步数；需要验证数据。"), minimum=1
    )
    eval_generate_samples: int = setting(
        0,
        ("Answers to score", "评分的回答数"),
        (
            "Validation rows answered at each validation and scored with ROUGE and BLEU; 0 measures the loss only.",
            "每次验证时生成并用 ROUGE、BLEU 评分的回答数；0 表示只测量损失。",
        ),
        minimum=0,
        maximum=10_000,
    )
    load_best_model_at_end: bool = setting(
        False,
        ("Keep the best", "保留最佳"),
        (
            "Save every checkpoint that validates best so far, and name the best one at the end.",
            "保存每个验证结果最佳的检查点，并在结束时指出最佳的一个。",
        ),
    )
    metric_for_best_model: Literal["loss", "rouge-1", "rouge-2", "rouge-l", "bleu-4"] = setting(
        "loss",
        ("Best by", "最佳标准"),
        ("What decides which checkpoint is best.", "以什么判断哪个检查点最佳。"),
    )
    early_stopping_patience: int | None = setting(
        None,
        ("Patience", "耐心"),
        (
            "Stop after this many validations in a row without a better result.",
            "连续这么多次验证没有改善就提前停止。",
        ),
        minimum=1,
    )
    retention_check: Literal["auto", "on", "off"] = setting(
        "auto",
        ("Check what is forgotten", "检查遗忘"),
        (
            "Ask general questions now and then and compare with the base model's answers; auto: when validating.",
            "定期提出通用问题，与基座模型的回答比较；auto 表示有验证时进行。",
        ),
    )
    retention_file: str | None = setting(
        None,
        ("Questions to check with", "检查用的问题"),
        ("File with a prompt column; our own dozen if empty.", "含提示列的文件；留空则使用内置的问题。"),
        reads="data",
    )
    test_file: str | None = setting(
        None,
        ("Test data", "测试数据"),
        (
            "What --do_predict answers; --validation_file if not given.",
            "--do_predict 回答的数据；默认 --validation_file。",
        ),
        group="evaluation",
        reads="data",
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
        32,
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
    strengths: str | None = setting(
        None,
        ("Strengths", "前缀强度"),
        (
            "Also answer with the prefix at these strengths, such as 0,0.25,0.5,0.75,1, and propose one: 0 is the base "
            "model, 1 as it was trained. What is kept is asked with --retention_file.",
            "另外用这些强度的前缀回答并给出建议，例如 0,0.25,0.5,0.75,1：0 即基座模型，1 为训练所得。"
            "保留多少原有能力，用 --retention_file 中的问题衡量。",
        ),
        group="evaluation",
        examples=("0,0.25,0.5,0.75,1",),
    )
    checkpoints: str | None = setting(
        None,
        ("Checkpoints to compare", "要比较的检查点"),
        (
            "Evaluate these together with their base, with commas between: one loaded model, one report.",
            "与基座模型一起评估这些检查点，用逗号分隔：只加载一次模型，生成一份报告。",
        ),
        group="evaluation",
        reads="checkpoint",
    )
    general: str | None = setting(
        None,
        ("General questions", "通用问题"),
        (
            "Also ask the questions of this file, and show the task against what is kept: how much the answers are the "
            "base's own, and how many are exactly the file's.",
            "另外询问该文件中的问题，并展示任务得分与保留的原有能力：回答有多接近基座自身的回答，"
            "以及有多少与文件给出的答案完全一致。",
        ),
        group="evaluation",
        reads="data",
    )
    choices: str | None = setting(
        None,
        ("Multiple-choice questions", "选择题"),
        (
            "Also score the questions of this file, or of every file of this directory, by how likely each letter is: "
            "the shape of C-Eval and CMMLU, with the columns question, A, B, C, D and answer.",
            "另外按各选项字母的概率给该文件（或该目录中每个文件）的选择题评分：格式与 C-Eval、CMMLU 相同，"
            "即含 question、A、B、C、D、answer 列。",
        ),
        group="evaluation",
        examples=(str(SAMPLE_CHOICES_FILE),),
        reads="data",
    )
    bias: str | None = setting(
        None,
        ("Attributes to compare", "要对比的属性"),
        (
            "Also compare texts that differ in a name, a pronoun or a region alone: a file of attributes and "
            "templates.",
            "另外比较只有姓名、代词或地区不同的文本：一个写有属性与模板的文件。",
        ),
        group="evaluation",
        examples=(str(SAMPLE_BIAS_FILE),),
        reads="data",
    )

    def check_validation(self) -> None:
        """Refuse what needs a validation that was not asked for.

        Raises:
            RunError: naming the flag that is missing.
        """
        if self.eval_steps and not self.validation_file and not self.validation_split:
            raise RunError(
                "--eval_steps needs --validation_file, or --validation_split 0.1; none was given.",
                "--eval_steps 需要同时给出 --validation_file，或 --validation_split 0.1。",
            )
        asked = {
            "load_best_model_at_end": self.load_best_model_at_end,
            "early_stopping_patience": self.early_stopping_patience,
            "eval_generate_samples": self.eval_generate_samples,
        }
        for flag, value in asked.items():
            if value and not self.eval_steps:
                raise RunError(
                    f"--{flag} needs --eval_steps and --validation_file: how often, and on what, shall be validated?",
                    f"--{flag} 需要同时给出 --eval_steps 和 --validation_file：多久验证一次、用什么数据？",
                )
        if self.metric_for_best_model != "loss" and not self.eval_generate_samples:
            raise RunError(
                f"--metric_for_best_model {self.metric_for_best_model} needs answers to score: "
                "add --eval_generate_samples 50, or use loss.",
                f"--metric_for_best_model {self.metric_for_best_model} 需要生成回答来评分："
                "请加上 --eval_generate_samples 50，或改用 loss。",
            )
