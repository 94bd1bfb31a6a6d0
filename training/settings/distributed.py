"""The settings of training in several processes, and what is handed on to transformers; `train.py` has the others.

Knows what a value may be; shares nothing out.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic.dataclasses import dataclass

from chatglm2.errors import RunError
from training.settings.field import CHECKS, Settings, setting

FSDP_WORDS = ("full_shard", "shard_grad_op", "offload", "auto_wrap")


@dataclass(frozen=True, config=CHECKS)
class DistributedSettings(Settings):
    """How all weights are shared among processes, and transformers' own arguments."""

    fsdp: str | None = setting(
        None,
        ("FSDP", "FSDP"),
        (
            "Share all weights among torchrun's processes: full_shard or shard_grad_op; offload: they stay on the CPU.",
            "由 torchrun 的各进程分摊全部权重：full_shard 或 shard_grad_op；offload 将其存放在 CPU。",
        ),
        group="distributed",
    )
    deepspeed: str | None = setting(
        None,
        ("DeepSpeed", "DeepSpeed"),
        (
            "Share all weights by DeepSpeed's ZeRO: its JSON file, such as training/scripts/deepspeed.json.",
            "用 DeepSpeed 的 ZeRO 分摊全部权重：其 JSON 文件，例如 training/scripts/deepspeed.json。",
        ),
        group="distributed",
        reads="data",
    )
    extra_arguments: str | None = setting(
        None,
        ("transformers' arguments", "transformers 参数"),
        (
            "What else to hand to TrainingArguments, as JSON; flags such as --adam_beta2 0.98 are put here.",
            "传给 TrainingArguments 的其他参数（JSON）；--adam_beta2 0.98 等参数会放在这里。",
        ),
        group="distributed",
    )

    def extra(self) -> dict[str, Any]:
        """transformers' arguments by name."""
        if not self.extra_arguments:
            return {}
        try:
            found = json.loads(self.extra_arguments)
            assert isinstance(found, dict)
        except (ValueError, AssertionError):
            raise RunError(
                f'--extra_arguments must be a JSON object such as {{"adam_beta2": 0.98}}; '
                f"found {self.extra_arguments!r}.",
                f'--extra_arguments 应为 JSON 对象，例如 {{"adam_beta2": 0.98}}，实际为 {self.extra_arguments!r}。',
            ) from None
        return found

    def fsdp_words(self) -> list[str]:
        """What ``--fsdp`` says, word by word."""
        words = (self.fsdp or "").replace(",", " ").split()
        for word in words:
            if word not in FSDP_WORDS:
                raise RunError(
                    f"--fsdp takes words among {', '.join(FSDP_WORDS)}; found {word!r}.",
                    f"--fsdp 可用的词为 {'、'.join(FSDP_WORDS)}，实际为 {word!r}。",
                )
        return words
