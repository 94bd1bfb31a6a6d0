"""The page's flags: the original's beside its own, spelled either way, and mistakes that get a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from app.__main__ import build_parser, find_shown, main
from chatglm2 import ChatGLMConfig, save_prefix
from chatglm2.errors import RunError
from chatglm2.model.prefix import TENSOR_NAMESPACE, PrefixEncoder

SHAPE = {"num_layers": 1, "multi_query_group_num": 1, "kv_channels": 4, "hidden_size": 8}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One of the original's, with a prefix of 5 tokens."""
    place = tmp_path / "run" / "checkpoint-3000"
    place.mkdir(parents=True)
    encoder = PrefixEncoder(ChatGLMConfig(**SHAPE, pre_seq_len=5))
    state = {TENSOR_NAMESPACE + name: tensor for name, tensor in encoder.state_dict().items()}
    torch.save(state, place / "pytorch_model.bin")
    (place / "config.json").write_text('{"model_type": "chatglm", "pre_seq_len": 5}', encoding="utf-8")
    save_prefix(encoder.state_dict(), tmp_path)
    return place


@pytest.mark.parametrize("mark", ["-", "_"])
def test_the_originals_flags_are_the_pages(mark: str) -> None:
    words = [
        *("--model_name_or_path", "THUDM/chatglm2-6b", "--ptuning_checkpoint=output/run/checkpoint-3000"),
        *("--pre_seq_len", "128", "--quantization_bit=4", "--max_length", "2048", "--rope_precision", "reference"),
    ]
    options = build_parser().parse_args([word.replace("_", mark) if word.startswith("--") else word for word in words])
    assert options.model == "THUDM/chatglm2-6b" and options.pre_seq_len == 128
    assert options.ptuning_checkpoint == Path("output/run/checkpoint-3000".replace("_", mark))
    assert (options.quantization_bit, options.max_length, options.rope_precision) == (4, 2048, "reference")


def test_a_checkpoint_to_show_is_found_and_its_length_checked(checkpoint: Path) -> None:
    shown = find_shown(checkpoint, 5)
    assert shown is not None and shown.path == checkpoint
    assert find_shown(checkpoint.parent, None) == find_shown(checkpoint, None)
    assert find_shown(None, None) is None
    with pytest.raises(RunError, match="has 5 tokens"):
        find_shown(checkpoint, 128)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--ptuning_checkpoint", "nowhere"], "nowhere is nothing that can be read"),
        (["--ptuning_checkpoint", "{checkpoint}", "--pre_seq_len", "128"], "has 5 tokens"),
        (["--quantization_bit", "3"], "Argument --quantization-bit: invalid choice"),
        (["--model_nam", "x"], "Unrecognized arguments: --model_nam"),
    ],
)
def test_a_mistake_ends_the_start_with_a_sentence(
    checkpoint: Path, tmp_path: Path, flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag.replace("{checkpoint}", str(checkpoint)) for flag in flags]
    assert main(["--output", str(tmp_path / "output"), *flags]) == 1
    assert sentence in capsys.readouterr().err
