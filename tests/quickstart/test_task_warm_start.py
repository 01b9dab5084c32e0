"""The warm start on any source: what it is shown, what it reads, and when it is made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bots_lightning.quickstart.task_warm_start import TaskWarmStart
from bots_lightning.quickstart.warm_start import _supervised_loss
from bots_lightning.tasks import ProceduralTasks, TaskPool, TaskSource

EXAMPLES = [(f"Twice {n}?", str(2 * n)) for n in range(10)]
SMALL: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "batch_size": 8}


class Twice(TaskSource):
    """Ten tasks."""

    def __init__(self, examples: Any = EXAMPLES) -> None:
        self.examples = examples

    def load(self) -> TaskPool:
        return TaskPool.from_rows([{"id": f"{p}{a}", "prompt": p, "answer": a} for p, a in self.examples])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTS_LIGHTNING_CACHE", str(tmp_path))


def loss(folder: str, examples: list[tuple[str, str]]) -> float:
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder)
        return float(_supervised_loss(model, AutoTokenizer.from_pretrained(folder), examples))


def test_it_learns_the_answers_of_its_source() -> None:
    assert loss(TaskWarmStart(Twice(), steps=120, **SMALL).prepare(), EXAMPLES) < 1.2  # ten answers: log 10 = 2.3
    assert loss(TaskWarmStart(Twice(), steps=1, **SMALL).prepare(), EXAMPLES) > 2.0


def test_its_alphabet_and_its_length_are_those_of_the_pool() -> None:
    folder = TaskWarmStart(Twice(), steps=1, **SMALL).prepare()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert set(tokenizer.get_vocab()) == {*" ?Ticew", *"0123456789", "<pad>", "<stop>", "<unk>"}
    assert AutoConfig.from_pretrained(folder).max_position_embeddings == 2 * (len("Twice 9?") + len("18") + 1)


def test_every_task_is_as_likely_as_any_other() -> None:
    drawn = TaskWarmStart(Twice()).examples(np.random.default_rng(0), 5_000)
    counts = np.array([drawn.count(example) for example in EXAMPLES])
    assert counts.sum() == 5_000
    assert (abs(counts - 500) < 5 * np.sqrt(500)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"source": Twice(EXAMPLES[:9])},
        {"source": ProceduralTasks(10)},
        {"steps": 41},
        {"hidden_size": 32},
        {"num_layers": 2},
        {"batch_size": 9},
        {"learning_rate": 1e-3},
        {"seed": 1},
    ],
)
def test_every_option_and_task_changes_the_key(change: dict[str, Any]) -> None:
    options = {"source": Twice(), "steps": 40} | SMALL
    assert TaskWarmStart(**options).key() == TaskWarmStart(**options).key()
    assert TaskWarmStart(**options | change).key() != TaskWarmStart(**options).key()


def test_chat_messages_are_refused() -> None:
    chat = [[{"role": "user", "content": prompt}] for prompt, _ in EXAMPLES]

    class Chat(TaskSource):
        def load(self) -> TaskPool:
            return TaskPool.from_rows([{"id": str(i), "prompt": chat[i], "answer": "1"} for i in range(10)])

    with pytest.raises(ValueError, match="expected prompts that are strings, not chat messages"):
        TaskWarmStart(Chat(), steps=1).prepare()


def test_there_is_a_step_to_take() -> None:
    with pytest.raises(ValueError, match="steps=0; expected at least 1"):
        TaskWarmStart(Twice(), steps=0)
