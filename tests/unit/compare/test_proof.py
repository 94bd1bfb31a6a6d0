"""The base answers as a model that never saw a prefix, in every bit of every logit; a changed one is found out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_checkpoint import write_tiny_checkpoint

from app.chat.model_host import ModelHost, ModelOptions
from app.chat.proof import prove_base
from app.text.languages import Speech
from app.views.comparing.proof import proof_html
from chatglm2.model.prefix import Prefix
from chatglm2.sampling import SamplingParams


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHost]:
    host = ModelHost(ModelOptions(str(write_tiny_checkpoint(tmp_path_factory.mktemp("model"))), device="cpu", slots=2))
    host.start()
    assert host.wait(60)
    yield host
    host.close()


@pytest.fixture
def prefix(host: ModelHost) -> Prefix:
    config = host.session.engine.model.config
    shape = (config.num_layers, 2, 4, config.multi_query_group_num, config.kv_channels)
    return Prefix(torch.randn(shape, generator=torch.Generator().manual_seed(1)))


def test_the_base_is_untouched_by_prefixes_that_answered_beside_it(host: ModelHost, prefix: Prefix) -> None:
    sampling = SamplingParams(max_new_tokens=4)
    replies = [host.session.stream("你好", prefix=choice, sampling=sampling) for choice in (prefix, None)]
    assert all(list(reply) for reply in replies)
    proof = prove_base(host, prefix)
    assert proof.holds and proof.prefix_changes
    assert proof.logits % host.session.engine.model.config.padded_vocab_size == 0
    assert f"{proof.logits:,}" in proof_html(proof, Speech("zh")) and "逐位相同" in proof_html(proof, Speech("zh"))


def test_without_a_prefix_in_a_pane_it_is_the_same_proof(host: ModelHost, prefix: Prefix) -> None:
    alone = prove_base(host, None)
    assert alone.holds and alone.prefix_changes is None
    assert alone.digest == prove_base(host, prefix).digest


def test_a_model_whose_weights_changed_is_found_out(host: ModelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = host.load_another()
    weight = torch.nn.Parameter(next(changed.parameters()).detach().clone(), requires_grad=False)
    name, _ = next(iter(changed.named_parameters()))
    owner, _, last = name.rpartition(".")
    weight += 1e-3
    setattr(changed.get_submodule(owner), last, weight)
    monkeypatch.setattr(host, "load_another", lambda: changed)
    proof = prove_base(host, None)
    assert not proof.holds and "differ" in proof_html(proof, Speech("en"))
