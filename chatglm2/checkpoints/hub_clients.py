"""The two hubs' own clients behind one small interface.

Knows huggingface_hub and modelscope_hub: their calls, caches and exceptions. Does not know which files are wanted, nor
what a user is told when something fails. Both clients are imported when first used, as most starts need neither.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import modelscope_hub

Hub = Literal["huggingface", "modelscope"]
OnBytes = Callable[[int], None]
Refusal = Literal["missing", "gated"]


class HubClient(Protocol):
    """What is asked of a hub."""

    def cache_directory(self, repository: str) -> Path:
        """Where the hub's client keeps this repository; it may not exist yet."""

    def find_cached(self, repository: str, revision: str | None) -> Path | None:
        """The local snapshot, complete or not, without any request."""

    def list_files(self, repository: str, revision: str | None) -> dict[str, int]:
        """Sizes in bytes by file name."""

    def fetch(self, repository: str, revision: str | None, names: list[str], on_bytes: OnBytes) -> Path:
        """Download ``names`` into the cache, continuing what is there."""

    def errors(self) -> tuple[type[Exception], ...]:
        """What the methods above raise when the hub does not deliver."""

    def refusal(self, error: BaseException) -> Refusal | None:
        """What ``error`` means, if it says so itself."""


class HuggingFaceClient:
    """huggingface_hub; ``HF_ENDPOINT`` names a mirror, ``HF_TOKEN`` an account, ``HF_HOME`` the cache."""

    def cache_directory(self, repository: str) -> Path:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")

    def find_cached(self, repository: str, revision: str | None) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        for name in ("config.json", "tokenizer.model"):
            found = try_to_load_from_cache(repository, name, revision=revision)
            if isinstance(found, str):
                return Path(found).parent
        return None

    def list_files(self, repository: str, revision: str | None) -> dict[str, int]:
        from huggingface_hub import HfApi

        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=10)
        return {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}

    def fetch(self, repository: str, revision: str | None, names: list[str], on_bytes: OnBytes) -> Path:
        from huggingface_hub import snapshot_download

        # Two files at a time: huggingface_hub discards half files when the process ends; with its default of eight,
        # stopping a 12 GB download near its end would lose all of it.
        directory = snapshot_download(
            repository, revision=revision, allow_patterns=names, tqdm_class=_counting_bar(on_bytes), max_workers=2
        )
        return Path(directory)

    def errors(self) -> tuple[type[Exception], ...]:
        import httpx2  # huggingface_hub's HTTP client
        from huggingface_hub.errors import HFValidationError, XetDownloadError

        return httpx2.HTTPError, OSError, XetDownloadError, HFValidationError

    def refusal(self, error: BaseException) -> Refusal | None:
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            return "gated"
        missing = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError)
        return "missing" if isinstance(error, missing) else None


def _counting_bar(on_bytes: OnBytes) -> type[Any]:
    """A progress bar for huggingface_hub that draws nothing and reports bytes to ``on_bytes``."""
    from huggingface_hub.utils.tqdm import tqdm

    class CountingBar(tqdm):
        def __init__(self, *args: Any, name: str | None = None, **kwargs: Any) -> None:
            # A snapshot has three bars: files, bytes over the wire (compressed), bytes of the files. The last counts.
            self._counts = name == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self._counts and n:
                on_bytes(int(n))

    return CountingBar


class ModelScopeClient:
    """modelscope_hub; ``MODELSCOPE_ENDPOINT`` names another site, ``MODELSCOPE_CACHE`` the cache."""

    def _api(self) -> modelscope_hub.HubApi:
        from modelscope_hub import HubApi, HubConfig

        return HubApi(HubConfig())  # the default configuration is shared by the whole process

    def cache_directory(self, repository: str) -> Path:
        from modelscope_hub import HubConfig

        return HubConfig().cache_dir / "models" / repository.replace("/", "--")

    def find_cached(self, repository: str, revision: str | None) -> Path | None:
        from modelscope_hub import CacheNotFound

        try:
            return self._api().download_repo(repository, "model", revision=revision, local_files_only=True)
        except CacheNotFound:
            return None

    def list_files(self, repository: str, revision: str | None) -> dict[str, int]:
        files = self._api().list_repo_files(repository, "model", revision=revision)
        return {file.path: file.size for file in files if not file.is_dir}

    def fetch(self, repository: str, revision: str | None, names: list[str], on_bytes: OnBytes) -> Path:
        from modelscope_hub import ProgressCallback

        class CountingCallback(ProgressCallback):
            def update(self, size: int) -> None:
                on_bytes(size)

        return self._api().download_repo(
            repository, "model", revision=revision, allow_patterns=names, progress_callbacks=[CountingCallback]
        )

    def errors(self) -> tuple[type[Exception], ...]:
        import modelscope_hub
        import requests  # modelscope_hub's HTTP client

        return modelscope_hub.HubError, requests.RequestException, OSError

    def refusal(self, error: BaseException) -> Refusal | None:
        from modelscope_hub import AuthenticationError, NotExistError, PermissionDeniedError

        if isinstance(error, AuthenticationError | PermissionDeniedError):
            return "gated"
        return "missing" if isinstance(error, NotExistError) else None


CLIENTS: dict[Hub, type[HubClient]] = {"huggingface": HuggingFaceClient, "modelscope": ModelScopeClient}
