"""Prefixes: the key/value vectors that P-Tuning v2 learns, trainable (`PrefixEncoder`) and ready to use (`Prefix`).

Knows the layout of a prefix and of the files that hold one. Knows no attention, no training and no engine.

A row of the encoder's output holds, for one prefix token, ``[layer, (key, value), group, channel]`` flattened in that
order. Prefix keys are not rotated, and text positions start at 0 whatever the prefix's length.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from chatglm2.configuration import ChatGLMConfig
from chatglm2.errors import PrefixError
from chatglm2.model.prefix_files import CANDIDATE_FILES, LONGEST_PREFIX_TOKENS, PREFIX_FILE
from chatglm2.model.tensor_files import READING_ERRORS, ImplausibleFileError, open_tensors

TENSOR_NAMESPACE = "transformer.prefix_encoder."
PREFIX_DROPOUT = 0.1


class PrefixEncoder(nn.Module):
    """The trainable prefix: an embedding of ``[pre_seq_len, prefix_width]``, or one sent through a two-layer MLP.

    Parameters are fp32 whatever the model's dtype: at the usual rate of 2e-2, half precision loses small updates.
    """

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        if not config.pre_seq_len:
            raise ValueError("PrefixEncoder needs config.pre_seq_len > 0")
        width = config.prefix_width
        self.num_layers = config.num_layers
        self.num_groups = config.multi_query_group_num
        self.pre_seq_len = config.pre_seq_len
        self.embedding = nn.Embedding(config.pre_seq_len, width, dtype=torch.float32)
        self.trans: nn.Sequential | None = None
        if config.prefix_projection:
            self.trans = nn.Sequential(
                nn.Linear(width, config.hidden_size, dtype=torch.float32),
                nn.Tanh(),
                nn.Linear(config.hidden_size, width, dtype=torch.float32),
            )
        self.dropout = nn.Dropout(PREFIX_DROPOUT)

    def reset_parameters(self) -> None:
        """Draw the embedding from N(0, 1) and the projection from torch's default, as the original does."""
        self.embedding.reset_parameters()
        for module in self.trans or ():
            if isinstance(module, nn.Linear):
                module.reset_parameters()

    def key_values(self) -> Tensor:
        """The prefix without dropout: fp32 ``[layers, 2, pre_seq_len, groups, channels]``."""
        flat = self.embedding.weight if self.trans is None else self.trans(self.embedding.weight)
        return flat.view(self.pre_seq_len, self.num_layers, 2, self.num_groups, -1).permute(1, 2, 0, 3, 4)

    def forward(self, batch_size: int, dtype: torch.dtype) -> Tensor:
        """One prefix a row, each with its own dropout mask.

        Returns:
            ``[layers, 2, batch, groups, pre_seq_len, channels]`` in ``dtype``.
        """
        ready = self.key_values().to(dtype).transpose(2, 3)  # [layers, 2, groups, length, channels]
        return self.dropout(ready.unsqueeze(2).expand(-1, -1, batch_size, -1, -1, -1))


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prefix that is ready to be attended to.

    Attributes:
        key_values: ``[layers, 2, length, groups, channels]``, keys not rotated.
        origin: where it was read from, for people.
        projection: whether it was trained through the projection MLP.
    """

    key_values: Tensor
    origin: str = ""
    projection: bool = False

    @property
    def length(self) -> int:
        """Prefix tokens."""
        return self.key_values.shape[2]

    @cached_property
    def sha256(self) -> str:
        """Hash of the key/values in fp32: equal for equal prefixes, whatever file they came from."""
        values = self.key_values.detach().to("cpu", torch.float32).contiguous()
        return hashlib.sha256(values.numpy().tobytes()).hexdigest()

    @property
    def short_hash(self) -> str:
        """The first 8 hex digits of :attr:`sha256`."""
        return self.sha256[:8]

    @property
    def identity(self) -> str:
        """What tells it, at its strength, from any other: equal where all that it changes is equal."""
        return self.sha256

    @property
    def bias(self) -> Tensor | None:
        """What is added to the attention logits of its tokens, fp32 ``[length]``; None for nothing."""
        return None

    def at(self, strength: float) -> Prefix:
        """The same prefix at another strength: 0 is the base model, 1 as it was trained; see `blend_prefixes`.

        Raises:
            PrefixError: for a strength that is not from 0 to `chatglm2.model.blending.MAXIMUM_STRENGTH`.
        """
        from chatglm2.model.blending import blend_prefixes  # here, since a blend is a prefix

        return blend_prefixes([(self, strength)])


# Stands, where a prefix may be named, for the one inside the model, if it has one: `own_prefix` of the model.
OWN_PREFIX: Final = Prefix(torch.empty(0, 2, 0, 0, 0), origin="the model's own")


def load_prefix(path: str | Path, config: ChatGLMConfig) -> Prefix:
    """Read a prefix from a checkpoint directory or file; only the checkpoint is needed.

    Prefix length and projection are inferred from the tensors. Reads our ``prefix.safetensors``, the original's
    ``pytorch_model.bin`` and ``model.safetensors``.

    Raises:
        PrefixError: if there is no such file, it is damaged, holds no prefix, or does not fit ``config``.
    """
    file = find_prefix_file(Path(path))
    encoder = _read_encoder(file, config)
    with torch.no_grad():
        key_values = encoder.key_values().clone()
    if not torch.isfinite(key_values).all():
        raise PrefixError(
            f"{file} holds numbers that are not finite (NaN or infinity): the training run that wrote it has diverged. "
            "Choose an earlier checkpoint, or train again with a lower learning rate.",
            f"{file} 里有 NaN 或无穷大：写出它的那次训练已经发散。请改用更早的检查点，或调低学习率重新训练。",
        )
    return Prefix(key_values, origin=str(path), projection=encoder.trans is not None)


def load_prefix_state(path: str | Path, config: ChatGLMConfig) -> dict[str, Tensor]:
    """The state dict of the `PrefixEncoder` at ``path``, to go on training it; checked as `load_prefix` does."""
    return _read_encoder(find_prefix_file(Path(path)), config).state_dict()


def save_prefix(state: Mapping[str, Tensor], directory: str | Path) -> Path:
    """Write a `PrefixEncoder`'s state dict as ``prefix.safetensors``, under the original's tensor names."""
    file = Path(directory) / PREFIX_FILE
    tensors = {TENSOR_NAMESPACE + name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return file


def find_prefix_file(path: Path) -> Path:
    """The file that holds the prefix at ``path``, a checkpoint directory or the file itself.

    Raises:
        PrefixError: if there is none.
    """
    if path.is_file():
        return path
    if path.is_dir():
        for name in CANDIDATE_FILES:
            if (path / name).is_file():
                return path / name
        raise PrefixError(
            f"{path} is a directory without a prefix: expected one of {', '.join(CANDIDATE_FILES)}. "
            "Choose a checkpoint-N directory of a training run.",
            f"目录 {path} 里没有前缀文件：应有 {'、'.join(CANDIDATE_FILES)} 之一。请选择训练产生的 checkpoint-N 目录。",
        )
    raise PrefixError(
        f"There is nothing at {path}: expected a checkpoint-N directory or a prefix file. Check the path.",
        f"{path} 不存在：应为 checkpoint-N 目录或前缀文件。请检查路径。",
    )


def _read_encoder(file: Path, config: ChatGLMConfig) -> PrefixEncoder:
    """The encoder that the tensors in ``file`` make up, with the length and projection that they show."""
    state = prefix_tensors(file)
    with torch.device("meta"):
        encoder = PrefixEncoder(_inferred_config(state, config, file))
    needed = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != needed or not all(tensor.is_floating_point() for tensor in state.values()):
        names = ", ".join(sorted(state))
        raise _misfit(
            file,
            found=(f"tensors {names}", f"张量 {names}"),
            needed=("a complete prefix encoder", "完整的前缀编码器"),
        )
    # copy=True: a tensor left mapped would break when its file is replaced.
    copied = {name: tensor.to(dtype=torch.float32, copy=True) for name, tensor in state.items()}
    encoder.load_state_dict(copied, assign=True)
    return encoder


def prefix_tensors(file: Path) -> dict[str, Tensor]:
    """The prefix encoder's tensors in ``file``, named as in its state dict, and still mapped from disk.

    Raises:
        PrefixError: if it is damaged, claims more than it holds, or holds no prefix.
    """
    try:
        tensors = dict(open_tensors(file))
    except ImplausibleFileError as error:
        raise PrefixError(
            f"{file} is refused as a prefix checkpoint: {error.en}. Copy it again from where it was made, or choose "
            "another checkpoint.",
            f"拒绝读取前缀检查点 {file}：{error.zh}。请从来源处重新复制，或换一个检查点。",
        ) from error
    except READING_ERRORS as error:
        size = f"{file.stat().st_size:,}" if file.exists() else "?"
        raise PrefixError(
            f"{file} ({size} bytes) cannot be read as a prefix checkpoint; it is probably truncated or damaged. "
            f"Copy it again, or choose another checkpoint. ({type(error).__name__})",
            f"无法读取前缀检查点 {file}（{size} 字节），文件可能不完整或已损坏。"
            f"请重新复制，或换一个检查点。（{type(error).__name__}）",
        ) from error
    found = {name.split(TENSOR_NAMESPACE, 1)[1]: tensor for name, tensor in tensors.items() if TENSOR_NAMESPACE in name}
    if not found and "embedding.weight" in tensors:
        found = tensors
    if found.get("embedding.weight") is None or found["embedding.weight"].dim() != 2:
        names = ", ".join(name[:80] for name in sorted(tensors)[:3]) or "nothing"
        raise PrefixError(
            f"{file} holds no prefix: expected {TENSOR_NAMESPACE}embedding.weight, found {len(tensors)} tensors "
            f"({names} …). It may be a full model or another method's adapter; choose a P-Tuning v2 checkpoint.",
            f"{file} 里没有前缀：应有 {TENSOR_NAMESPACE}embedding.weight，实际有 {len(tensors)} 个张量（{names} …）。"
            "它可能是完整模型或其他方法的权重，请选择 P-Tuning v2 检查点。",
        )
    return found


def _inferred_config(state: dict[str, Tensor], config: ChatGLMConfig, file: Path) -> ChatGLMConfig:
    """``config`` with the prefix settings that the tensors show, after checking that they fit the model."""
    length, width = state["embedding.weight"].shape
    if length > LONGEST_PREFIX_TOKENS:
        raise PrefixError(
            f"The prefix in {file} has {length:,} tokens, at most {LONGEST_PREFIX_TOKENS:,} are read. "
            "Choose a shorter one.",
            f"{file} 里的前缀有 {length:,} 个 token，最多支持 {LONGEST_PREFIX_TOKENS:,} 个。请换一个更短的前缀。",
        )
    if length == 0 or width != config.prefix_width:
        sizes = (config.num_layers, config.multi_query_group_num, config.kv_channels)
        raise _misfit(
            file,
            found=(f"{width} values a prefix token, {length} tokens", f"每个前缀 token {width} 个数值、共 {length} 个"),
            needed=(
                "{} values a prefix token ({} layers × 2 × {} groups × {} channels)".format(
                    config.prefix_width, *sizes
                ),
                "每个前缀 token {} 个数值（{} 层 × 2 × {} 组 × {} 通道）".format(config.prefix_width, *sizes),
            ),
        )
    projection = "trans.0.weight" in state
    if projection and tuple(state["trans.0.weight"].shape) != (config.hidden_size, width):
        size = " × ".join(str(size) for size in state["trans.0.weight"].shape)
        raise _misfit(
            file,
            found=(f"a projection of {size}", f"投影层 {size}"),
            needed=(f"{config.hidden_size} × {width}",) * 2,
        )
    shape = copy.deepcopy(config)
    shape.pre_seq_len = length
    shape.prefix_projection = projection
    return shape


def _misfit(file: Path, *, found: tuple[str, str], needed: tuple[str, str]) -> PrefixError:
    """The error for a prefix of another shape; ``found`` and ``needed`` in English and Chinese."""
    return PrefixError(
        f"The prefix in {file} does not fit this model: expected {needed[0]}, found {found[0]}. "
        "It was trained on a model of another size; load that model, or choose another checkpoint.",
        f"{file} 里的前缀与当前模型不匹配：需要{needed[1]}，实际为{found[1]}。"
        "它是在另一种尺寸的模型上训练的；请加载对应的模型，或换一个检查点。",
    )


def stack_prefixes(
    prefix: Prefix | Sequence[Prefix | None], batch: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Prefixes of unlike lengths as one tensor, the short ones filled up with zeros that no query sees.

    Returns:
        ``[layers, 2, B, G, P, D]`` and which of it each row may see, a boolean ``[B, P]``; where a prefix has a
        strength, what its logits get instead, ``[B, P]`` in ``dtype``. The second is None if all rows may see all of
        it at strength 1, both are if no row has a prefix.
    """
    rows = [prefix] * batch if isinstance(prefix, Prefix) else list(prefix)
    if len(rows) == 0 or batch % len(rows):
        raise ValueError(f"expected one prefix a row ({batch}), found {len(rows)}")
    rows = [row for row in rows for _ in range(batch // len(rows))]  # beams of a row stand side by side
    longest = max((row.length for row in rows if row is not None), default=0)
    if longest == 0:
        return None, None
    shape = next(row.key_values.shape for row in rows if row is not None)
    stacked = torch.zeros(*shape[:2], batch, shape[3], longest, shape[4], device=device, dtype=dtype)
    seen = torch.zeros(batch, longest, dtype=torch.bool, device=device)
    for index, row in enumerate(rows):
        if row is not None:
            stacked[:, :, index, :, : row.length] = row.key_values.transpose(2, 3).to(device, dtype)
            seen[index, : row.length] = True
    if all(row is None or row.bias is None for row in rows):
        return stacked, None if bool(seen.all()) else seen
    bias = torch.zeros(batch, longest, device=device, dtype=dtype).masked_fill_(~seen, -math.inf)
    for index, row in enumerate(rows):
        if row is not None and row.bias is not None:
            bias[index, : row.length] = row.bias
    return stacked, bias
