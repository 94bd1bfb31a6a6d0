"""A checkpoint as one file to take away. Knows which of its files make a prefix; optimizer states stay here."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

from chatglm2.prefix import CANDIDATE_FILES
from training.checkpoints import METADATA_FILE, CheckpointInfo

TAKEN_FILES = (*CANDIDATE_FILES, METADATA_FILE, "config.json")


def archive_name(info: CheckpointInfo) -> str:
    """What to call the file: run and step."""
    return f"{info.run_name}-{info.path.stem}.zip"


def write_archive(info: CheckpointInfo) -> Path:
    """Zips a checkpoint's prefix and its description into a new temporary file, which the caller deletes."""
    place = info.path
    files = [place] if place.is_file() else [place / name for name in TAKEN_FILES if (place / name).is_file()]
    descriptor, name = tempfile.mkstemp(suffix=".zip")
    # Weights do not compress; storing them is as small and much faster.
    with os.fdopen(descriptor, "wb") as target, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, f"{info.run_name}-{place.stem}/{file.name}")
    return Path(name)
