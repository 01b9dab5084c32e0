"""The quickstart's policy: a tiny transformer after a short supervised training, so that RL can improve it."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config

from bots_lightning.policy import PretrainedSource
from bots_lightning.quickstart.cache import digest, made_folder
from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.tasks.procedural import ALPHABET, sample_examples

WEAK, POLICY, STRONG = "weak", "policy", "strong"
# Families and levels that a tiny model learns in part within a minute; it is not trained on levels 7 and 8.
FAMILIES = ("add", "sub", "mul", "bit", "ord", "imp", "rev", "rot", "srt")
LEVELS = (1, 2, 3, 4, 5, 6)


class SupervisedStart(PretrainedSource):
    """A small Qwen3 model after a short supervised training, shipped or made on first use and cached.

    Subclasses implement `examples`, `alphabet` and `key`.

    Args:
        stops: name of each checkpoint -> optimizer steps before it; one is `POLICY`.
        hidden_size: width of the transformer.
        num_layers: depth of the transformer.
        batch_size: examples per step.
        learning_rate: of AdamW, constant after a short warm-up.
        seed: of weights and examples.
    """

    def __init__(
        self, stops: dict[str, int], hidden_size: int, num_layers: int, batch_size: int, learning_rate: float, seed: int
    ) -> None:
        self.stops = stops
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.seed = seed

    @property
    @abstractmethod
    def alphabet(self) -> str:
        """All characters that the model reads or writes."""

    @property
    def positions(self) -> int:
        """Largest number of tokens of prompt and answer together."""
        return 128

    @abstractmethod
    def key(self) -> str:
        """Hash of everything that the weights depend on, including the examples."""

    @abstractmethod
    def examples(self, rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        """Draws n (prompt, answer) pairs."""

    def prepare(self) -> str:
        """The folder of the policy's checkpoint, shipped or made on first use."""
        return str(self.checkpoint(POLICY))

    def checkpoint(self, name: str) -> Path:
        """The folder of a checkpoint, shipped or made on first use.

        Args:
            name: `WEAK`, `POLICY` or `STRONG`.
        """
        return made_folder(f"warm-start-{self.key()}", self._build, name)

    def _build(self, folder: Path) -> None:
        """Trains the model and saves its checkpoints."""
        tokenizer = character_tokenizer(self.alphabet)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self._new_model(tokenizer)
        rng = np.random.default_rng(self.seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))
        names = {steps: name for name, steps in self.stops.items()}
        steps = tqdm(range(1, max(names) + 1), desc="Warm start", unit="step", file=sys.stdout, dynamic_ncols=True)
        for step in steps:
            loss = _supervised_loss(model, tokenizer, self.examples(rng, self.batch_size))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % 20 == 0:
                steps.set_postfix(loss=f"{loss.item():.3f}")
            if step in names:
                model.should_save_on_this_rank = lambda _: True  # any rank may be the one that builds
                model.save_pretrained(folder / names[step])
                tokenizer.save_pretrained(folder / names[step])

    def _new_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=2 * self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=self.hidden_size // 2,
            max_position_embeddings=self.positions,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
        return AutoModelForCausalLM.from_config(config)


class WarmStart(SupervisedStart):
    """A small Qwen3 model after a short supervised training on procedural tasks; the package ships the default's.

    One training run saves three checkpoints: an early one (the weak reference), the policy from which RL starts, and a
    late one (the strong reference).

    Args:
        families: of the procedural tasks to train on; None uses nine that are learned quickly.
        levels: difficulties to train on; None uses 1 to 6 of 8.
        weak_steps: optimizer steps of the weak reference.
        policy_steps: optimizer steps of the policy.
        strong_steps: optimizer steps of the strong reference.
        hidden_size: width of the transformer.
        num_layers: depth of the transformer.
        batch_size: examples per step.
        learning_rate: of AdamW, constant after a short warm-up.
        seed: of weights and examples.

    Raises:
        ValueError: the numbers of steps do not increase.
    """

    def __init__(
        self,
        families: list[str] | None = None,
        levels: list[int] | None = None,
        weak_steps: int = 800,
        policy_steps: int = 1600,
        strong_steps: int = 2400,
        hidden_size: int = 64,
        num_layers: int = 2,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        seed: int = 0,
    ) -> None:
        if not 0 < weak_steps < policy_steps < strong_steps:
            raise ValueError(
                f"weak_steps={weak_steps}, policy_steps={policy_steps}, strong_steps={strong_steps}; expected "
                "0 < weak < policy < strong."
            )
        self.families = list(FAMILIES) if families is None else families
        self.levels = list(LEVELS) if levels is None else levels
        stops = {WEAK: weak_steps, POLICY: policy_steps, STRONG: strong_steps}
        super().__init__(stops, hidden_size, num_layers, batch_size, learning_rate, seed)

    @property
    def alphabet(self) -> str:
        """All characters of the procedural tasks."""
        return ALPHABET

    def key(self) -> str:
        """Hash of everything that the weights depend on, including the examples."""
        sample = self.examples(np.random.default_rng(0), 256)
        return digest([vars(self), sample, ALPHABET])

    def examples(self, rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        """Draws n (prompt, answer) pairs of the train split, uniformly over families and levels."""
        return sample_examples(rng, n, self.families, self.levels)


def _supervised_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[tuple[str, str]]
) -> torch.Tensor:
    """Mean negative log-likelihood of the answers and their stop tokens, without the prompts."""
    batch = _supervised_batch(tokenizer, examples)
    return model(**batch).loss


def _supervised_batch(tokenizer: PreTrainedTokenizerBase, examples: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Token ids and labels of examples, each (examples, tokens of the longest)."""
    prompts = tokenizer([prompt for prompt, _ in examples])["input_ids"]
    answers = tokenizer([answer for _, answer in examples])["input_ids"]
    width = max(len(p) + len(a) + 1 for p, a in zip(prompts, answers, strict=True))
    ids = np.full((len(examples), width), tokenizer.pad_token_id)
    labels = np.full((len(examples), width), -100)  # transformers ignores this label in the loss
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        row = [*prompt, *answer, tokenizer.eos_token_id]
        ids[i, : len(row)] = row
        labels[i, len(prompt) : len(row)] = row[len(prompt) :]
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
