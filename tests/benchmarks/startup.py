"""Seconds from a Parquet file to the first step: what a run does with its pool before it loads a model.

    python tests/benchmarks/startup.py
    python tests/benchmarks/startup.py --tasks 10000000 --kinds sums
    python tests/benchmarks/startup.py --tokenizer FOLDER

Measured one after the other in one process: reading and checking the file, features, the selector's start, the hashes
that checkpoints hold, answers (MathReward is asked about each) and prompts; * is what only the first rank does. Beside
them, what the checks of prompts would take one prompt at a time, from a sample; the ratios are that over ours. Of
"questions", half of the answers are small integers, a quarter fractions and a quarter decimals that none other has. The
tokenizer is a BPE of 8,000 tokens that is trained on the spot, with ChatML's template.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pool_memory import chats, sums, write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bots_lightning.beliefs import AbilityBelief
from bots_lightning.rewards import MathReward, Scorer
from bots_lightning.rollouts import PromptEncoder
from bots_lightning.selection import FairShareSelector
from bots_lightning.tasks import ParquetTasks, TaskPool
from bots_lightning.training.pools import check_answers, check_prompts

T = TypeVar("T")
SAMPLE = 1000  # prompts that are encoded one at a time
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def questions(rows: range, words: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """Rows with groups and chats of some 250 characters."""
    contents = [" ".join(words[rng.integers(len(words), size=35)]) + f" {row}?" for row in rows]
    return pa.table(
        {
            "prompt": [[{"role": "user", "content": content}] for content in contents],
            "answer": [answer_of(row) for row in rows],
            "group": [f"source {row % 7}" for row in rows],
            "weak_pass_rate": rng.integers(0, 9, len(rows)) / 8,
        }
    )


def answer_of(row: int) -> str:
    """Some are shared by many tasks."""
    if row % 4 < 2:
        return str(row // 4 % 1000)
    return f"\\frac{{{row // 4 % 97}}}{{{row // 388 % 89 + 1}}}" if row % 4 == 2 else f"{row / 100}"


KINDS: dict[str, Callable[..., pa.Table]] = {"sums": sums, "questions": questions, "chats": chats}


def small_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE as Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[2], chat_template=CHATML)


def texts_of(pool: TaskPool) -> list[str]:
    """Some prompts as text."""
    prompts = [task.prompt for task in pool.select(range(min(len(pool), 2000)))]
    return [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]


def seconds_of(name: str, action: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and how long that takes; printed."""
    start = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - start
    print(f"  {name:<42}{seconds:>9.2f} s", flush=True)
    return result, seconds


def measure(path: Path, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """All of it for one file."""
    pool, total = seconds_of("read, tasks checked", lambda: ParquetTasks(path).load())
    features, seconds = seconds_of("features, fingerprint, groups", lambda: _grouped(pool.features()))
    total += seconds
    selector = FairShareSelector(AbilityBelief())
    total += seconds_of("selector and belief set up", lambda: selector.setup(features))[1]
    total += seconds_of("hashes for checkpoints", lambda: pool.contents)[1]
    scorer, pools = Scorer([MathReward()]), {"training": pool}
    total += seconds_of("answers *", lambda: check_answers(pools, scorer))[1]
    encoder = PromptEncoder(tokenizer or small_tokenizer(texts_of(pool)), 512, truncate=False)
    encoder.most = 4096  # nothing is refused, and much is short by its bytes
    _, seconds = seconds_of("prompts *, at most 4,096 tokens", lambda: check_prompts(pools, encoder))
    print(f"  {'together':<42}{total + seconds:>9.2f} s")
    encoder.max_prompt_length = encoder.most = 512
    _, tight = seconds_of("prompts *, at most 512 tokens", lambda: _checked(pools, encoder))
    start = time.perf_counter()
    for task in pool.select(range(SAMPLE)):
        encoder.fault(task.prompt)
    single = (time.perf_counter() - start) * len(pool) / SAMPLE
    print(f"  {'prompts, one at a time':<42}{single:>9.2f} s: {single / seconds:.0f} and {single / tight:.0f} times")


def _grouped(features: Any) -> Any:
    features.group_codes  # noqa: B018 - computed once
    return features


def _checked(pools: dict[str, TaskPool], encoder: PromptEncoder) -> None:
    try:
        check_prompts(pools, encoder)
    except ValueError as error:
        print(f"  ({str(error)[:60]} …)")


def main() -> None:
    """Writes the files and measures each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="+", default=["sums", "questions"], choices=list(KINDS))
    parser.add_argument("--tokenizer", help="a checkpoint folder or Hub name")
    parser.add_argument("--folder", type=Path, help="where the files go while it runs; a temporary folder by default")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer) if options.tokenizer else None
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for kind in options.kinds:
            path = Path(folder) / f"{kind}.parquet"
            write(path, options.tasks, KINDS[kind])
            print(f"{kind}: {options.tasks:,} tasks, {path.stat().st_size / 2**20:.0f} MB")
            measure(path, tokenizer)
            path.unlink()


if __name__ == "__main__":
    main()
