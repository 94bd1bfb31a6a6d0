"""Full fine-tuning trains every weight, and its checkpoints are models that load as they are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoint import tiny_settings

from chatglm2 import ChatSession, Engine, SamplingParams, load_model, load_tokenizer
from chatglm2.errors import RunError
from training.loop.model_setup import trainable_dtype
from training.plan import memory
from training.plan.memory import bytes_per_weight, bytes_still_to_come, parameter_count
from training.runs.checkpoints import find_checkpoints
from training.runs.events import FinishedEvent, MessageEvent, StartedEvent, step_history
from training.runs.store import Run, RunStore
from training.settings.train import TrainingSettings
from training.worker.alone import train


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    return tiny_settings(
        tmp_path_factory.mktemp("full"), max_steps=4, pre_seq_len=None, learning_rate=1e-3, dtype="float32"
    )


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "output")


def weights(place: Path | str) -> dict[str, torch.Tensor]:
    return load_model(place, dtype="float32").state_dict()


def test_every_weight_learns_and_a_checkpoint_is_a_model(store: RunStore, settings: TrainingSettings) -> None:
    run = store.create(settings, "run")
    assert isinstance(train(run), FinishedEvent)
    place = run.checkpoint_path(4)
    before, after = weights(settings.model_name_or_path), weights(place)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert name.endswith("inv_freq") or not torch.equal(tensor, after[name]), name
    started = next(event for event in run.events()[0] if isinstance(event, StartedEvent))
    model = load_model(place)
    assert started.trainable_parameters == parameter_count(model.config)
    assert model.config.pre_seq_len is None and model.config.use_cache

    engine = Engine(model, slots=1)
    reply = ChatSession(engine, load_tokenizer(place)).stream("你好", sampling=SamplingParams(max_new_tokens=2))
    list(reply)
    engine.close()
    assert reply.token_count == 2


def test_a_large_models_checkpoint_is_sharded(
    store: RunStore, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.full_trainer.SHARD_SIZE", "50KB")
    run = store.create(replace(settings, max_steps=1), "run")
    train(run)
    assert len(list(run.checkpoint_path(1).glob("model-*-of-*.safetensors"))) > 1
    assert weights(run.checkpoint_path(1))


def test_a_resumed_full_run_equals_an_uninterrupted_one_bit_for_bit(
    store: RunStore, settings: TrainingSettings
) -> None:
    straight = store.create(settings, "straight")
    train(straight)
    copy = Run(store.root / "copy")
    shutil.copytree(straight.path, copy.path)
    copy.delete_checkpoint(4)
    copy.update(resume_step=2)
    train(copy)
    said = [event.en for event in copy.events()[0] if isinstance(event, MessageEvent)]
    assert said == ["Resuming from checkpoint-2: the weights, the optimizer and the order of the data go on."]
    resumed = load_file(copy.checkpoint_path(4) / "model.safetensors")
    for name, tensor in load_file(straight.checkpoint_path(4) / "model.safetensors").items():
        assert torch.equal(tensor, resumed[name]), name
    assert [event.loss for event in step_history(copy.events()[0])] == [
        event.loss for event in step_history(straight.events()[0])
    ]


def test_a_complete_model_is_no_prefix_checkpoint(store: RunStore, settings: TrainingSettings) -> None:
    run = store.create(replace(settings, max_steps=1), "run")
    train(run)
    (info,) = run.resumable_checkpoints()
    assert not info.is_prefix and info.pre_seq_len is None and info.step == 1
    for place in (info.path, run.path):
        with pytest.raises(RunError, match=r"complete model, not a prefix.*--model"):
            find_checkpoints(place)


@pytest.mark.parametrize(
    "changes", [{"quantization_bit": 4}, {"ptuning_checkpoint": "output/x"}, {"prefix_projection": True}]
)
def test_what_belongs_to_a_prefix_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RunError, match=f"--{next(iter(changes))} does not go with training all weights"):
        TrainingSettings.from_dict({"pre_seq_len": "none", **changes})


def test_all_weights_learn_at_a_rate_of_their_own() -> None:
    assert TrainingSettings.from_dict({"pre_seq_len": "none"}).learning_rate == 5e-5
    assert TrainingSettings.from_dict({"pre_seq_len": None, "learning_rate": 1e-4}).learning_rate == 1e-4
    assert TrainingSettings.from_dict({}).learning_rate == 5e-2


def test_too_little_memory_is_said_before_anything_is_loaded(
    store: RunStore, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    monkeypatch.setattr("training.plan.base_model.load_model", lambda *args, **kwargs: pytest.fail("it was loaded"))
    with pytest.raises(
        RunError, match=r"needs about .* GiB on cpu, and 0\.0 GiB are free.*--pre_seq_len 128.*torchrun"
    ):
        train(store.create(settings, "run"))


def test_shared_weights_need_less_of_each_process(settings: TrainingSettings, repository: Path) -> None:
    shared = replace(settings, fsdp="full_shard")
    zero = replace(settings, deepspeed=str(repository / "training" / "scripts" / "deepspeed.json"))
    assert bytes_per_weight(settings, torch.bfloat16, 4) == 8
    assert bytes_per_weight(shared, torch.bfloat16, 4) == 2
    assert bytes_per_weight(zero, torch.float16, 1) == 16
    assert bytes_per_weight(zero, torch.float16, 4) == 2 + 14 / 4


def test_gradients_and_moments_are_counted_before_activations(settings: TrainingSettings) -> None:
    model = load_model(settings.model_name_or_path, dtype="float32")
    count = parameter_count(model.config)
    assert bytes_still_to_come(model, settings) == 12 * count
    assert bytes_still_to_come(model, replace(settings, fsdp="full_shard"), processes=8) == -2 * count
    assert bytes_still_to_come(model, replace(settings, pre_seq_len=3)) == 0


def test_half_precision_that_loses_updates_is_not_trained_in(store: RunStore, settings: TrainingSettings) -> None:
    asked = replace(settings, dtype="float16")
    assert trainable_dtype(asked, torch.device("cpu")) == "float32"
    assert trainable_dtype(replace(settings, dtype="bfloat16"), torch.device("cpu")) == "bfloat16"
    assert trainable_dtype(replace(asked, deepspeed="zero.json"), torch.device("cuda")) == "float16"
    run = store.create(replace(settings, dtype="float16", max_steps=1), "run")
    train(run)
    messages = [event.en for event in run.events()[0] if isinstance(event, MessageEvent)]
    assert any("trained in float32" in message for message in messages)
