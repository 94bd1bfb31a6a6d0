"""A full-size checkpoint of random weights in the original's layout, for benchmarks where the real one cannot be had.

    python -m benchmarks.make_checkpoint --like DIR_WITH_CONFIG_AND_TOKENIZER --output DIR

Names, shapes, dtype and sharding are those of the original's config.json; the numbers are N(0, 0.02). It answers
nonsense at the speed and in the memory of the real model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch

from chatglm2 import ChatGLMForConditionalGeneration
from chatglm2.checkpoints.loading import read_config
from chatglm2.text.tokenizer import TOKENIZER_FILE

SHARDS = 7
SCALE = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", type=Path, required=True, help="directory with config.json and tokenizer.model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--layers", type=int, help="fewer layers than config.json says")
    arguments = parser.parse_args()
    write_checkpoint(arguments.like, arguments.output, arguments.layers)


def write_checkpoint(source: Path, output: Path, layers: int | None = None) -> None:
    """Write config, tokenizer and random fp16 shards into ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    content = json.loads((source / "config.json").read_text(encoding="utf-8"))
    content["num_layers"] = layers or content["num_layers"]
    (output / "config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    shutil.copyfile(source / TOKENIZER_FILE, output / TOKENIZER_FILE)
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(read_config(output))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(_split(shapes, SHARDS), 1):
        file = f"pytorch_model-{number:05}-of-{SHARDS:05}.bin"
        torch.save({name: _random(name, shapes[name], number) for name in names}, output / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 2 * sum(shape.numel() for shape in shapes.values())}, "weight_map": weight_map}
    (output / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


def _split(shapes: dict[str, torch.Size], parts: int) -> Iterator[list[str]]:
    """Names in order, in parts of about the same number of weights."""
    target = sum(shape.numel() for shape in shapes.values()) / parts
    names: list[str] = []
    filled, emitted = 0, 0
    for name, shape in shapes.items():
        names.append(name)
        filled += shape.numel()
        if filled >= target * (emitted + 1) and emitted < parts - 1:
            yield names
            names, emitted = [], emitted + 1
    yield names


def _random(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    if name.endswith("layernorm.weight"):
        return torch.ones(shape, dtype=torch.float16)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()) + seed)
    return (torch.randn(shape, generator=generator, device=device) * SCALE).half().cpu()


if __name__ == "__main__":
    main()
