"""Exports: the original's scripts, peft over GlmForCausalLM, and back, with the same tensors or the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoint import CONFIG, write_tiny_checkpoint
from torch import Tensor
from transformers import GlmForCausalLM

import chatglm2
from chatglm2 import ChatGLMForConditionalGeneration, Prefix, load_prefix, save_prefix
from chatglm2.checkpoints.export import (
    PEFT_FILE,
    PEFT_TENSOR,
    export_glm,
    export_original,
    export_peft,
    read_prefix_state,
)
from chatglm2.checkpoints.loading import LoadProgress
from chatglm2.errors import ChatGLMError, CheckpointError, PrefixError
from chatglm2.model.prefix import TENSOR_NAMESPACE, load_prefix_state
from chatglm2.model.quantization import quantize_model
from training.cli.export import main
from training.runs.checkpoints import METADATA_FILE

LENGTH = 5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def model(base: Path) -> ChatGLMForConditionalGeneration:
    return chatglm2.load_model(base, dtype="fp32", device="cpu")


@pytest.fixture(params=[False, True], ids=["plain", "projection"])
def checkpoint(base: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A checkpoint-40 as a run of ours leaves it."""
    return write_checkpoint(base, tmp_path / "my-run" / "checkpoint-40", projection=request.param)


def write_checkpoint(base: Path, directory: Path, *, projection: bool = False) -> Path:
    torch.manual_seed(7)
    trainable = chatglm2.load_model(base, dtype="fp32", device="cpu")
    directory.mkdir(parents=True)
    save_prefix(trainable.prepare_prefix_tuning(LENGTH, projection).state_dict(), directory)
    metadata = {"step": 40, "base_model": str(base), "settings": {"quantization_bit": 4}}
    (directory / METADATA_FILE).write_text(json.dumps(metadata), encoding="utf-8")
    return directory


def stored(file: Path) -> dict[str, Tensor]:
    return torch.load(file, weights_only=True)


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name


def test_the_originals_file_holds_the_same_tensors_and_comes_back_the_same(
    checkpoint: Path, tmp_path: Path, model: ChatGLMForConditionalGeneration
) -> None:
    assert main([str(checkpoint), "--format", "original", "--output", str(tmp_path / "exported")]) == 0
    ours = load_file(checkpoint / "prefix.safetensors")
    exported = stored(tmp_path / "exported" / "pytorch_model.bin")
    assert_same_tensors(exported, ours)
    assert all(name.startswith(TENSOR_NAMESPACE) for name in exported)
    back = load_prefix_state(tmp_path / "exported", model.config)
    assert_same_tensors({TENSOR_NAMESPACE + name: tensor for name, tensor in back.items()}, ours)
    config = json.loads((tmp_path / "exported" / "config.json").read_text(encoding="utf-8"))
    prefix = {"pre_seq_len": LENGTH, "prefix_projection": len(ours) > 1, "quantization_bit": 4}
    assert config == CONFIG | prefix


@pytest.mark.parametrize("flag", ["--beside", "--average"])
def test_prefixes_are_combined_into_an_ordinary_checkpoint(
    checkpoint: Path, base: Path, tmp_path: Path, model: ChatGLMForConditionalGeneration, flag: str
) -> None:
    other = tmp_path / "other" / "checkpoint-20"
    other.mkdir(parents=True)
    torch.manual_seed(8)
    encoder = chatglm2.load_model(base, dtype="fp32", device="cpu").prepare_prefix_tuning(LENGTH)
    save_prefix(encoder.state_dict(), other)
    output = tmp_path / "both"
    assert main([str(checkpoint), flag, str(other.parent), "--output", str(output)]) == 0
    assert sorted(file.name for file in output.iterdir()) == ["config.json", "pytorch_model.bin"]
    parts = [chatglm2.load_prefix(place, model.config).key_values for place in (checkpoint, other)]
    expected = torch.cat(parts, dim=2) if flag == "--beside" else torch.stack(parts).mean(dim=0)
    found = chatglm2.load_prefix(output, model.config)
    assert torch.equal(found.key_values, expected)
    assert json.loads((output / "config.json").read_text())["pre_seq_len"] == found.length == expected.shape[2]
    assert sorted(place.name for place in tmp_path.iterdir()) == ["both", "my-run", "other"]


@pytest.mark.parametrize("name", ["prefix", "prefix-projection"])
def test_the_originals_own_prefixes_survive_our_format(
    golden: Path, tiny_model_dir: Path, tmp_path: Path, name: str
) -> None:
    config = chatglm2.ChatGLMConfig.from_pretrained(tiny_model_dir)
    save_prefix(load_prefix_state(golden / name, config), tmp_path)
    (tmp_path / "exported").mkdir()
    export_original(tmp_path / "prefix.safetensors", tiny_model_dir, tmp_path / "exported")
    assert_same_tensors(stored(tmp_path / "exported/pytorch_model.bin"), stored(golden / name / "pytorch_model.bin"))


@pytest.fixture(scope="module")
def glm_directory(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("glm")
    export_glm(base, directory)
    return directory


def load_glm(directory: Path) -> GlmForCausalLM:
    return GlmForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@torch.no_grad()
def test_glm_gives_the_same_logits(glm_directory: Path, model: ChatGLMForConditionalGeneration) -> None:
    ids = torch.randint(3, 400, (2, 20), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(load_glm(glm_directory)(ids).logits, model(ids).logits, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["chatglm2-tiny", "demo"])
def test_glm_is_made_of_shards_and_loads_with_its_tokenizer(
    request: pytest.FixtureRequest, demo_model_dir: Path, tmp_path: Path, name: str
) -> None:
    source = demo_model_dir if name == "demo" else request.getfixturevalue("tiny_model_dir")
    assert len(list(source.glob("*.bin"))) > 1
    export_glm(source, tmp_path)
    ids = torch.randint(3, 200, (1, 30), generator=torch.Generator().manual_seed(2))
    ours = chatglm2.load_model(source, dtype="fp32", device="cpu")(ids).logits
    torch.testing.assert_close(load_glm(tmp_path)(ids).logits, ours, atol=2e-5, rtol=1e-5)
    assert chatglm2.load_tokenizer(tmp_path).encode("你好") == chatglm2.load_tokenizer(source).encode("你好")


def test_a_large_glm_is_written_in_shards_of_a_size_that_hold_the_same(
    base: Path, glm_directory: Path, tmp_path: Path
) -> None:
    steps: list[LoadProgress] = []
    export_glm(base, tmp_path, steps.append, shard_bytes=60_000)
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 2 and max(file.stat().st_size for file in files) < 63_000  # with the names in front
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    whole = load_file(glm_directory / "model.safetensors")
    assert_same_tensors({name: tensor for file in files for name, tensor in load_file(file).items()}, whole)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"] == {name: file.name for file in files for name in load_file(file)}
    assert [step.loaded_bytes for step in steps] == sorted({step.loaded_bytes for step in steps})
    assert steps[-1].loaded_bytes == steps[-1].total_bytes == sum(tensor.nbytes for tensor in whole.values())
    assert load_glm(tmp_path).state_dict().keys() == load_glm(glm_directory).state_dict().keys()


@torch.no_grad()
def test_glm_stretches_positions_as_a_long_context_model_does(base: Path, tmp_path: Path) -> None:
    stretched = write_tiny_checkpoint(tmp_path / "stretched")
    (stretched / "config.json").write_text(json.dumps(CONFIG | {"rope_ratio": 16}), encoding="utf-8")
    (tmp_path / "glm").mkdir()
    export_glm(stretched, tmp_path / "glm")
    ids = torch.randint(3, 400, (1, 40), generator=torch.Generator().manual_seed(3))
    ours = chatglm2.load_model(stretched, dtype="fp32", device="cpu")(ids).logits
    torch.testing.assert_close(load_glm(tmp_path / "glm")(ids).logits, ours, atol=1e-5, rtol=0)
    assert (ours - chatglm2.load_model(base, dtype="fp32", device="cpu")(ids).logits).abs().max() > 1e-3


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and positions of two rows, the first padded on the left."""
    ids = torch.randint(3, 400, (2, 16), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
class TestPeft:
    """What peft computes with the adapter over Glm is what we compute with the prefix."""

    @pytest.fixture
    def prefix(self, checkpoint: Path, model: ChatGLMForConditionalGeneration) -> Prefix:
        return load_prefix(checkpoint, model.config)

    @pytest.fixture
    def adapter(self, checkpoint: Path, tmp_path: Path) -> Path:
        assert main([str(checkpoint), "--format", "peft", "--output", str(tmp_path / "adapter")]) == 0
        return tmp_path / "adapter"

    @pytest.fixture
    def tuned(self, adapter: Path, glm_directory: Path) -> torch.nn.Module:
        peft = pytest.importorskip("peft", reason="peft is not installed; requirements-dev.txt has it")
        return peft.PeftModel.from_pretrained(load_glm(glm_directory), adapter).eval()

    @torch.no_grad()
    def test_logits(self, tuned, prefix: Prefix, model, batch) -> None:
        ids, mask, positions = batch
        ours = model(ids, prefix=prefix).logits
        torch.testing.assert_close(tuned(input_ids=ids).logits, ours, atol=1e-5, rtol=0)
        assert (ours - model(ids).logits).abs().max() > 0.1
        padded = tuned(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        text = mask.bool()
        torch.testing.assert_close(padded[text], model(ids, mask, prefix=prefix).logits[text], atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_generated_tokens_and_their_logits(self, tuned, prefix: Prefix, model, batch) -> None:
        ids, mask, _ = batch
        options = {
            "attention_mask": mask,
            "max_new_tokens": 12,
            "do_sample": False,
            "eos_token_id": None,
            "return_dict_in_generate": True,
            "output_logits": True,
        }
        theirs, ours = tuned.generate(input_ids=ids, **options), model.generate(ids, prefix=prefix, **options)
        assert theirs.sequences.tolist() == ours.sequences.tolist()
        torch.testing.assert_close(torch.stack(theirs.logits), torch.stack(ours.logits), atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_without_turned_keys_the_answer_would_be_another(self, adapter: Path, tuned, prefix, model, batch) -> None:
        tuned.prompt_encoder["default"].embedding.weight.copy_(prefix.key_values.permute(2, 0, 1, 3, 4).flatten(1))
        ids = batch[0]
        assert (tuned(input_ids=ids).logits - model(ids, prefix=prefix).logits).abs().max() > 1e-3

    def test_an_adapter_comes_back_as_the_prefix(self, adapter: Path, prefix: Prefix, base: Path) -> None:
        output = adapter.with_name("back")
        assert main([str(adapter), "--base-model", str(base), "--output", str(output)]) == 0
        back = load_prefix(output, chatglm2.ChatGLMConfig.from_pretrained(base))
        torch.testing.assert_close(back.key_values, prefix.key_values, atol=1e-6, rtol=1e-6)


def test_an_export_that_fails_leaves_nothing_and_none_replaces_another(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_checkpoint(base, tmp_path / "run" / "checkpoint-40")
    output = tmp_path / "out" / "exported"
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("file write failed")))
        assert main([str(checkpoint), "--output", str(output)]) == 2
    assert "could not be written. Check that its disk has space" in capsys.readouterr().err
    assert not list(output.parent.iterdir())
    assert main([str(checkpoint.parent), "--output", str(output)]) == 0  # a run stands for its last checkpoint
    before = (output / "pytorch_model.bin").read_bytes()
    assert main([str(checkpoint), "--format", "peft", "--output", str(output)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (output / "pytorch_model.bin").read_bytes() == before


def test_a_checkpoint_that_does_not_know_its_base_asks_for_it(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_checkpoint(base, tmp_path / "checkpoint-40")
    arguments = [str(checkpoint), "--output", str(tmp_path / "exported")]
    (checkpoint / METADATA_FILE).write_text(json.dumps({"base_model": "/gone/away"}), encoding="utf-8")
    assert main(arguments) == 2
    assert "/gone/away, which the checkpoint names, was not found. Name its" in capsys.readouterr().err
    (checkpoint / METADATA_FILE).unlink()
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(arguments) == 2
    assert "请用 --base-model 指定" in capsys.readouterr().err
    assert main([*arguments, "--base-model", str(base)]) == 0


@pytest.mark.parametrize(
    ("content", "tensors", "words"),
    [
        ({"peft_type": "LORA"}, {}, "expected peft_type PREFIX_TUNING, found LORA"),
        ({"peft_type": "PREFIX_TUNING"}, {"lora": torch.zeros(1)}, f"without {PEFT_TENSOR}"),
        ({"peft_type": "PREFIX_TUNING"}, {PEFT_TENSOR: torch.zeros(3, 7)}, r"expected 64 .* found a tensor of 3 × 7"),
        ({"peft_type": "PREFIX_TUNING"}, None, "missing, damaged"),
    ],
)
def test_an_adapter_that_is_no_prefix_of_this_model_is_refused(
    model, tmp_path: Path, content: dict[str, str], tensors: dict[str, Tensor] | None, words: str
) -> None:
    from safetensors.torch import save_file

    (tmp_path / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    if tensors is not None:
        save_file(tensors, tmp_path / PEFT_FILE)
    with pytest.raises(PrefixError, match=words):
        read_prefix_state(tmp_path, model.config)


def test_a_prefix_that_is_not_finite_is_not_exported(base: Path, tmp_path: Path, model) -> None:
    state = {"embedding.weight": torch.full((3, model.config.prefix_width), torch.nan)}
    file = save_prefix(state, tmp_path)
    for export in (export_original, export_peft):
        with pytest.raises(PrefixError, match="not finite"):
            export(file, base, tmp_path)


def test_glm_is_not_made_of_quantized_or_damaged_weights(base: Path, tmp_path: Path) -> None:
    quantize_model(chatglm2.load_model(base, dtype="fp32", device="cpu"), 8).save_pretrained(tmp_path / "int8")
    (tmp_path / "glm").mkdir()
    with pytest.raises(CheckpointError, match="GlmForCausalLM needs the original weights"):
        export_glm(tmp_path / "int8", tmp_path / "glm")
    broken = write_tiny_checkpoint(tmp_path / "broken")
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ChatGLMError, match="truncated or damaged"):
        export_glm(broken, tmp_path / "glm")
    assert not list((tmp_path / "glm").iterdir())
