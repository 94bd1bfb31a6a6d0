"""The model computes what the original computes: logits, greedy tokens, training loss and prefix gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import chatglm2
from chatglm2 import ChatGLMForConditionalGeneration

PREFIXES = ("prefix", "prefix-projection")


@pytest.fixture(params=(None, *PREFIXES), ids=("base", *PREFIXES))
def variant(request: pytest.FixtureRequest) -> str | None:
    return request.param


def key_of(variant: str | None, name: str) -> str:
    return f"{variant}.{name}" if variant else name


def test_prefix_key_values_equal_the_original(golden: Path, tensors: dict[str, Tensor], model) -> None:
    for name in PREFIXES:
        prefix = chatglm2.load_prefix(golden / name, model.config)
        torch.testing.assert_close(prefix.key_values, tensors[f"{name}.kv"], atol=1e-6, rtol=0)
        assert prefix.length == 8
        assert prefix.projection is (name == "prefix-projection")


@pytest.mark.parametrize("gives_positions", [True, False], ids=["given positions", "counted positions"])
@torch.no_grad()
def test_logits_of_a_left_padded_batch(
    golden: Path, tensors: dict[str, Tensor], model, variant: str | None, gives_positions: bool
) -> None:
    mask = tensors["batch.attention_mask"]
    prefix = chatglm2.load_prefix(golden / variant, model.config) if variant else None
    positions = tensors["batch.position_ids"] if gives_positions else None
    logits = model(tensors["batch.input_ids"], mask, positions, prefix=prefix).logits
    text = mask.bool()
    expected = tensors[key_of(variant, "logits") if variant else "batch.logits"]
    torch.testing.assert_close(logits[text], expected[text], atol=2e-4, rtol=0)


def test_greedy_tokens(golden: Path, tensors: dict[str, Tensor], model, variant: str | None) -> None:
    ids = tensors["greedy.input_ids"]
    expected = tensors[key_of(variant, "greedy.output_ids")]
    prefix = chatglm2.load_prefix(golden / variant, model.config) if variant else None
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=expected.shape[1] - ids.shape[1],
        do_sample=False,
        prefix=prefix,
        eos_token_id=None,
    )
    assert output.tolist() == expected.tolist()


@pytest.fixture
def trainable(golden: Path, tiny_model_dir: Path, variant: str | None) -> ChatGLMForConditionalGeneration:
    """A model of its own, with the golden prefix as its trainable one; evaluation mode, so without dropout."""
    model = chatglm2.load_model(tiny_model_dir, dtype="fp32", device="cpu")
    if variant:
        encoder = model.prepare_prefix_tuning(8, prefix_projection=variant == "prefix-projection")
        stored = torch.load(golden / variant / "pytorch_model.bin", weights_only=True)
        encoder.load_state_dict({name.split("prefix_encoder.")[1]: value for name, value in stored.items()})
    return model.eval()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")  # its successor is new in 5.23
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
def test_training_loss_and_prefix_gradients(
    tensors: dict[str, Tensor], trainable, variant: str | None, checkpointing: bool
) -> None:
    if checkpointing:
        trainable.gradient_checkpointing_enable({"use_reentrant": False})
        trainable.train()
        if variant:
            trainable.transformer.prefix_encoder.dropout.p = 0.0
    loss = trainable(tensors["train.input_ids"], labels=tensors["train.labels"]).loss
    expected = tensors[key_of(variant, "train.loss") if variant else "train.loss_no_prefix"]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    if variant is None:
        return
    loss.backward()
    for name, parameter in trainable.transformer.prefix_encoder.named_parameters():
        gradient = tensors[f"{variant}.train.grad.{name}"]
        error = (parameter.grad - gradient).norm() / gradient.norm()
        assert error < 1e-4, name
    assert all(parameter.grad is None for name, parameter in trainable.named_parameters() if "prefix" not in name)


def test_only_the_prefix_is_trainable(trainable, variant: str | None) -> None:
    names = {name for name, parameter in trainable.named_parameters() if parameter.requires_grad}
    if variant:
        assert names and all(name.startswith("transformer.prefix_encoder.") for name in names)
