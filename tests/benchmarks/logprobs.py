"""Memory and time of log-probabilities and entropies over a large vocabulary, forward and backward.

    python tests/benchmarks/logprobs.py
    python tests/benchmarks/logprobs.py --device cuda --hidden 4096 --dtype bfloat16 --naive_tokens 8192

8,192 tokens × 151,936 words (Qwen's), a loss of log-probabilities and entropies. Each variant runs in a process of its
own: "naive" takes one log-softmax in float32 over all logits, of fewer tokens where 8,192 do not fit (it needs about
five times its logits); "trainable head" calls the head chunk by chunk under activation checkpointing; "frozen head"
has the backward pass written by hand. Peaks are above the level before the call: resident memory (Linux), or what
PyTorch allocated on CUDA. They include the gradients of hidden states and head; the head's is listed beside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bots_lightning.policy.vocabulary import token_logprobs

VARIANTS = ("naive", "trainable head", "frozen head")
MIB = 2**20


def peak_bytes(device: str) -> int:
    """The highest level of memory since `reset_peak`."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def reset_peak(device: str) -> None:
    """Lets the highest level start from the present one."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def naive(hidden: Tensor, head: nn.Linear, targets: Tensor) -> tuple[Tensor, Tensor]:
    """One log-softmax in float32 over all logits."""
    log_p = head(hidden).float().log_softmax(dim=-1)
    return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1), -(log_p.exp() * log_p).sum(dim=-1)


def forward_backward(
    variant: str, hidden: Tensor, head: nn.Linear, targets: Tensor, options: argparse.Namespace
) -> None:
    """A loss in which every log-probability and every entropy has a weight of its own, and its gradients."""
    if variant == "naive":
        logprobs, entropy = naive(hidden, head, targets)
    else:
        logprobs, entropy = token_logprobs(hidden, head, targets, chunk_size=options.chunk_size)
    weights = torch.linspace(-1, 1, len(targets), device=hidden.device)
    ((logprobs * weights).sum() - (entropy * weights).sum()).backward()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Tokens, seconds, and peak bytes of one variant, in this process."""
    torch.manual_seed(0)
    variant, place = options.variant, {"device": options.device, "dtype": getattr(torch, options.dtype)}
    tokens = min(options.tokens, options.naive_tokens) if variant == "naive" else options.tokens
    head = nn.Linear(options.hidden, options.words, bias=False, **place).requires_grad_(variant != "frozen head")
    hidden = torch.randn(tokens, options.hidden, requires_grad=True, **place)
    targets = torch.randint(options.words, (tokens,), device=options.device)
    forward_backward(variant, hidden[:1], head, targets[:1], options)  # threads and libraries start
    hidden.grad = head.weight.grad = None
    reset_peak(options.device)
    before, start = peak_bytes(options.device), time.perf_counter()
    forward_backward(variant, hidden, head, targets, options)
    peak = peak_bytes(options.device) - before
    if options.device == "cuda":
        torch.cuda.synchronize()
    weights_gradient = 0 if head.weight.grad is None else head.weight.grad.nbytes
    return {"tokens": tokens, "seconds": time.perf_counter() - start, "peak": peak, "head": weights_gradient}


def in_own_process(variant: str) -> dict[str, float]:
    """`measure` in a fresh process with the same options."""
    command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def table_of(measured: dict[str, dict[str, float]], options: argparse.Namespace) -> Table:
    """One line for each variant."""
    table = Table(title=f"{options.words:,} words, hidden size {options.hidden:,}, {options.dtype} on {options.device}")
    table.add_column("variant")
    for name in ("tokens", "seconds", "tokens/s", "of naive", "peak MiB", "of float32 logits", "head's gradient MiB"):
        table.add_column(name, justify="right")
    speed = {variant: m["tokens"] / m["seconds"] for variant, m in measured.items()}
    for variant, m in measured.items():
        times = (f"{m['tokens']:,}", f"{m['seconds']:.1f}", f"{speed[variant]:,.0f}")
        ratio, share = speed[variant] / speed["naive"], m["peak"] / (m["tokens"] * options.words * 4)
        table.add_row(
            variant, *times, f"{ratio:.2f}", f"{m['peak'] / MIB:,.0f}", f"{share:.1%}", f"{m['head'] / MIB:,.0f}"
        )
    return table


def main() -> None:
    """Measures all variants and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--naive_tokens", type=int, default=2048, help="Of the naive variant, at most.")
    parser.add_argument("--words", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--chunk_size", type=int, help="Tokens at a time; by default what the library takes.")
    parser.add_argument("--variant", choices=VARIANTS, help="Measures only this, here, and prints JSON.")
    options = parser.parse_args()
    if options.variant is not None:
        print(json.dumps(measure(options)))
        return
    measured = {variant: in_own_process(variant) for variant in VARIANTS}
    Console().print(table_of(measured, options))
    logits = options.tokens * options.words * 4 / MIB
    print(
        f"Float32 logits of {options.tokens:,} tokens: {logits:,.0f} MiB. Shares are of each line's own tokens' logits."
    )


if __name__ == "__main__":
    main()
