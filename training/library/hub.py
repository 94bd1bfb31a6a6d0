"""Prefixes to hubs and back: only a prefix's own files travel, and what comes is checked before it is on the shelf.

Knows which files are asked for, how large they may be, and how to tell a user why a hub did not deliver. How a hub is
spoken to is the matter of its client: ``HF_ENDPOINT`` names a mirror, ``HF_TOKEN`` an account.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from textwrap import shorten

from chatglm2.checkpoints.hub import HUB_TITLES, DeliveryError, Hub, hub_failures
from chatglm2.checkpoints.hub_clients import CLIENTS, HubClient, HuggingFaceClient
from chatglm2.errors import HubError
from chatglm2.files import open_regular
from chatglm2.model.prefix_files import CANDIDATE_FILES
from training.library.bundle import LIMITS, require_size, write_bundle
from training.library.card import CARD_FILE, HUB_ID, OUR_TAGS
from training.library.entry import Origin
from training.library.shelf import Shelf, place_name
from training.runs.checkpoints import CheckpointInfo
from training.runs.storage import explaining_storage_errors

COMMIT = re.compile(r"[0-9a-f]{40}")
UNAUTHORIZED = (401, 403)
MOST_FOUND = 50
CONNECT_SECONDS = 10.0
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Found:
    """A prefix that a hub has: its id, its author's tags, and when it changed last (ISO date, or "")."""

    repository: str
    tags: tuple[str, ...]
    changed: str


def push(info: CheckpointInfo, repository: str, *, public: bool = False, message: str = "") -> str:
    """Send a prefix with its card to Hugging Face; returns the address of the commit.

    The repository is made if it is not there, for its owner alone unless ``public``. The card is checked by the hub
    first, and all files arrive in one commit.

    Raises:
        HubError: the hub cannot be reached, or refuses.
        PrefixError: the checkpoint holds no prefix that can be read.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    _require_id(repository)
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        write_bundle(info, Path(folder))
        files = sorted(Path(folder).iterdir())
        api = HfApi()
        with _explaining(HuggingFaceClient(), repository, "huggingface", "upload"):
            api.create_repo(repository, private=not public, exist_ok=True)
            stale = set(api.list_repo_files(repository)) & LIMITS.keys() - {file.name for file in files}
            commit = api.create_commit(
                repository,
                [
                    *(CommitOperationAdd(file.name, file) for file in files),
                    *(CommitOperationDelete(name) for name in sorted(stale)),
                ],
                commit_message=message or f"Add {info.run_name}, step {info.step}",
            )
    return str(commit.commit_url)


def pull(
    repository: str,
    shelf: Shelf,
    *,
    hub: Hub = "huggingface",
    revision: str | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Put a hub's prefix on the shelf, in the place of what came from there before; returns where it lies.

    Args:
        repository: ``owner/name``.
        shelf: where to.
        hub: which hub.
        revision: branch, tag or commit; the hub's default branch if None.
        progress: told received and expected bytes, from threads of the download.

    Raises:
        HubError: the hub cannot be reached, or has no such prefix.
        PrefixError: what it has is refused; nothing is on the shelf then.
        RunError: it cannot be written.
    """
    _require_id(repository)
    client = CLIENTS[hub]()
    with _explaining(client, repository, hub, "download"):
        sizes = client.list_files(repository, revision)
    names = _choose(sizes, repository, hub)
    for name in names:
        require_size(name, sizes[name])
    counter = _Counter(sum(sizes[name] for name in names), progress)
    with _explaining(client, repository, hub, "download"):
        snapshot = client.fetch(repository, revision, names, counter.add)
    commit = snapshot.name if COMMIT.fullmatch(snapshot.name) else revision or ""
    name = place_name(repository)
    with shelf.staging(name) as staged:
        for item in names:
            _copy(snapshot / item, staged / item)
        origin = Origin(kind="hub", name=repository, hub=hub, revision=commit)
        return shelf.put(staged, name, origin, replace=True)


def search(words: str, tags: Iterable[str] = ()) -> list[Found]:
    """Prefixes on Hugging Face that this program has pushed, or that have its tags, by words and tags.

    Raises:
        HubError: the hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants, get_session

    with _explaining(HuggingFaceClient(), "", "huggingface", "search"):
        # Without a network, asking for a list goes on trying for half a minute.
        get_session().head(constants.ENDPOINT, timeout=CONNECT_SECONDS)
        models = list(HfApi().list_models(search=words or None, filter=[*OUR_TAGS, *tags], limit=MOST_FOUND, full=True))
    return [
        Found(
            model.id,
            tuple(tag for tag in model.tags or () if tag not in OUR_TAGS and ":" not in tag),
            f"{model.last_modified:%Y-%m-%d}" if model.last_modified else "",
        )
        for model in models
    ]


class _Counter:
    """Adds up what several threads receive, and ends a download that brings more than the hub said."""

    def __init__(self, expected_bytes: int, progress: OnProgress | None) -> None:
        self._expected, self._received, self._progress = expected_bytes, 0, progress

    def add(self, count: int) -> None:
        self._received += count
        if self._received > self._expected:
            raise HubError(
                f"The hub sends more than the {self._expected:,} bytes that it lists. Nothing was taken; try again, or "
                "another mirror.",
                f"模型库发送的数据超过其声明的 {self._expected:,} 字节，已放弃下载。请重试，或换一个镜像。",
            )
        if self._progress is not None:
            self._progress(self._received, self._expected)


def _require_id(repository: str) -> None:
    if not HUB_ID.fullmatch(repository):
        raise HubError(
            f"{repository[:200]!r} is no name on a hub: expected owner/name, such as ann/adverts.",
            f"“{repository[:200]}”不是模型库中的名称：应为“所有者/名称”，例如 ann/adverts。",
        )


def _choose(sizes: dict[str, int], repository: str, hub: Hub) -> list[str]:
    """The files of a repository that are a prefix's; of several with tensors the best one."""
    weights = next((name for name in CANDIDATE_FILES if name in sizes), None)
    if weights is None:
        found = ", ".join(name[:60] for name in sorted(sizes)[:8]) or "nothing"
        raise HubError(
            f"'{repository}' on {HUB_TITLES[hub]} holds no prefix: expected one of {', '.join(CANDIDATE_FILES)}, found "
            f"{found}. For a whole model use --model.",
            f"{HUB_TITLES[hub]} 上的“{repository}”不含前缀：应有 {'、'.join(CANDIDATE_FILES)} 之一，实际有 {found}。"
            "完整模型请用 --model 指定。",
        )
    return [name for name in LIMITS if name in sizes and (name == weights or name not in CANDIDATE_FILES)]


def _copy(source: Path, target: Path) -> None:
    require_size(target.name, source.stat().st_size)
    with explaining_storage_errors(target), open_regular(source) as read, target.open("xb") as written:
        shutil.copyfileobj(read, written)


@contextmanager
def _explaining(client: HubClient, repository: str, hub: Hub, doing: str) -> Iterator[None]:
    """Turns what a hub's client raises into a sentence about what was being done: download, upload or search."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with hub_failures(client, "unreachable"):
            try:
                yield
            except HfHubHTTPError as error:
                if error.response.status_code in UNAUTHORIZED and doing == "upload":
                    raise _not_allowed(repository, error) from error
                raise
            except JSONDecodeError as error:  # a portal that wants a password first, say
                raise DeliveryError("unreachable", "it answers with something else than a hub does") from error
            except ValueError as error:  # the hub does not take the card
                if doing != "upload":
                    raise
                raise _refused(repository, str(error).splitlines()) from error
            except RuntimeError as error:  # what uploading a large file ends with
                reason = error.__cause__ or error
                raise DeliveryError("interrupted", shorten(str(reason) or type(reason).__name__, 160)) from error
    except DeliveryError as failure:
        raise _explained(failure, repository, HUB_TITLES[hub], doing) from failure.__cause__


def _explained(failure: DeliveryError, repository: str, hub: str, doing: str) -> HubError:
    if failure.reason == "missing":
        return HubError(
            f"{hub} has no '{repository}', or it is private ({failure.detail}). Check the name; for a private one set "
            "HF_TOKEN (MODELSCOPE_API_TOKEN for ModelScope).",
            f"{hub} 上没有“{repository}”，或者它未公开（{failure.detail}）。请检查名称；"
            "未公开的需要设置 HF_TOKEN（ModelScope 为 MODELSCOPE_API_TOKEN）。",
        )
    if failure.reason == "gated":
        return HubError(
            f"{hub} does not give '{repository}' to this account ({failure.detail}). Ask its owner on the hub's page "
            "and set HF_TOKEN.",
            f"当前账号无权从 {hub} 下载“{repository}”（{failure.detail}）。请在模型库页面申请，并设置 HF_TOKEN。",
        )
    if failure.reason == "disk":
        return HubError(
            f"'{repository}' could not be written to the hub's cache ({failure.detail}). Free some space, or move the "
            "cache with HF_HOME.",
            f"无法将“{repository}”写入缓存目录（{failure.detail}）。请腾出空间，或用 HF_HOME 更换缓存目录。",
        )
    zip_en, zip_zh = _WITHOUT_A_HUB[doing]
    return HubError(
        f"{hub} could not be reached ({failure.detail}). Check the network, or name a mirror with "
        f"HF_ENDPOINT=https://….{zip_en}",
        f"无法连接 {hub}（{failure.detail}）。请检查网络，或设置镜像 HF_ENDPOINT=https://…。{zip_zh}",
    )


_WITHOUT_A_HUB = {
    "download": (" A prefix can also come as a zip.", "前缀也可以用 zip 文件传递。"),
    "upload": (" A prefix can also be handed on as a zip.", "前缀也可以用 zip 文件传递。"),
    "search": ("", ""),
}


def _not_allowed(repository: str, error: Exception) -> HubError:
    detail = str(error).strip().splitlines()[0][:160]
    return HubError(
        f"Hugging Face does not let this account write to '{repository}' ({detail}). Set HF_TOKEN to a token that may "
        "write (https://huggingface.co/settings/tokens), and check the owner's name.",
        f"当前账号无权向 Hugging Face 上的“{repository}”写入（{detail}）。请将 HF_TOKEN 设为有写入权限的令牌"
        "（https://huggingface.co/settings/tokens），并检查所有者名称。",
    )


def _refused(repository: str, reasons: Sequence[str]) -> HubError:
    said = " ".join(reasons)[:300]
    return HubError(
        f"Hugging Face refuses what was sent for '{repository}': {said}. Mend the prefix's card ({CARD_FILE}) and "
        "push again.",
        f"Hugging Face 拒绝了为“{repository}”上传的内容：{said}。请修正该前缀的卡片（{CARD_FILE}）后重新上传。",
    )
