"""Which base model a prefix belongs to: its name for others, and a fingerprint of its weights.

Knows where a model's weights lie on this machine, and asks no hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from chatglm2.checkpoints.hub_clients import CLIENTS
from chatglm2.files import open_regular
from training.library.card import HUB_ID, Facts

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
SAMPLE_BYTES = 64 * 2**10
SAMPLES = 64


def base_name(model: str) -> str:
    """What others may know of a base model's place: its hub id, or the last part of its path.

    ``model`` is what a run was given: a directory or a hub id. A folder in the hub's cache has its id in its name.
    """
    if HUB_ID.fullmatch(model) and not Path(model).exists():
        return model
    for part in Path(model).parts:
        if part.startswith("models--") and part.count("--") == 2:
            return "/".join(part.split("--")[1:])
    return Path(model).name


def base_fingerprint(model: str) -> str:
    """SHA-256 over a base model's weight files: of each its name, its size, and 64 samples of 64 KiB over its length.

    Takes some milliseconds a file, however large it is. "" where the weights are not on this machine.
    """
    directory = find_base(model)
    if directory is None:
        return ""
    total = hashlib.sha256()
    try:
        for file in sorted({file for pattern in WEIGHTS for file in directory.glob(pattern)}):
            size = file.stat().st_size
            total.update(f"{file.name} {size}\n".encode())
            for sample in _samples(file, size):
                total.update(sample)
    except OSError:  # it goes away meanwhile, or may not be read
        return ""
    return total.hexdigest()


def note_on_base(facts: Facts, served: str) -> tuple[str, str] | None:
    """A sentence where a card says that its prefix was trained on other weights than those that it is used with.

    ``served`` is their `base_fingerprint`; "" is no reason to say anything.
    """
    if "" in (served, facts.base_fingerprint) or served == facts.base_fingerprint:
        return None
    return (
        f"Trained on other weights ({facts.base_model or '?'}) than those that are served here, so that it may act "
        "otherwise.",
        f"它是在另一份权重（{facts.base_model or '?'}）上训练的，与这里使用的模型不同，效果可能不一致。",
    )


def find_base(model: str) -> Path | None:
    """The directory with a base model's weights: the one named, or what was downloaded of a hub id."""
    place = Path(model)
    found = place if place.is_dir() else None
    if found is None and HUB_ID.fullmatch(model):
        found = next((cached for hub in CLIENTS.values() if (cached := hub().find_cached(model, None))), None)
    has_weights = found is not None and any(any(found.glob(pattern)) for pattern in WEIGHTS)
    return found if has_weights else None


def _samples(file: Path, size: int) -> Iterator[bytes]:
    """From the first bytes to the last, at equal distances; all of a small file."""
    last = max(size - SAMPLE_BYTES, 0)
    with open_regular(file) as opened:
        for offset in sorted({last * number // (SAMPLES - 1) for number in range(SAMPLES)}):
            opened.seek(offset)
            yield opened.read(SAMPLE_BYTES)
