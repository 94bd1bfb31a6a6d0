"""What every test may ask for: where things lie, and a clear reason to skip where they do not."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Processes that divide the tests among them must find the same ones in the same order, wherever a set is gone through.
os.environ.setdefault("PYTHONHASHSEED", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # each has a core; a second thread would wait for the other worker's
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

# Without a GPU, Triton's kernels run in its interpreter, which must be chosen before anything imports Triton.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _runtime(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests, and the processes that they start, share weights with nobody else on the machine."""
    os.environ["CHATGLM2_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("runtime"))


REPOSITORY = Path(__file__).resolve().parent.parent
BROWSER = "tests/browser/"
MOST_WORKERS = 4


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference files that do not belong to the repository: beside it, or where CHATGLM2_SHARED says."""
    path = Path(os.environ.get("CHATGLM2_SHARED") or REPOSITORY.parent / "shared")
    if not path.is_dir():
        pytest.skip(f"the reference files are not there: no directory {path} (CHATGLM2_SHARED names another)")
    return path


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """A small model in the original's layout, prefixes, and what the original computes from them."""
    return _part_of(shared, "golden")


@pytest.fixture(scope="session")
def tiny_model_dir(golden: Path) -> Path:
    """The golden model: random weights, the real layout."""
    return _part_of(golden, "chatglm2-tiny")


@pytest.fixture(scope="session")
def demo_model_dir() -> Path:
    """The demo model that ships with the repository."""
    return _part_of(REPOSITORY / "assets", "demo-model")


def _part_of(parent: Path, name: str) -> Path:
    path = parent / name
    if not (path.is_dir() and any(path.iterdir())):
        pytest.skip(f"{path} is missing or empty")
    return path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes ``-n auto`` divides the tests among: a GPU's memory is measured by one at a time."""
    return 0 if torch.cuda.is_available() else min(os.cpu_count() or 1, MOST_WORKERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """A file's tests stay together, as they share fixtures; so do browser tests, which share a page and come first."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return BROWSER if nodeid.startswith(BROWSER) else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """What is imported by now stays: a training collects garbage twice, and need not look through all of it."""
    gc.collect()
    gc.freeze()
