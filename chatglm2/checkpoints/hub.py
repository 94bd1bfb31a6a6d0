"""Finding a checkpoint: a local directory, or a hub id that is downloaded once and then used offline.

Knows which files a checkpoint needs, that ChatGLM2-6B has several names, and how to tell a user why a download failed.
Knows neither what is inside the files nor how a hub is asked (``hub_clients.py``). Never fetches code: no ``.py``.
"""

from __future__ import annotations

import errno
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import shorten
from typing import Literal

from chatglm2.checkpoints.hub_clients import CLIENTS, Hub, HubClient
from chatglm2.errors import CheckpointError, HubError

__all__ = [
    "CHECKPOINT_FILES",
    "HUB_TITLES",
    "TOKENIZER_FILES",
    "DeliveryError",
    "DownloadProgress",
    "Hub",
    "ProgressCallback",
    "hub_failures",
    "resolve_model_directory",
]

TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json")
CHECKPOINT_FILES = ("config.json", *TOKENIZER_FILES, "*.index.json", "*.safetensors", "pytorch_model*.bin")

HUB_TITLES = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}
# One publisher, several names. On each hub, the names to try, best first.
_PUBLISHER_NAMES = {"huggingface": ("zai-org", "THUDM"), "modelscope": ("ZhipuAI",)}
_PUBLISHERS = frozenset({"THUDM", "zai-org", "ZhipuAI"})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.(?:safetensors|bin)$")


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is, over all of its files."""

    repository: str
    received_bytes: int
    total_bytes: int


ProgressCallback = Callable[[DownloadProgress], None]


def resolve_model_directory(
    path_or_id: str | Path,
    *,
    hub: Hub = "huggingface",
    revision: str | None = None,
    files: Sequence[str] = CHECKPOINT_FILES,
    progress: ProgressCallback | None = None,
) -> Path:
    """The directory that holds the checkpoint, downloaded first if ``path_or_id`` is a hub id.

    A snapshot that is complete in the hub's local cache is used as it is, without asking the hub. A cut transfer is
    resumed; after a download that failed, the next call fetches only the files that are not there yet.

    Args:
        path_or_id: a directory, or ``owner/name`` on the hub.
        hub: where a hub id is looked for.
        revision: branch, tag or commit; the hub's default branch if not given.
        files: patterns of the files that are needed, such as ``TOKENIZER_FILES``.
        progress: called from the download's threads, never from two at a time.

    Raises:
        CheckpointError: ``path_or_id`` is neither a directory nor a hub id.
        HubError: the hub cannot be reached, does not have the checkpoint, or the download failed.
    """
    text = str(path_or_id)
    directory = Path(text).expanduser()
    if text and directory.is_dir():
        return directory
    if not _is_hub_id(text):
        raise _not_a_checkpoint(text, directory)

    client = CLIENTS[hub]()
    names = _names_on(hub, text)
    for name in names:
        cached = client.find_cached(name, revision)
        if cached is not None and _is_complete(cached, files):
            return cached
    missing: DeliveryError | None = None
    for name in names:
        try:
            return _download(client, name, revision, files, progress)
        except DeliveryError as failure:
            if failure.reason != "missing":
                raise _hub_error(failure, text, hub, revision) from failure.__cause__
            missing = missing or failure
    assert missing is not None  # names is never empty
    raise _hub_error(missing, text, hub, revision) from missing.__cause__


def _is_hub_id(text: str) -> bool:
    """Whether ``text`` can name a hub repository, and is not more likely a mistyped path."""
    if not _HUB_ID.fullmatch(text):
        return False
    owner = text.partition("/")[0]
    return owner in _PUBLISHERS or not Path(owner).is_dir()


def _not_a_checkpoint(text: str, directory: Path) -> CheckpointError:
    if text and directory.exists():
        return CheckpointError(
            f"'{text}' is a file; a checkpoint is a directory with config.json, tokenizer.model and the weights. "
            "Give the directory that holds it.",
            f"“{text}”是一个文件；模型应是一个目录，内有 config.json、tokenizer.model 和权重文件。请填写它所在的目录。",
        )
    return CheckpointError(
        f"There is no directory '{text}'. Check the path, or give a hub id of the form owner/name, "
        "such as THUDM/chatglm2-6b.",
        f"找不到目录“{text}”。请检查路径，或填写“所有者/名称”形式的模型编号，例如 THUDM/chatglm2-6b。",
    )


def _names_on(hub: Hub, repository: str) -> list[str]:
    """The names under which ``repository`` may be found on ``hub``, the given one first if it exists there."""
    owner, _, name = repository.partition("/")
    if owner not in _PUBLISHERS:
        return [repository]
    owners = _PUBLISHER_NAMES[hub]
    if owner in owners:
        owners = (owner, *(other for other in owners if other != owner))
    return [f"{other}/{name}" for other in owners]


def _select(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The top-level files among ``names`` that ``patterns`` ask for: no code, and the weights once.

    A repository that holds its weights twice is common; safetensors is the one that loads faster and safer.
    """
    chosen = [
        name
        for name in names
        if "/" not in name and not name.endswith(".py") and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if any(name.endswith(".safetensors") for name in chosen):
        chosen = [name for name in chosen if not name.startswith("pytorch_model")]
    return chosen


def _is_complete(directory: Path, patterns: Sequence[str]) -> bool:
    """Whether a cached snapshot has every file that matters among ``patterns``, such as each numbered shard."""
    names = [path.name for path in directory.iterdir() if path.is_file()]
    chosen = _select(names, patterns)
    required = {"config.json", "tokenizer.model"} & set(patterns)
    if not required <= set(chosen):
        return False
    if not any(fnmatchcase("model.safetensors", pattern) for pattern in patterns):
        return True
    weights = [name for name in chosen if name.endswith((".safetensors", ".bin"))]
    shard_counts = [int(match[1]) for name in weights if (match := _SHARD.search(name))]
    if shard_counts and not any(name.endswith(".index.json") for name in chosen):
        return False
    return bool(weights) and len(weights) >= max(shard_counts, default=1)


# --- downloading -----------------------------------------------------------------------------------------------------

_Reason = Literal["missing", "gated", "unreachable", "interrupted", "disk", "empty"]


class DeliveryError(Exception):
    """Why a hub did not deliver, before it is put into a sentence."""

    def __init__(self, reason: _Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class _Meter:
    """Adds up the bytes that several download threads report."""

    def __init__(self, repository: str, total_bytes: int, callback: ProgressCallback | None) -> None:
        self._repository = repository
        self._total_bytes = total_bytes
        self._callback = callback
        self._received_bytes = 0
        self._lock = threading.Lock()

    def add(self, byte_count: int) -> None:
        with self._lock:
            self._received_bytes += byte_count
            if self._callback is not None:
                received = min(self._received_bytes, self._total_bytes)
                self._callback(DownloadProgress(self._repository, received, self._total_bytes))


def _download(
    client: HubClient, repository: str, revision: str | None, patterns: Sequence[str], progress: ProgressCallback | None
) -> Path:
    with hub_failures(client, "unreachable"):
        sizes = client.list_files(repository, revision)
    names = _select(list(sizes), patterns)
    if not names:
        raise DeliveryError("empty", ", ".join(sorted(sizes)[:8]))
    total_bytes = sum(sizes[name] for name in names)
    _check_disk_space(client.cache_directory(repository), total_bytes)

    meter = _Meter(repository, total_bytes, progress)
    snapshot = client.find_cached(repository, revision)
    meter.add(sum(sizes[name] for name in names if snapshot is not None and (snapshot / name).is_file()))
    with hub_failures(client, "interrupted"):
        return client.fetch(repository, revision, names, meter.add)


def _check_disk_space(cache: Path, total_bytes: int) -> None:
    """Refuse before the first byte rather than after ten gigabytes."""
    present_bytes = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file() and not path.is_symlink())
    existing = next(parent for parent in (cache, *cache.parents) if parent.exists())
    free_bytes = shutil.disk_usage(existing).free
    missing_bytes = max(0, total_bytes - present_bytes)
    if free_bytes < missing_bytes:
        raise DeliveryError("disk", f"{existing}: {missing_bytes / 1e9:.1f} GB needed, {free_bytes / 1e9:.1f} GB free")


@contextmanager
def hub_failures(client: HubClient, otherwise: _Reason) -> Iterator[None]:
    """Turns what a hub's client raises into a `DeliveryError`; ``otherwise`` is its reason where none is named."""
    try:
        yield
    except client.errors() as error:
        chain = list(_causes(error))
        refusal = next((refusal for cause in chain if (refusal := client.refusal(cause))), None)
        reason: _Reason = "disk" if any(map(_is_disk_error, chain)) else refusal or otherwise
        detail = str(error).strip() or type(error).__name__
        raise DeliveryError(reason, shorten(detail.splitlines()[0], 160, placeholder="…")) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """``error`` and everything that led to it; ModelScope wraps one error a file."""
    while error is not None:
        yield error
        yield from getattr(error, "failed_files", {}).values()
        error = error.__cause__ or error.__context__


def _is_disk_error(error: BaseException) -> bool:
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
    return (isinstance(error, OSError) and error.errno in numbers) or "No space left" in str(error)


def _hub_error(failure: DeliveryError, repository: str, hub: Hub, revision: str | None) -> HubError:
    what = f"{repository}@{revision}" if revision else repository
    found_en, found_zh = _found(failure, what, HUB_TITLES[hub])
    remedy_en, remedy_zh = _REMEDIES.get(failure.reason, _OTHER_SOURCES[hub])
    return HubError(f"{found_en} {remedy_en}", f"{found_zh}{remedy_zh}")


def _found(failure: DeliveryError, what: str, hub: str) -> tuple[str, str]:
    sentences = {
        "missing": (f"{hub} has no '{what}', or it is private", f"{hub} 上没有“{what}”，或者它未公开"),
        "gated": (f"{hub} does not give '{what}' to this account", f"当前账号无权从 {hub} 下载“{what}”"),
        "empty": (
            f"'{what}' on {hub} has none of the files of a ChatGLM2 checkpoint",
            f"{hub} 上的“{what}”不含 ChatGLM2 模型文件",
        ),
        "unreachable": (f"{hub} could not be reached for '{what}'", f"无法连接 {hub} 获取“{what}”"),
        "interrupted": (f"The download of '{what}' from {hub} broke off", f"从 {hub} 下载“{what}”时中断"),
        "disk": (f"'{what}' could not be written to the cache", f"无法将“{what}”写入缓存目录"),
    }
    en, zh = sentences[failure.reason]
    return f"{en} ({failure.detail}).", f"{zh}（{failure.detail}）。"


_OTHER_SOURCES = {
    "huggingface": (
        "If you have the files, point at their directory with --model DIR; otherwise try --hub modelscope, or a mirror "
        "with HF_ENDPOINT=https://….",
        "如果已有模型文件，请用 --model 目录 指定；也可以改用 --hub modelscope，或设置镜像 HF_ENDPOINT=https://…。",
    ),
    "modelscope": (
        "If you have the files, point at their directory with --model DIR; otherwise try --hub huggingface, "
        "with a mirror in HF_ENDPOINT=https://… if you need one.",
        "如果已有模型文件，请用 --model 目录 指定；也可以改用 --hub huggingface，或再加镜像 HF_ENDPOINT=https://…。",
    ),
}
_REMEDIES: dict[str, tuple[str, str]] = {
    "interrupted": (
        "Run the same command again: finished files are kept. Or point at a downloaded copy with --model DIR.",
        "再次运行同一命令即可继续，已下完的文件会保留；也可以用 --model 目录 指定已下载的模型。",
    ),
    "disk": (
        "Free some space, move the cache with HF_HOME (Hugging Face) or MODELSCOPE_CACHE (ModelScope), or point at a "
        "downloaded copy with --model DIR.",
        "请腾出空间，或用 HF_HOME（Hugging Face）、MODELSCOPE_CACHE（ModelScope）更换缓存目录，"
        "也可以用 --model 目录 指定已下载的模型。",
    ),
    "gated": (
        "Accept its licence on the hub's page and set HF_TOKEN (Hugging Face) or MODELSCOPE_API_TOKEN (ModelScope), "
        "or point at a downloaded copy with --model DIR.",
        "请先在模型页面同意许可，并设置 HF_TOKEN（Hugging Face）或 MODELSCOPE_API_TOKEN（ModelScope）；"
        "也可以用 --model 目录 指定已下载的模型。",
    ),
}
