"""transformers' training flags that are not settings of ours: handed on, said in our words, or without meaning here.

Knows the names that transformers 4.30, which the original used, and 5 have, without importing it: a command line should
answer at once. A test compares them with the installed transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatglm2.errors import RunError

# Handed on to TrainingArguments as they are, with what their values are.
PASSED_FLAGS: dict[str, str] = {
    **dict.fromkeys(("optim", "optim_args", "optim_target_modules"), "str"),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing_factor"), "float"),
    **dict.fromkeys(("lr_scheduler_kwargs", "fsdp_config"), "json"),
    **dict.fromkeys(("tf32", "torch_compile", "full_determinism", "save_only_model", "ignore_data_skip"), "bool"),
    **dict.fromkeys(("torch_compile_backend", "torch_compile_mode"), "str"),
    **dict.fromkeys(("neftune_noise_alpha", "eval_delay", "ddp_timeout"), "float"),
    **dict.fromkeys(("torch_empty_cache_steps", "dataloader_num_workers", "dataloader_prefetch_factor"), "int"),
    **dict.fromkeys(("dataloader_drop_last", "dataloader_pin_memory", "dataloader_persistent_workers"), "bool"),
    **dict.fromkeys(("dataloader_in_order", "ddp_static_graph", "eval_on_start"), "bool"),
    "dataloader_multiprocessing_context": "str",
    "ddp_bucket_cap_mb": "int",
    "warmup_ratio": "float",
}
# How transformers 5 says what 4.30 said.
SUCCESSORS = {"warmup_ratio": "warmup_steps"}
# AdamW under the name that 4.30 had for its own; torch's is the default now.
FORMER_OPTIMIZERS = {"adamw_hf": "adamw_torch"}
FORMER_OPTIMIZER_NOTE = (
    "--optim adamw_hf: transformers no longer has it; torch's AdamW is used, which decays before the step and corrects "
    "epsilon too.",
    "--optim adamw_hf：transformers 已移除它，改用 torch 的 AdamW（先衰减再更新，且对 epsilon 也作修正）。",
)
# Other names for the same.
RENAMED_FLAGS = {
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "activation_checkpointing": "gradient_checkpointing",
    "dataloader_workers": "dataloader_num_workers",
}
_OURS = ("a run keeps its own curve and checkpoints", "训练会自行记录曲线和检查点")
_BY_STEPS = (
    "--eval_steps, --save_steps and --logging_steps decide",
    "由 --eval_steps、--save_steps、--logging_steps 决定",
)
_ORDER = ("--group_by_length and --seed decide", "由 --group_by_length 和 --seed 决定")
_PROCESSES = ("torchrun decides", "由 torchrun 决定")
_NOT_HERE = ("it has no meaning here", "在这里没有意义")
WITHOUT_EFFECT: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            *("report_to", "logging_dir", "run_name", "project", "trackio_space_id", "trackio_bucket_id"),
            *("trackio_static_space_id", "log_level", "log_level_replica", "log_on_each_node", "disable_tqdm"),
            *("logging_first_step", "logging_nan_inf_filter", "include_num_input_tokens_seen", "save_safetensors"),
            *("include_tokens_per_second", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id"),
            *("hub_strategy", "hub_always_push", "hub_revision", "save_on_each_node", "enable_jit_checkpoint"),
            *("push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token"),
            *("restore_callback_states_from_checkpoint", "skip_memory_metrics", "debug"),
        ),
        _OURS,
    ),
    **dict.fromkeys(("save_strategy", "logging_strategy", "evaluation_strategy", "eval_strategy"), _BY_STEPS),
    **dict.fromkeys(("length_column_name", "train_sampling_strategy", "data_seed"), _ORDER),
    **dict.fromkeys(
        (
            *("local_rank", "ddp_backend", "ddp_find_unused_parameters", "ddp_broadcast_buffers", "xpu_backend"),
            *("average_tokens_across_devices", "accelerator_config", "parallelism_config", "sharded_ddp"),
            *("fsdp_min_num_params", "fsdp_transformer_layer_cls_to_wrap", "dispatch_batches", "split_batches"),
        ),
        _PROCESSES,
    ),
    **dict.fromkeys(
        (
            *("auto_find_batch_size", "past_index", "greater_is_better", "label_names", "remove_unused_columns"),
            *("prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps"),
            *("include_for_metrics", "include_inputs_for_metrics", "batch_eval_metrics", "use_cache"),
            *("use_liger_kernel", "liger_kernel_config", "gradient_checkpointing_kwargs", "use_ipex", "jit_mode_eval"),
            *("activation_checkpointing_kwargs", "half_precision_backend", "fp16_backend", "fp16_opt_level"),
            *("use_mps_device", "torchdynamo", "tpu_num_cores", "tpu_metrics_debug", "ray_scope", "mp_parameters"),
            *("sortish_sampler", "generation_config"),
        ),
        _NOT_HERE,
    ),
}


def read_passed(name: str, value: str | None) -> dict[str, Any]:
    """TrainingArguments' values for a flag of `PASSED_FLAGS`; a flag without a value means true.

    Raises:
        RunError: for a value that the flag does not take.
    """
    kind = PASSED_FLAGS[name]
    try:
        if kind == "bool":
            return {name: {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[_low(value)]}
        assert value is not None
        if kind == "json":
            return {name: _read_json(value)}
        parsed: Any = {"int": int, "float": float, "str": str}[kind](value)
        return {SUCCESSORS.get(name, name): FORMER_OPTIMIZERS.get(parsed, parsed)}
    except (ValueError, KeyError, AssertionError, OSError):
        raise RunError(
            f"--{name} takes {_KINDS[kind][0]}; found {value!r}.", f"--{name} 应为{_KINDS[kind][1]}，实际为 {value!r}。"
        ) from None


_KINDS = {
    "int": ("a whole number", "整数"),
    "float": ("a number", "数字"),
    "bool": ("true or false", " true 或 false"),
    "str": ("text", "文本"),
    "json": ("a JSON file or a JSON object", " JSON 文件或 JSON 对象"),
}


def _low(value: str | None) -> str:
    return "true" if value is None else value.lower()


def _read_json(value: str) -> Mapping[str, Any]:
    text = value if value.lstrip().startswith("{") else Path(value).expanduser().read_text(encoding="utf-8")
    content = json.loads(text)
    assert isinstance(content, dict)
    return content
