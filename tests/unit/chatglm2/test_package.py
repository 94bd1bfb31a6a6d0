"""The package loads what is asked for and no more, and joins transformers whichever is imported first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

import chatglm2

OURS, THEIRS = "import chatglm2", "from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer"
ORDERS = {
    "ours first": f"{OURS}\n{THEIRS}",
    "theirs first": f"{THEIRS}\n{OURS}",
    "model first": f"import chatglm2.model.modeling\n{THEIRS}",
    "generation first": f"{OURS}\nfrom transformers import GenerationMixin\n{THEIRS}",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


def run(program: str) -> str:
    """What ``program`` prints in a Python of its own, where nothing is imported yet."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_what_needs_no_torch_loads_none() -> None:
    rooms = "chatglm2, chatglm2.errors, chatglm2.sampling, chatglm2.model, chatglm2.serving, chatglm2.checkpoints"
    assert run(f"import sys, {rooms}\nprint(*{{'torch', 'transformers', 'numpy'}} & set(sys.modules))") == ""


@pytest.mark.parametrize("imports", ORDERS.values(), ids=ORDERS.keys())
def test_auto_classes_know_it_whichever_is_imported_first(checkpoint: Path, imports: str) -> None:
    program = f"""{imports}
for loaded in (AutoModel, AutoModelForCausalLM, AutoTokenizer):
    print(type(loaded.from_pretrained({str(checkpoint)!r})).__name__)
"""
    assert run(program).split() == ["ChatGLMForConditionalGeneration"] * 2 + ["ChatGLMTokenizer"]


def test_a_model_that_transformers_loads_chats(checkpoint: Path) -> None:
    program = f"""import chatglm2
from transformers import AutoModel, AutoTokenizer
model, tokenizer = (auto.from_pretrained({str(checkpoint)!r}) for auto in (AutoModel, AutoTokenizer))
assert model.chat_engine is None
reply, history = model.chat(tokenizer, "红色", history=[], max_length=40, do_sample=False)
assert list(model.stream_chat(tokenizer, "红色", max_length=40, do_sample=False))[-1] == (reply, history)
assert history == [("红色", reply)] and model.chat_engine is not None
assert type(model).chat_engine is None, "an engine belongs to one model"
"""
    run(program)


@pytest.mark.parametrize("name", chatglm2.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(chatglm2, name)
    assert value.__name__ == name and value.__module__.startswith("chatglm2.")
    assert name in dir(chatglm2)


def test_a_name_that_is_not_public_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'chatglm2' has no attribute 'load_nothing'"):
        chatglm2.load_nothing  # noqa: B018
