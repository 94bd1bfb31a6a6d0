"""Loading checkpoints: every layout, no remote code, and what is said about a broken one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoint import write_tiny_checkpoint
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import chatglm2
from chatglm2 import ChatGLMForConditionalGeneration, ChatGLMTokenizer
from chatglm2.checkpoints.loading import LoadProgress
from chatglm2.errors import CheckpointError, TokenizerError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model")


def split_into_shards(directory: Path, suffix: str) -> list[Path]:
    """Replace the single file by two shards and an index, as large checkpoints have them."""
    single = directory / "model.safetensors"
    tensors = load_file(single)
    single.unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = sorted(tensors)
    files, weight_map = [], {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = directory / f"{stem}-{number:05}-of-00002.{suffix}"
        content = {name: tensors[name] for name in part}
        if suffix == "safetensors":
            save_file(content, file)
        else:
            torch.save(content, file)
        files.append(file)
        weight_map |= dict.fromkeys(part, file.name)
    index = directory / f"{stem}.{'safetensors' if suffix == 'safetensors' else 'bin'}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return files


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_give_the_same_weights_as_a_single_file(checkpoint: Path, suffix: str) -> None:
    expected = chatglm2.load_model(checkpoint, device="cpu").state_dict()
    split_into_shards(checkpoint, suffix)
    loaded = chatglm2.load_model(checkpoint, device="cpu").state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_auto_classes_load_it_without_remote_code(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    model_class = "modeling_chatglm.ChatGLMForConditionalGeneration"
    config["auto_map"] = {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        **dict.fromkeys(("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"), model_class),
    }
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    own_tokenizer = {"auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]}}
    (checkpoint / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "ChatGLMTokenizer", **own_tokenizer}), encoding="utf-8"
    )
    for part in ("modeling", "configuration", "tokenization"):
        (checkpoint / f"{part}_chatglm.py").write_text("raise SystemExit('remote code ran')", encoding="utf-8")
    ours = chatglm2.load_model(checkpoint, device="cpu")
    # What the original's README tells people to pass must not bring back the code that no longer runs.
    for trusting in ({}, {"trust_remote_code": True}):
        for auto in (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM):
            model = auto.from_pretrained(checkpoint, dtype=torch.float32, **trusting)
            assert type(model) is ChatGLMForConditionalGeneration
            assert torch.equal(model(torch.tensor([[5, 6]])).logits, ours(torch.tensor([[5, 6]])).logits)
        assert type(AutoTokenizer.from_pretrained(checkpoint, **trusting)) is ChatGLMTokenizer


def test_a_saved_tokenizer_carries_no_code(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)
    tokenizer.register_for_auto_class()  # which transformers calls for classes of a checkpoint's own
    tokenizer.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.py"))


@pytest.mark.parametrize("projection", [False, True])
def test_auto_classes_start_a_prefix_that_alone_learns(checkpoint: Path, projection: bool) -> None:
    model = AutoModel.from_pretrained(checkpoint, pre_seq_len=64, prefix_projection=projection, dtype=torch.float32)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning and all(name.startswith("transformer.prefix_encoder.") for name in learning)
    prefix = model.transformer.prefix_encoder.embedding.weight
    assert abs(prefix.std() - 1) < 0.1  # N(0, 1), as in the original
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_saved_model_loads_again(checkpoint: Path, tmp_path: Path) -> None:
    model = chatglm2.load_model(checkpoint, device="cpu")
    model.save_pretrained(tmp_path / "saved")
    chatglm2.load_tokenizer(checkpoint).save_pretrained(tmp_path / "saved")
    again = chatglm2.load_model(tmp_path / "saved", device="cpu")
    assert torch.equal(again(torch.tensor([[5, 6]])).logits, model(torch.tensor([[5, 6]])).logits)
    assert chatglm2.load_tokenizer(tmp_path / "saved").encode("红色") == chatglm2.load_tokenizer(checkpoint).encode(
        "红色"
    )


def test_dtype_is_the_callers(checkpoint: Path) -> None:
    assert chatglm2.load_model(checkpoint, device="cpu").dtype == torch.float32
    assert chatglm2.load_model(checkpoint, device="cpu", dtype="bf16").dtype == torch.bfloat16
    assert chatglm2.load_model(checkpoint, device="cpu", dtype=torch.float16).dtype == torch.float16


def test_progress_ends_with_everything_loaded(checkpoint: Path) -> None:
    seen: list[LoadProgress] = []
    chatglm2.load_model(checkpoint, device="cpu", progress=seen.append)  # type: ignore[arg-type]
    assert [step.loaded_bytes for step in seen] == sorted(step.loaded_bytes for step in seen)
    assert seen[-1].loaded_bytes >= 0.9 * seen[-1].total_bytes


def test_weights_do_not_change_when_their_file_does(checkpoint: Path) -> None:
    model = chatglm2.load_model(checkpoint, device="cpu")
    before = model.transformer.output_layer.weight.clone()
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\xff" * 4096)
    assert torch.equal(model.transformer.output_layer.weight, before)


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if loading goes on to the weights."""

    def refuse(*_: object) -> None:
        raise AssertionError("weights are loaded, although something is wrong with them")

    monkeypatch.setattr("chatglm2.checkpoints.loading._fill", refuse)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_missing_shard_is_named(checkpoint: Path, suffix: str) -> None:
    shard = split_into_shards(checkpoint, suffix)[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"1 are missing \({shard.name}\)"):
        chatglm2.load_model(checkpoint)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("kept", [-1, 0.5, 0])
def test_a_truncated_shard_is_named(checkpoint: Path, suffix: str, kept: float) -> None:
    shard = split_into_shards(checkpoint, suffix)[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else int(kept)])
    with pytest.raises(CheckpointError, match=f"{shard.name}.*truncated or damaged"):
        chatglm2.load_model(checkpoint)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_shard_that_lacks_a_tensor_is_named(checkpoint: Path, suffix: str) -> None:
    shard = split_into_shards(checkpoint, suffix)[1]
    tensors = load_file(shard) if suffix == "safetensors" else torch.load(shard)
    del tensors["transformer.output_layer.weight"]
    if suffix == "safetensors":
        save_file(tensors, shard)
    else:
        torch.save(tensors, shard)
    with pytest.raises(CheckpointError, match=rf"lacks 1 .*output_layer\.weight.*should be in {shard.name}") as caught:
        chatglm2.load_model(checkpoint)
    assert shard.name in caught.value.zh


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', "[]"])
def test_an_index_without_files_is_named(checkpoint: Path, content: str) -> None:
    split_into_shards(checkpoint, "bin")
    (checkpoint / "pytorch_model.bin.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"pytorch_model\.bin\.index\.json (names no weight files|holds no settings)"
    ):
        chatglm2.load_model(checkpoint)


def test_a_truncated_index_is_named(checkpoint: Path) -> None:
    split_into_shards(checkpoint, "bin")
    index = checkpoint / "pytorch_model.bin.index.json"
    index.write_text(index.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"index\.json is not valid JSON"):
        chatglm2.load_model(checkpoint)


def test_weights_of_another_size_are_refused(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps(config | {"hidden_size": 64}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"has shape .* config.json asks for"):
        chatglm2.load_model(checkpoint)


def test_missing_tensors_are_named(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    del tensors["transformer.output_layer.weight"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"lacks 1 .*output_layer"):
        chatglm2.load_model(checkpoint)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"model_type": "llama"}', "model_type 'llama'"),
        ('{"model_type": "chatglm", "position_encoding_2d": true}', "first generation"),
        ("{", "not valid JSON"),
    ],
)
def test_another_models_config_is_refused(checkpoint: Path, content: str, words: str) -> None:
    (checkpoint / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=words):
        chatglm2.load_model(checkpoint)


def test_missing_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        chatglm2.load_model(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.model"):
        chatglm2.load_tokenizer(tmp_path / "empty")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        chatglm2.load_model(checkpoint)


def test_a_damaged_tokenizer_is_named(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match="cannot be read as a SentencePiece model"):
        chatglm2.load_tokenizer(checkpoint)


def test_a_model_computes_its_angles_as_it_is_asked_to(checkpoint: Path) -> None:
    exact, rounded = (
        chatglm2.load_model(checkpoint, device="cpu", dtype="fp16", rope_precision=precision)
        for precision in (None, "reference")
    )
    position = torch.tensor([[201]])
    assert exact.config.rope_precision == "fp32"
    assert not torch.equal(*(model.transformer.rotary_pos_emb(position) for model in (exact, rounded)))
