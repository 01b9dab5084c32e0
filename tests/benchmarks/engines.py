"""Tokens per second of the engines that sample rollouts in this process, on the same completions.

    python tests/benchmarks/engines.py
    python tests/benchmarks/engines.py --static --continuous-batching
    python tests/benchmarks/engines.py --device cuda --dtype bfloat16 --scale 16

Models have random weights; the lengths of completions are given. Each repetition measures every engine once, so that
the machine's load affects all alike; what counts is the ratio to `generate` within a repetition, of which median, least
and most are shown. A repetition before the first starts threads and compiles what is to be compiled; it does not count.
Seconds are the processor's on a CPU, which other programs disturb least, and the clock's on CUDA.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from bots_lightning.rollouts import GenerateEngine, GenerationRequest, RolloutEngine, Rollouts, SamplingParams
from bots_lightning.rollouts.compact import CompactEngine

STOP, PAD = 0, 1  # the stop token is the first word, so that noise of 0 draws it
LONGEST_PROMPT = 24
Lengths = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Workload:
    """Prompts, and how long their completions are.

    Attributes:
        name: what it stands for.
        hidden_size: of the model.
        num_layers: of the model.
        num_prompts: with 8 to 24 tokens each.
        n: completions per prompt.
        limit: max_completion_length.
        lengths: (generator, rows) to the tokens of each completion.
        max_tokens: that KV caches hold; `GenerateEngine` gets the rows that fit.
    """

    name: str
    hidden_size: int
    num_layers: int
    num_prompts: int
    n: int
    limit: int
    lengths: Lengths
    max_tokens: int = 2**18


def between(low: int, high: int, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Lengths drawn uniformly."""
    return rng.integers(low, high + 1, rows)


def long_tailed(short: int, rng: np.random.Generator, rows: int) -> np.ndarray:
    """One in twenty is 20 times as long."""
    return np.where(rng.permutation(rows) % 20 == 0, 20 * short, short)


TAIL = partial(long_tailed, 12)
WORKLOADS = (
    Workload("quickstart: 2 to 8 of 12 tokens", 64, 2, 32, 16, 12, partial(between, 2, 8)),
    Workload("10 x larger: 1 to 256 tokens", 160, 3, 8, 16, 256, partial(between, 1, 256)),
    Workload("long tail: 12 tokens, 5 % of 240", 160, 3, 8, 16, 256, TAIL),
    Workload("long tail, an eighth of the rows at a time", 160, 3, 32, 16, 256, TAIL, max_tokens=64 * 280),
    Workload("alike: 256 tokens", 160, 3, 8, 16, 256, partial(between, 256, 256)),
)


def random_model(workload: Workload, options: argparse.Namespace) -> PreTrainedModel:
    """A Qwen3 shaped like the quickstart's."""
    hidden_size = workload.hidden_size * options.scale
    config = Qwen3Config(
        vocab_size=options.words,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=workload.num_layers,
        num_attention_heads=2 * options.scale,
        num_key_value_heads=2 * options.scale,
        head_dim=workload.hidden_size // 2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, options.dtype))
    return model.to(options.device).eval()


def noise_for(lengths: np.ndarray, seeds: Sequence[int], counts: Sequence[int], length: int) -> Tensor:
    """In place of `uniform_noise`: (R, T) that draws the stop token at the given length and not before."""
    noise = np.random.default_rng(seeds[0]).uniform(0.5, 1.0, (len(lengths), length))
    noise[np.arange(len(lengths)), lengths - 1] = 0.0
    return torch.from_numpy(noise)


def engines_for(workload: Workload, options: argparse.Namespace) -> dict[str, RolloutEngine]:
    """The engines by name, `generate` first, all within the workload's tokens."""
    row = LONGEST_PROMPT + workload.limit
    engines: dict[str, RolloutEngine] = {
        "generate": GenerateEngine(max_rows=workload.max_tokens // row),
        "compact": CompactEngine(max_tokens=workload.max_tokens),
    }
    if options.static:
        engines["compact, static"] = CompactEngine(max_tokens=workload.max_tokens, static=True)
    if options.continuous_batching:
        from continuous_batching import ContinuousBatchingEngine  # not in every transformers that the package takes

        max_rows = min(options.rows, workload.max_tokens // row, workload.num_prompts * workload.n)
        engines["continuous batching"] = ContinuousBatchingEngine(max_rows, longest_row=row)
    return engines


@contextmanager
def completions_of(lengths: np.ndarray, engines: Iterable[RolloutEngine]) -> Iterator[None]:
    """The engines draw completions of these lengths."""
    with ExitStack() as patches:
        for engine in engines:
            module = sys.modules[type(engine).__module__]
            patches.enter_context(patch.object(module, "uniform_noise", partial(noise_for, lengths)))
        yield


def seconds(device: str) -> float:
    """The processor's time, or the clock's once CUDA has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def measure(workload: Workload, options: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens per second of each engine, one value for each repetition."""
    rng, model = np.random.default_rng(0), random_model(workload, options)
    prompts = [
        rng.integers(2, options.words, size).tolist()
        for size in rng.integers(8, LONGEST_PROMPT + 1, workload.num_prompts)
    ]
    lengths = workload.lengths(rng, workload.num_prompts * workload.n)
    sampling = SamplingParams(workload.limit, (STOP,), PAD)
    request = GenerationRequest(model, prompts, [workload.n] * len(prompts), sampling, range(len(prompts)))
    engines = engines_for(workload, options)
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    with completions_of(lengths, engines.values()):
        for repetition in track(range(options.repetitions + 1), workload.name, transient=True):
            sampled: list[Rollouts] = []
            for name, engine in engines.items():
                start = seconds(options.device)
                sampled.append(engine.generate(request))
                speed = int(lengths.sum()) / (seconds(options.device) - start)
                if repetition > 0:  # the first one starts threads and libraries
                    speeds[name].append(speed)
            for rollouts in sampled:
                assert rollouts.lengths.tolist() == lengths.tolist()
    return speeds


def main() -> None:
    """Measures all workloads and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--words", type=int, default=64, help="Of the vocabulary.")
    parser.add_argument("--scale", type=int, default=1, help="Multiplies widths.")
    parser.add_argument("--static", action="store_true", help="Also `CompactEngine(static=True)`.")
    parser.add_argument("--continuous-batching", action="store_true", help="transformers' own, as one more engine.")
    parser.add_argument("--rows", type=int, default=64, help="In flight at once, of continuous batching.")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", type=int, choices=range(len(WORKLOADS)), help="One workload, by number.")
    options = parser.parse_args()
    table: Table | None = None
    for workload in WORKLOADS if options.only is None else [WORKLOADS[options.only]]:
        speeds = measure(workload, options)
        table = table or new_table(options.device, list(speeds))
        table.add_row(workload.name, *cells(speeds))
    Console(width=max(160, Console().width)).print(table)


def new_table(device: str, engines: Sequence[str]) -> Table:
    """A column of tokens per second for each engine, and one of ratios for each but the first."""
    table = Table(title=f"tokens per second on {device}, {torch.get_num_threads()} threads")
    table.add_column("workload")
    for name in engines:
        table.add_column(name, justify="right")
        if name != engines[0]:
            table.add_column(f"/ {engines[0]}", justify="right")
    return table


def cells(speeds: dict[str, list[float]]) -> Iterator[str]:
    """Median tokens per second of each engine; of all but the first, also the ratio to it: median, least and most."""
    reference, *_ = speeds.values()
    for speed in speeds.values():
        yield f"{median(speed):,.0f}"
        if speed is not reference:
            ratios = [mine / theirs for mine, theirs in zip(speed, reference, strict=True)]
            yield f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


if __name__ == "__main__":
    main()
