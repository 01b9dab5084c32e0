"""Held-out scores of a run: how they are counted, and their history."""

# Shapes: K tasks, n completions of each, R = K·n rows.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch

from bots_lightning.data import TaskBatch, ranks
from bots_lightning.evaluation import Forgetting, HeldOutScore, halves, mean_loss
from bots_lightning.options import check_numbers
from bots_lightning.rewards import tasks_of_rows
from bots_lightning.rollouts import derive_seed
from bots_lightning.tasks import TaskPool
from bots_lightning.training.sampler import Sampler

Floats = npt.NDArray[np.float64]


@final
class Evaluation:
    """Scores held-out tasks, and from the second evaluation on how many of those once solved are solved no more.

    Args:
        num_generations: n, completions per held-out task.
        pass_k: k of pass@k, by default n.
        temperature: at which evaluations and `predict` sample; by default that of the policy. 0 takes the most likely
            token, of which one completion is enough.

    Attributes:
        history: [{"iteration", "overall", "scores": {name: float}}], of all evaluations so far.
        earlier: what they have shown of each task, by pool.

    Raises:
        ValueError: an option is out of bounds.
    """

    def __init__(self, num_generations: int = 4, pass_k: int | None = None, temperature: float | None = None) -> None:
        check_numbers(1, num_generations=num_generations)
        check_numbers(1, high=num_generations, pass_k=pass_k)
        check_numbers(0, below=True, temperature=temperature)
        if temperature == 0 and num_generations > 1:
            raise ValueError(
                f"temperature=0 with num_generations={num_generations} would count {num_generations} equal completions "
                "of each held-out task. Set num_generations=1, or a temperature above 0."
            )
        self.temperature = temperature
        self.num_generations, self.pass_k = num_generations, pass_k or num_generations
        self.history: list[dict[str, Any]] = []
        self.earlier: dict[str, Forgetting] = {}
        self._scores: dict[str, HeldOutScore] = {}
        self._groups: dict[str, npt.NDArray[np.str_]] = {}
        self._rates: dict[str, Floats] = {}  # (N, 2) of `halves`, NaN for tasks of other ranks

    def begin(self, pools: Mapping[str, TaskPool], device: torch.device) -> None:
        """Starts fresh counts.

        Args:
            pools: held-out tasks by name.
            device: of the counts.
        """
        n, k = self.num_generations, self.pass_k
        self._scores = {name: HeldOutScore(n, k, sorted(set(pool.groups))).to(device) for name, pool in pools.items()}
        self._groups = {name: pool.groups for name, pool in pools.items()}
        self._rates = {name: np.full((len(pool), 2), np.nan) for name, pool in pools.items()}
        for name, pool in pools.items():
            if name not in self.earlier or self.earlier[name].pool != pool.fingerprint:
                self.earlier[name] = Forgetting(pool.fingerprint, len(pool))

    def sample(self, batch: TaskBatch, sampler: Sampler, policy_version: int, stream: Sequence[int]) -> Sampled:
        """Rolls out and scores a batch at this evaluation's temperature; see `rollout_and_score`."""
        return rollout_and_score(batch, sampler, policy_version, stream, self.temperature)

    def add(self, number: int, batch: TaskBatch, evidence: Floats) -> None:
        """Counts the rollouts of one batch.

        Args:
            number: of its pool.
            batch: K tasks.
            evidence: (R,) how far each completion solves its task, NaN where there is none.
        """
        score = list(self._scores.values())[number]
        grouped = evidence.reshape(len(batch), self.num_generations)
        list(self._rates.values())[number][batch.indices] = halves(grouped)
        valid = np.isfinite(grouped)
        with np.errstate(invalid="ignore"):
            quality = np.where(valid, grouped, 0.0).sum(axis=1) / valid.sum(axis=1)
        solved = (grouped >= 1 - 1e-6).sum(axis=1)
        groups = np.array([score.positions.get(task.group, -1) for task in batch.tasks])
        counted = (torch.as_tensor(column, device=score.device) for column in (solved, valid.sum(axis=1), groups))
        score.update(torch.as_tensor(quality, dtype=torch.float32, device=score.device), *counted)

    def finish(self, iteration: int) -> dict[str, float]:
        """The scores by their names, `eval/NAME/…`; they are added to the history.

        Args:
            iteration: of the run.
        """
        scores = {
            f"eval/{name}/{metric}": float(value)
            for name, score in self._scores.items()
            for metric, value in score.compute().items()
        }
        if scores:
            overall = [scores[f"eval/{name}/avg@{self.num_generations}"] for name in self._scores]
            scores |= self._forgetting()
            entry = {"iteration": iteration, "overall": sum(overall) / len(overall), "scores": scores}
            self.history.append(entry)
        return scores

    def _forgetting(self) -> dict[str, float]:
        """The mean loss of each pool and of its groups, where there is one; this evaluation is an earlier one then."""
        found: dict[str, float | None] = {}
        for name, rates in gathered(self._rates).items():
            losses = self.earlier[name].losses(rates)
            found[f"eval/{name}/forgetting"] = mean_loss(losses)
            for group in np.unique(self._groups[name]).tolist():
                found[f"eval/{name}/{group}/forgetting"] = mean_loss(losses[self._groups[name] == group])
            self.earlier[name].add(rates)
        return {name: loss for name, loss in found.items() if loss is not None}

    def state_dict(self) -> dict[str, Any]:
        """The history, and what is known of each task; tensors, numbers, strings and lists only."""
        return {"history": self.history, "earlier": {name: each.state_dict() for name, each in self.earlier.items()}}

    def load_state_dict(self, state: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Continues the history; checkpoints of an earlier version hold nothing else, as a list."""
        state = {"history": state, "earlier": {}} if isinstance(state, list) else state
        self.history = list(state["history"])
        self.earlier = {name: Forgetting.from_state_dict(each) for name, each in state["earlier"].items()}


def gathered(rates: dict[str, Floats]) -> dict[str, Floats]:
    """What all ranks know.

    Args:
        rates: (N, 2) of each pool, NaN for what only other ranks know.
    """
    if ranks.world_size() == 1:
        return rates
    everyones = ranks.gathered(rates)
    return {name: np.fmax.reduce([theirs[name] for theirs in everyones]) for name in rates}


class Sampled(NamedTuple):
    """A batch that was rolled out and scored outside of training.

    Attributes:
        completions: R texts.
        rewards: (R,) NaN where there is none.
        evidence: (R,) how far each solves its task, NaN where there is none.
        finished: (R,) bool, False where one was cut.
        scores: of each reward function by its name, (R,).
    """

    completions: list[str]
    rewards: Floats
    evidence: Floats
    finished: npt.NDArray[np.bool_]
    scores: dict[str, Floats]


def rollout_and_score(
    batch: TaskBatch,
    sampler: Sampler,
    policy_version: int,
    stream: Sequence[int],
    temperature: float | None = None,
) -> Sampled:
    """Rolls out a batch and scores it, outside of training.

    Args:
        batch: K tasks with their numbers of rollouts.
        sampler: whose engine has this version of the policy.
        policy_version: how many updates the policy has seen.
        stream: what the seeds are derived from, beside each task's place.
        temperature: by default that of the policy.
    """
    seeds = [derive_seed(*stream, position) for position in batch.positions]
    rollouts = sampler.generate(sampler.policy.model, policy_version, batch, seeds, temperature=temperature)
    tokens = rollouts.completion_lists()
    completions, scorer = sampler.encoder.decode_rows(tokens), sampler.scorer
    scores = scorer.scores(batch.tasks, batch.counts, completions, tokens)
    rows = tasks_of_rows(batch.tasks, batch.counts)
    rewards = scorer.combine(scores, rows)
    evidence, finished = scorer.evidence(scores, rewards, rows), rollouts.finished.cpu().numpy()
    return Sampled(completions, rewards, evidence, finished, dict(zip(scorer.names, scores, strict=True)))
