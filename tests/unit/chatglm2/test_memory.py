"""What does not fit is refused before anything is loaded, with what is needed, what is free and what would fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import build_model
from tiny_checkpoint import write_tiny_checkpoint

from chatglm2 import ChatGLMConfig, Engine, load_model
from chatglm2.errors import DeviceMemoryError
from chatglm2.memory import estimate as memory

REAL = ChatGLMConfig()
CPU = torch.device("cpu")
GIB = 2**30


def leave_free(monkeypatch: pytest.MonkeyPatch, count: float) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(count))


@pytest.mark.parametrize(("bits", "published_bytes"), [(0, 12_487_168_064), (8, 6_779_000_000), (4, 3_924_000_000)])
def test_weights_take_what_the_originals_files_take(bits: int, published_bytes: int) -> None:
    assert memory.weight_bytes(REAL, 2, bits) == pytest.approx(published_bytes, rel=2e-3)


def test_a_token_takes_what_the_original_keeps_of_it() -> None:
    assert memory.slot_bytes(REAL, 2, 1) == 28_672


@pytest.mark.parametrize(
    ("free_gib", "bits", "sentence"),
    [
        (8, 0, "float16 need 11.6 GiB on cpu, and 8.0 GiB are free. With --quantization-bit 8 it needs 6.3 GiB"),
        (5, 0, "With --quantization-bit 4 it needs 3.7 GiB and fits"),
        (5, 8, "The weights in INT8 need 6.3 GiB on cpu, and 5.0 GiB are free. With --quantization-bit 4"),
        (2, 4, "Even INT4 needs 3.7 GiB"),
    ],
)
def test_too_large_weights_name_the_precision_that_fits(
    free_gib: float, bits: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_free(monkeypatch, free_gib * GIB)
    with pytest.raises(DeviceMemoryError) as refusal:
        memory.require_memory_for_weights(REAL, torch.float16, bits, CPU)
    assert sentence in refusal.value.en


def test_nothing_is_loaded_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_checkpoint(tmp_path)
    leave_free(monkeypatch, 1000)
    with pytest.raises(DeviceMemoryError, match="need"):
        load_model(tmp_path, dtype="float32")


@pytest.mark.parametrize(("free_gib", "slots"), [(20, 8), (1.5, 6), (0.6, 2), (0.3, 1)])
def test_as_many_conversations_as_fit_run_together(
    free_gib: float, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_free(monkeypatch, free_gib * GIB)
    assert memory.choose_slots(REAL, torch.float16, CPU, 8192 + 128, None) == slots


@pytest.mark.parametrize(
    ("free_gib", "wanted", "sentence"),
    [(1, 8, "--slots 4 fits"), (0.2, 2, "--slots 1 --max-length 7168 fits"), (0.0, None, "--quantization-bit 4")],
)
def test_too_many_conversations_name_what_fits(
    free_gib: float, wanted: int | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_free(monkeypatch, free_gib * GIB)
    with pytest.raises(DeviceMemoryError) as refusal:
        memory.choose_slots(REAL, torch.float16, CPU, 8192 + 128, wanted)
    assert sentence in refusal.value.en
    assert "GiB" in refusal.value.zh


def test_running_out_while_answering_says_how_much_was_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(build_model(), slots=1)
    leave_free(monkeypatch, 0.25 * GIB)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …")
    sentence = memory.out_of_memory(error, engine.model.device).en
    engine.close()
    assert "2.00 GiB more were needed, and 0.2 GiB are free" in sentence
