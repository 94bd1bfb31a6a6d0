"""What is handed on of a prefix, and what is taken from others: its tensors, what they are, and its card.

Knows which files those are and how large they may be, and lets no path of this machine out. A base model's weights
stay where they are: a file that holds more than a prefix is written without the rest, and refused where it comes from
others.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatglm2.errors import PrefixError
from chatglm2.model.prefix_files import CANDIDATE_FILES, LONGEST_PREFIX_TOKENS
from training.library.base import base_name
from training.library.card import CARD_FILE, LARGEST_CARD_BYTES, Card, CardError, read_card
from training.runs.checkpoints import METADATA_FILE, STRENGTH_FILE, CheckpointInfo, read_checkpoint
from training.runs.storage import SMALL_FILE_BYTES, explaining_storage_errors, read_json

ORIGINAL_CONFIG = "config.json"
DESCRIPTIONS = (METADATA_FILE, ORIGINAL_CONFIG, STRENGTH_FILE)
# The largest that a prefix of ChatGLM2-6B can be, with its projection, is half of it.
LARGEST_WEIGHTS_BYTES = 2**30
# Every file of a prefix, and its largest size. A name that is not here stays where it is.
LIMITS: Mapping[str, int] = {
    **dict.fromkeys(CANDIDATE_FILES, LARGEST_WEIGHTS_BYTES),
    **dict.fromkeys(DESCRIPTIONS, SMALL_FILE_BYTES),
    CARD_FILE: LARGEST_CARD_BYTES,
}
LONGEST_SHOWN = 300
PROJECTION = {f"trans.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")}
FULL_PATH = re.compile(r"[/\\~]|[A-Za-z]:[/\\]")


def current_card(info: CheckpointInfo) -> Card:
    """The card of a prefix with the facts as they are now; a prefix without one gets the facts alone.

    A card that cannot be read is passed over.
    """
    from training.library.facts import gather_facts  # reads what evaluations leave, which loads torch

    try:
        card = read_card(info.path) or Card()
    except CardError:
        card = Card()
    return card.model_copy(update={"facts": gather_facts(info, card.facts)})


def write_bundle(info: CheckpointInfo, directory: Path) -> None:
    """Write a prefix's files into ``directory``, which exists.

    Raises:
        PrefixError: the checkpoint holds no prefix that can be read.
        RunError: the directory cannot be written.
    """
    from chatglm2.model.prefix import find_prefix_file, prefix_tensors, save_prefix

    file = find_prefix_file(info.path)
    with explaining_storage_errors(directory):
        if file.name in CANDIDATE_FILES and holds_prefix_alone(file):
            shutil.copyfile(file, directory / file.name)
        else:
            save_prefix({name: tensor.float() for name, tensor in prefix_tensors(file).items()}, directory)
        if info.path.is_dir():
            for name in DESCRIPTIONS:
                _copy_description(info.path / name, directory / name)
        (directory / CARD_FILE).write_text(current_card(info).to_markdown(), encoding="utf-8")


def holds_prefix_alone(file: Path) -> bool:
    """Whether all of a file's tensors are a prefix's.

    Raises:
        PrefixError: it is damaged, or holds no prefix.
    """
    from chatglm2.model.prefix import prefix_tensors
    from chatglm2.model.tensor_files import open_tensors

    return len(prefix_tensors(file)) == sum(1 for _ in open_tensors(file))


def check_bundle(directory: Path) -> Path:
    """Look at files that came from elsewhere, before they are offered to anybody; returns the one with the tensors.

    Raises:
        PrefixError: there is no prefix, a file is too large or of a kind that does not belong there, or the tensors are
            no prefix's, too many, or no numbers.
    """
    import torch

    from chatglm2.model.prefix import find_prefix_file, prefix_tensors

    for item in directory.iterdir():
        if item.name not in LIMITS or item.is_symlink() or not item.is_file():
            raise PrefixError(
                f"{item.name[:80]} does not belong to a prefix: expected {', '.join(LIMITS)}.",
                f"{item.name[:80]} 不属于前缀：应为 {'、'.join(LIMITS)}。",
            )
        require_size(item.name, item.stat().st_size)
    file = find_prefix_file(directory)
    tensors = prefix_tensors(file)
    if not holds_prefix_alone(file) or tensors.keys() - {"embedding.weight"} not in (set(), PROJECTION):
        raise PrefixError(
            f"{file.name} holds other tensors than a prefix's: it is a model, or damaged. Take the prefix alone.",
            f"{file.name} 中除前缀外还有其他张量：它可能是完整模型，或已损坏。请只取前缀文件。",
        )
    length = tensors["embedding.weight"].shape[0]
    if not 0 < length <= LONGEST_PREFIX_TOKENS:
        raise PrefixError(
            f"The prefix has {length:,} tokens; from 1 to {LONGEST_PREFIX_TOKENS:,} can be read.",
            f"该前缀有 {length:,} 个 token，只能读取 1 到 {LONGEST_PREFIX_TOKENS:,} 个的前缀。",
        )
    if not all(tensor.is_floating_point() and bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise PrefixError(
            f"{file.name} holds numbers that are not finite (NaN or infinity): its training has diverged.",
            f"{file.name} 里有 NaN 或无穷大：训练已经发散。",
        )
    _require_short_names(directory)
    return file


def _require_short_names(directory: Path) -> None:
    """What a prefix says of itself is shown in lists."""
    info = read_checkpoint(directory)
    for text in (info.run_name, info.base_model, str(info.settings.get("train_file") or "")):
        if len(text) > LONGEST_SHOWN:
            raise PrefixError(
                f"{METADATA_FILE} has a name of {len(text):,} characters ({text[:40]}…); at most {LONGEST_SHOWN} are "
                "read.",
                f"{METADATA_FILE} 中有一个长达 {len(text):,} 个字符的名称（{text[:40]}…），"
                f"最多读取 {LONGEST_SHOWN} 个。",
            )


def require_size(name: str, size_bytes: int) -> None:
    """Refuse a file of a prefix that is larger than such a file can be.

    Raises:
        PrefixError: it is.
    """
    limit = LIMITS[name]
    if size_bytes > limit:
        raise PrefixError(
            f"{name} has {size_bytes:,} bytes; at most {limit:,} belong to a prefix. Is it a whole model?",
            f"{name} 有 {size_bytes:,} 字节，前缀的该文件不超过 {limit:,} 字节。它是完整模型吗？",
        )


def _copy_description(source: Path, target: Path) -> None:
    """A file of JSON without paths of this machine; one that is not there, or is no JSON, is left out."""
    try:
        content = read_json(source)
    except (OSError, ValueError):
        return
    if isinstance(content, dict) and isinstance(content.get("base_model"), str):
        content["base_model"] = base_name(content["base_model"])
    target.write_text(json.dumps(_without_places(content), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _without_places(content: Any) -> Any:
    """JSON with the last part of each path in place of it."""
    if isinstance(content, dict):
        return {name: _without_places(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_without_places(value) for value in content]
    if isinstance(content, str) and FULL_PATH.match(content):
        return re.split(r"[/\\]", content.rstrip("/\\"))[-1]
    return content
