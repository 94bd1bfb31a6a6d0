"""Exports of a checkpoint's prefix, or of a base model, for other programs.

Knows where a checkpoint's base model is, and how an export comes to its place whole. What the files hold is
`chatglm2.checkpoints.export`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from chatglm2.checkpoints import export as formats
from chatglm2.checkpoints.hub import CHECKPOINT_FILES, Hub, resolve_model_directory
from chatglm2.checkpoints.loading import LoadProgress, read_config
from chatglm2.configuration import ChatGLMConfig
from chatglm2.errors import CheckpointError, RunError
from chatglm2.model.blending import average_prefixes, blend_prefixes, flat_state
from chatglm2.model.prefix import Prefix, load_prefix, save_prefix
from training.runs.checkpoints import CheckpointInfo, find_checkpoints
from training.runs.storage import (
    explaining_storage_errors,
    library_storage_error,
    publish_directory,
    workspace_for,
)

FORMATS = ("original", "peft", "glm")


@dataclass(frozen=True)
class ExportRequest:
    """What to export, as what, and where to.

    Attributes:
        source: a checkpoint, a run (its last checkpoint is meant) or a peft adapter; for ``glm`` the base model.
        format: one of `FORMATS`.
        output: a directory that is not there yet, or is empty.
        base_model: directory or hub id of the base; if None, what the checkpoint names.
        hub: where a hub id is looked for.
        beside: checkpoints whose prefixes are put behind the source's, as one longer prefix.
        averaged: checkpoints whose prefixes are averaged with the source's, token by token.
        fallback_base: the base if ``base_model`` is None and what the checkpoint names, if anything, is not found.
    """

    source: str
    format: str
    output: Path
    base_model: str | None = None
    hub: Hub = "huggingface"
    beside: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()
    fallback_base: str | None = None


def export(request: ExportRequest, progress: Callable[[LoadProgress], None] | None = None) -> Path:
    """Write the export, which appears complete or not at all; returns what was exported.

    ``progress`` is told how far the weights of a base model are.

    Raises:
        ChatGLMError: if the source cannot be read, does not fit its base, or the output cannot be written.
    """
    output = request.output.expanduser().resolve()
    with explaining_storage_errors(output):
        _require_empty(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        with workspace_for(output) as workspace:
            staged, scratch = workspace / "staged", workspace / "scratch"
            for directory in (staged, scratch):
                directory.mkdir()
            try:
                source = _write(request, staged, scratch, progress)
                publish_directory(staged, output)
            except (SafetensorError, RuntimeError) as error:  # how torch and safetensors report a full disk
                raise library_storage_error(output, error) from error
    return source


def _write(
    request: ExportRequest, staged: Path, scratch: Path, progress: Callable[[LoadProgress], None] | None
) -> Path:
    if request.format == "glm":
        source = _resolve(request.source, request.hub)
        formats.export_glm(source, staged, progress)
        return source
    place = Path(request.source).expanduser()
    info = None if (place / formats.PEFT_CONFIG_FILE).is_file() else find_checkpoints(place)[-1]
    source = place if info is None else info.path
    base = _find_base(request, info)
    given = _combine(request, source, base, scratch) if request.beside or request.averaged else source
    if request.format == "peft":
        formats.export_peft(given, base, staged)
    else:
        bits = info.settings.get("quantization_bit") if info is not None else None
        formats.export_original(given, base, staged, quantization_bit=int(bits or 0))
    return source


def _combine(request: ExportRequest, source: Path, base: Path, scratch: Path) -> Path:
    """A prefix file in ``scratch`` that the source's and the others' prefixes make up."""
    config = read_config(base)
    prefix = load_prefix(source, config)
    if request.averaged:
        prefix = average_prefixes([prefix, *(_load_last(place, config) for place in request.averaged)])
    if request.beside:
        prefix = blend_prefixes(
            [(one, 1) for one in (prefix, *(_load_last(place, config) for place in request.beside))]
        )
    return save_prefix(flat_state(prefix), scratch)


def _load_last(place: str, config: ChatGLMConfig) -> Prefix:
    return load_prefix(find_checkpoints(Path(place).expanduser())[-1].path, config)


def _find_base(request: ExportRequest, info: CheckpointInfo | None) -> Path:
    """The directory with the base's config.json: as asked for, the prefix's own, or what the checkpoint names."""
    if request.base_model is not None:
        return _resolve(request.base_model, request.hub, "config.json")
    if info is not None:
        directory = info.path if info.path.is_dir() else info.path.parent
        if (directory / "config.json").is_file():
            return directory
    named = info.base_model if info is not None else ""
    try:
        return _resolve(named, request.hub, "config.json")
    except CheckpointError as error:
        if request.fallback_base is not None:
            return _resolve(request.fallback_base, request.hub, "config.json")
        raise RunError(
            f"The base model of {request.source} is needed, and "
            + (f"{named}, which the checkpoint names, was not found" if named else "its files do not name it")
            + ". Name its directory or hub id with --base-model.",
            f"导出 {request.source} 需要它的基座模型，但"
            + (f"没有找到检查点中记录的 {named}" if named else "文件中没有记录")
            + "。请用 --base-model 指定其目录或模型编号。",
        ) from error


def _resolve(path_or_id: str, hub: Hub, *files: str) -> Path:
    return resolve_model_directory(path_or_id, hub=hub, files=files or CHECKPOINT_FILES)


def _require_empty(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise RunError(
            f"--output {output} is there already, and is not replaced. Name a new directory.",
            f"--output {output} 已存在，不会覆盖它。请指定新目录。",
        )
