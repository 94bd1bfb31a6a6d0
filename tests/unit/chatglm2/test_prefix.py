"""Reading prefixes: what is inferred, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import build_model

from chatglm2 import ChatGLMForConditionalGeneration, load_prefix, save_prefix
from chatglm2.errors import PrefixError
from training.runs.checkpoints import find_checkpoints


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    return build_model()


def save_original_layout(encoder: torch.nn.Module, directory: Path) -> Path:
    file = directory / "pytorch_model.bin"
    torch.save({f"transformer.prefix_encoder.{name}": value for name, value in encoder.state_dict().items()}, file)
    return file


@pytest.mark.parametrize("projection", [False, True])
def test_both_formats_give_the_same_prefix(tmp_path: Path, projection: bool) -> None:
    model = build_model()
    encoder = model.prepare_prefix_tuning(6, prefix_projection=projection)
    (tmp_path / "ours").mkdir()
    (tmp_path / "original").mkdir()
    save_prefix(encoder.state_dict(), tmp_path / "ours")
    save_original_layout(encoder, tmp_path / "original")
    ours = load_prefix(tmp_path / "ours", model.config)
    original = load_prefix(tmp_path / "original", model.config)
    assert ours.length == 6
    assert ours.projection is projection
    assert ours.sha256 == original.sha256
    assert len(ours.short_hash) == 8
    torch.testing.assert_close(ours.key_values, encoder.eval().key_values().detach())


def test_unlike_prefixes_have_unlike_hashes(tmp_path: Path) -> None:
    hashes = set()
    for seed in (1, 2):
        model = build_model()
        torch.manual_seed(seed)
        hashes.add(load_prefix(save_prefix(model.prepare_prefix_tuning(4).state_dict(), tmp_path), model.config).sha256)
    assert len(hashes) == 2


def test_a_prefix_of_another_model_says_what_was_needed_and_found(tmp_path: Path, model) -> None:
    other = build_model(num_layers=2)
    save_prefix(other.prepare_prefix_tuning(4).state_dict(), tmp_path)
    with pytest.raises(PrefixError, match=r"expected 192 values a prefix token \(3 layers.*found 128 values") as caught:
        load_prefix(tmp_path, model.config)
    chinese = caught.value.localized("zh-CN")
    assert "需要每个前缀 token 192 个数值（3 层" in chinese and "values" not in chinese


@pytest.mark.parametrize("name", ["pytorch_model.bin", "prefix.safetensors"])
def test_a_truncated_file_is_called_damaged(tmp_path: Path, name: str) -> None:
    model = build_model()
    encoder = model.prepare_prefix_tuning(6)
    if name.endswith(".bin"):
        file = save_original_layout(encoder, tmp_path)
    else:
        file = save_prefix(encoder.state_dict(), tmp_path)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(PrefixError, match="truncated or damaged"):
        load_prefix(tmp_path, model.config)


def test_an_empty_file_is_called_damaged(tmp_path: Path, model) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(PrefixError, match="truncated or damaged"):
        load_prefix(tmp_path, model.config)


def test_code_in_a_pickle_is_never_run(tmp_path: Path, model) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "attacked",)  # type: ignore[return-value]

    torch.save({"transformer.prefix_encoder.embedding.weight": Attack()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(PrefixError):
        load_prefix(tmp_path, model.config)
    assert not (tmp_path / "attacked").exists()


def test_a_full_model_is_not_a_prefix(tmp_path: Path, model) -> None:
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(PrefixError, match="holds no prefix"):
        load_prefix(tmp_path, model.config)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = build_model()
    encoder = model.prepare_prefix_tuning(4)
    with torch.no_grad():
        encoder.embedding.weight[0, 0] = torch.nan
    save_prefix(encoder.state_dict(), tmp_path)
    with pytest.raises(PrefixError, match="not finite"):
        load_prefix(tmp_path, model.config)


def test_a_missing_path_and_an_empty_directory_have_their_own_words(tmp_path: Path, model) -> None:
    with pytest.raises(PrefixError, match="There is nothing at"):
        load_prefix(tmp_path / "nowhere", model.config)
    with pytest.raises(PrefixError, match="directory without a prefix"):
        load_prefix(tmp_path, model.config)


def test_a_checkpoint_directory_as_the_original_leaves_it_loads_and_nothing_else_in_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the prefix lie pickles of whole Python objects, which to open is to run."""
    model = build_model()
    encoder = model.prepare_prefix_tuning(6)
    checkpoint = tmp_path / "checkpoint-3000"
    checkpoint.mkdir()
    prefix_file = save_original_layout(encoder, checkpoint)
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": Unopenable(tmp_path / "attacked")}, checkpoint / name)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        (checkpoint / name).write_text("{}", encoding="utf-8")
    (checkpoint / "trainer_state.json").write_text('{"log_history": [{"loss": 3.5, "step": 3000}]}', encoding="utf-8")
    opened: list[Path] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: opened.append(Path(file)) or load(file, **options))
    torch.testing.assert_close(load_prefix(checkpoint, model.config).key_values, encoder.eval().key_values().detach())
    assert opened == [prefix_file]
    (info,) = find_checkpoints(checkpoint)
    assert (info.step, info.loss) == (3000, 3.5)
    assert not info.can_resume and not (tmp_path / "attacked").exists()


class Unopenable:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)
