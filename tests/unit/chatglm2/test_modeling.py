"""The model against transformers' own GLM, and what its forward pass promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_models import SHAPE, build_model, build_prefix
from torch import Tensor
from transformers import GlmConfig, GlmForCausalLM

from chatglm2.errors import ModelCallError
from chatglm2.model.modeling import ChatGLMForConditionalGeneration, RMSNorm
from chatglm2.model.rotary import RotaryEmbedding


def build_glm_twin(model: ChatGLMForConditionalGeneration) -> GlmForCausalLM:
    """transformers' GLM with the same weights: the fused projection split into query, key and value rows."""
    config = model.config
    glm = GlmForCausalLM(
        GlmConfig(
            vocab_size=config.padded_vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.ffn_hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.multi_query_group_num,
            head_dim=config.kv_channels,
            rms_norm_eps=config.layernorm_epsilon,
            attention_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=1,
            attn_implementation="eager",
        )
    ).eval()
    glm.load_state_dict(glm_weights(model))
    return glm


def glm_weights(model: ChatGLMForConditionalGeneration) -> dict[str, Tensor]:
    config, source = model.config, model.state_dict()
    rows = [config.num_attention_heads * config.kv_channels] + [config.multi_query_group_num * config.kv_channels] * 2
    target = {
        "model.embed_tokens.weight": source["transformer.embedding.word_embeddings.weight"],
        "model.norm.weight": source["transformer.encoder.final_layernorm.weight"],
        "lm_head.weight": source["transformer.output_layer.weight"],
    }
    for index in range(config.num_layers):
        ours, theirs = f"transformer.encoder.layers.{index}", f"model.layers.{index}"
        for leaf in ("weight", "bias"):
            parts = source[f"{ours}.self_attention.query_key_value.{leaf}"].split(rows)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                target[f"{theirs}.self_attn.{name}.{leaf}"] = part
        target[f"{theirs}.self_attn.o_proj.weight"] = source[f"{ours}.self_attention.dense.weight"]
        target[f"{theirs}.mlp.gate_up_proj.weight"] = source[f"{ours}.mlp.dense_h_to_4h.weight"]
        target[f"{theirs}.mlp.down_proj.weight"] = source[f"{ours}.mlp.dense_4h_to_h.weight"]
        for name in ("input_layernorm", "post_attention_layernorm"):
            target[f"{theirs}.{name}.weight"] = source[f"{ours}.{name}.weight"]
    return target


@torch.no_grad()
def test_equals_transformers_glm() -> None:
    model = build_model()
    ids = torch.randint(0, SHAPE["padded_vocab_size"], (2, 40), generator=torch.Generator().manual_seed(0))
    expected = build_glm_twin(model)(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, atol=2e-4, rtol=1e-5)


@torch.no_grad()
def test_rows_with_unlike_prefixes_equal_rows_alone() -> None:
    model = build_model()
    ids = torch.randint(0, 128, (3, 12), generator=torch.Generator().manual_seed(0))
    prefixes = [None, build_prefix(3), build_prefix(7, seed=2)]
    together = model(ids, prefix=prefixes).logits
    for row, prefix in enumerate(prefixes):
        alone = model(ids[row : row + 1], prefix=prefix).logits
        torch.testing.assert_close(together[row : row + 1], alone, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix_length", [0, 5])
def test_cached_steps_equal_one_pass(prefix_length: int) -> None:
    model = build_model()
    prefix = build_prefix(prefix_length) if prefix_length else None
    ids = torch.randint(0, 128, (2, 10), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(ids, prefix=prefix).logits
        cache, pieces = None, []
        for start, stop in ((0, 4), (4, 7), (7, 8), (8, 10)):
            output = model(ids[:, start:stop], prefix=prefix, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            pieces.append(output.logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=2e-5, rtol=1e-5)


def test_beam_search_works_with_a_prefix() -> None:
    model = build_model()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    shared = model.generate(ids, prefix=build_prefix(4), **options)
    single = model.generate(ids, prefix=[build_prefix(4), build_prefix(4)], **options)
    assert shared.shape == (2, 9)
    assert shared.tolist() == single.tolist()


def test_loss_equals_cross_entropy_over_all_logits() -> None:
    model = build_model()
    ids = torch.randint(1, 128, (2, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :5] = -100
    logits = model(ids).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    assert model(ids, labels=labels).loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_new_prefix_is_standard_normal_in_fp32_even_on_a_half_model() -> None:
    model = build_model().half()
    torch.manual_seed(42)
    encoder = model.prepare_prefix_tuning(16)
    torch.manual_seed(42)
    expected = torch.nn.Embedding(16, model.config.prefix_width).weight
    assert encoder.embedding.weight.dtype == torch.float32
    assert torch.equal(encoder.embedding.weight, expected)


def test_prefix_dropout_differs_from_row_to_row() -> None:
    model = build_model()
    encoder = model.prepare_prefix_tuning(4).train()
    first, second = encoder(2, torch.float32).unbind(2)
    assert not torch.equal(first, second)
    assert torch.equal(*encoder.eval()(2, torch.float32).unbind(2))


@pytest.mark.parametrize(("position", "pair", "angle"), [(1000, 1, 749.5), (2049, 0, 2048.0)])
def test_reference_rotation_repeats_the_original_in_fp16(position: int, pair: int, angle: float) -> None:
    config = build_model(kv_channels=128, rope_precision="reference").config
    rotary = RotaryEmbedding(config).half()
    rotation = rotary(torch.tensor([[position]]))[0, 0, 0, pair]
    assert rotation.real.item() == pytest.approx(math.cos(angle), abs=1e-3)
    assert rotation.imag.item() == pytest.approx(math.sin(angle), abs=1e-3)


def test_fp32_rotation_is_exact_on_a_half_model() -> None:
    rotary = RotaryEmbedding(build_model(kv_channels=128).config).half()
    rotation = rotary(torch.tensor([[1000]]))[0, 0, 0, 1]
    assert rotation.real.item() == pytest.approx(-0.5846, abs=1e-3)
    assert rotation.imag.item() == pytest.approx(0.8113, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_norms_weight_is_multiplied_before_the_norm_is_rounded(dtype: torch.dtype) -> None:
    norm = RMSNorm(512, 1e-5).to(dtype)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = 3 * torch.randn(64, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    rounded_once, rounded_before = (exact * norm.weight.double()).to(dtype), exact.to(dtype) * norm.weight
    assert (norm(x) != rounded_once).double().mean() < 1e-3  # ties that fp32 does not see
    assert (rounded_before != rounded_once).double().mean() > 0.1, "the two orders cannot be told apart here"


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")  # its successor is new in 5.23
@pytest.mark.parametrize("learns", ["prefix", "prefix and first norm"])
def test_recomputed_layers_give_the_same_gradients(learns: str) -> None:
    gradients = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        model = build_model()
        encoder = model.prepare_prefix_tuning(5)
        encoder.dropout.p = 0.0
        if "norm" in learns:  # a layer that learns is recomputed in the general way
            next(model.transformer.encoder.blocks()).input_layernorm.weight.requires_grad_()
        if recomputes:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        ids = torch.arange(24).view(2, 12) + 5
        loss = model(ids, labels=torch.where(ids % 3 == 0, -100, ids)).loss
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients.append([loss, *torch.autograd.grad(loss, trained)])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, kept)


@pytest.mark.parametrize(
    "asked", [{"output_attentions": True}, {"output_hidden_states": True}, {"inputs_embeds": torch.zeros(1, 2, 32)}]
)
def test_what_the_model_does_not_hand_out_is_said_in_a_sentence(asked: dict[str, Any]) -> None:
    with pytest.raises(ModelCallError, match=f"{next(iter(asked))} is not supported"):
        build_model()(torch.tensor([[5, 6]]), **asked)
