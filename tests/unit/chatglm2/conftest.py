"""Where Triton's kernels run: on a GPU, or in the interpreter that `tests/conftest.py` has chosen."""

from __future__ import annotations

import pytest
import torch

INTERPRETED = not torch.cuda.is_available()


@pytest.fixture(scope="session")
def kernel_device() -> str:
    """Where Triton's kernels run here: on a GPU, or in the interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed; requirements-dev.txt has it")
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=str)
def kernel_dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Both half precisions, where kernels compute with them."""
    if INTERPRETED and request.param == torch.bfloat16:
        pytest.skip("Triton's interpreter computes with NumPy, which has no bfloat16: it takes its bits for integers")
    return request.param
