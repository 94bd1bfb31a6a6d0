"""The engine on this machine, as ratios in one run: a second pane's cost, and one pane against ``generate()``.

python -m benchmarks.engine                     # the demo model
python -m benchmarks.engine --model DIR_OR_ID
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

import chatglm2
from benchmarks.common import median_ratio, report, time_in_turns
from chatglm2 import ChatGLMForConditionalGeneration, Engine, Prefix, Request, SamplingParams

DEMO_MODEL = Path(__file__).resolve().parent.parent / "assets" / "demo-model"
PREFIX_TOKENS = 16
PROMPT = "类型#上衣*材质#牛仔布*颜色#白色*风格#简约*图案#刺绣*衣样式#外套*衣款式#破洞"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL))
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each reply")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()

    model = chatglm2.load_model(arguments.model)
    prompt_ids = chatglm2.load_tokenizer(arguments.model).encode_prompt(PROMPT)
    model.config.eos_token_id = model.generation_config.eos_token_id = None  # every reply has its full length
    compare_panes(model, prompt_ids, arguments.tokens, arguments.rounds)
    if model.device.type == "cpu" and model.dtype == torch.float32:
        compare_products(model, arguments.rounds * 20)


def compare_panes(model: ChatGLMForConditionalGeneration, prompt_ids: list[int], tokens: int, rounds: int) -> None:
    """One pane, base and tuned together, and ``generate()``, each with the same sampling."""
    config = model.config
    shape = (config.num_layers, 2, PREFIX_TOKENS, config.multi_query_group_num, config.kv_channels)
    prefix = Prefix(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    sampling = SamplingParams(max_new_tokens=tokens)
    engine = Engine(model, slots=2)
    ids = torch.tensor([prompt_ids], device=model.device)

    def answer(*prefixes: Prefix | None) -> None:
        streams = [engine.submit(Request(prompt_ids, prefix, sampling)) for prefix in prefixes]
        assert all(len(list(stream)) == tokens for stream in streams)

    def generate() -> None:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
        )

    cases = {"one": lambda: answer(None), "two": lambda: answer(None, prefix), "generate": generate}
    seconds = time_in_turns(cases, rounds)
    engine.close()
    report(
        "engine",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        two_panes_over_one=median_ratio(seconds["two"], seconds["one"]),
        generate_over_one_pane=median_ratio(seconds["generate"], seconds["one"]),
        tokens_per_second_one_pane=tokens / statistics.median(seconds["one"]),
        tokens_per_second_generate=tokens / statistics.median(seconds["generate"]),
    )


@torch.inference_mode()
def compare_products(model: ChatGLMForConditionalGeneration, rounds: int) -> None:
    """All projections of the model once: why the CPU decoder multiplies as it does."""
    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    one = {weight.shape[1]: torch.randn(1, weight.shape[1]) for weight in weights}
    two = {width: row.expand(2, -1).contiguous() for width, row in one.items()}
    cases = {
        "x @ weight.T, one row": lambda: [F.linear(one[weight.shape[1]], weight) for weight in weights],
        "x @ weight.T, two rows": lambda: [F.linear(two[weight.shape[1]], weight) for weight in weights],
        "weight @ x.T, one row": lambda: [weight @ one[weight.shape[1]].T for weight in weights],
        "weight @ x.T, two rows": lambda: [weight @ two[weight.shape[1]].T for weight in weights],
    }
    seconds = time_in_turns(cases, rounds, warmup=10)
    report("products", **{f"{name} (ms)": 1000 * statistics.median(times) for name, times in seconds.items()})


if __name__ == "__main__":
    main()
