"""`fit` without a Trainer, for many small runs in one process.

    python tests/benchmarks/lean_fit.py --config configs/quickstart.yaml --config configs/selectors/uniform.yaml

Selector, belief, data module, sampler, rewards, algorithm and update are the package's; the policy computes by
`lean_policy`. There are no callbacks, loggers and checkpoints, and there is one process and a CPU. A test shows that it
selects, samples and learns as `bots-lightning fit` does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lean_policy import LeanEngine, LeanPolicy
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import SingleDeviceStrategy
from tqdm import tqdm

from bots_lightning.algorithms import StepContext
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.evaluation import Forgetting, halves, mean_loss, mixed_groups
from bots_lightning.training import OnlineModule
from bots_lightning.training.batch import ScoredBatch
from bots_lightning.training.evaluation import rollout_and_score
from bots_lightning.training.seeds import EVALUATE
from bots_lightning.training.trained import trained_weights


@dataclass
class Record:
    """What a run shows.

    Attributes:
        evaluations: of each: iteration, rollouts so far, completions of each held-out task, and how many are solved.
        steps: of each: groups, those that are mixed, and rollouts.
        selection_counts: how often each task of the pool was selected.
        forgetting: of held-out tasks since earlier evaluations (`Forgetting`); None if none had been solved.
        seconds: of the run.
    """

    evaluations: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, int]] = field(default_factory=list)
    selection_counts: list[int] = field(default_factory=list)
    forgetting: float | None = None
    seconds: float = 0.0


class LeanFit:
    """One run of a config.

    With a budget of rollouts it ends when that is spent, however many steps that takes: the learning rate falls
    linearly with the rollouts, which is the schedule of `fit` where every step takes equally many, and evaluations come
    at equal distances.

    Args:
        options: of `bots-lightning fit`. Of the trainer's it heeds `val_check_interval`: it evaluates after so many
            steps, and after the last.
        rollouts: the budget; None takes the config's steps.
        evaluations: of a run with a budget.
        quick_completions: of each held-out task, in evaluations before the last; the last one's by default.
    """

    def __init__(
        self,
        options: Sequence[str],
        rollouts: int | None = None,
        evaluations: int = 1,
        quick_completions: int | None = None,
    ) -> None:
        known = parser()
        config = known.parse_args(list(options))
        self.every = int(config.trainer.get("val_check_interval") or 10**9)
        parts = known.instantiate_classes(config)
        self.module: OnlineModule = parts.model
        self.tasks: TaskDataModule = parts.data
        self.record = Record()
        self.forgetting: Forgetting | None = None
        self.rollouts, self.evaluations = rollouts, evaluations
        self.quick_completions = quick_completions or self.module.evaluation.num_generations
        self._set_up()

    def _set_up(self) -> None:
        module, tasks = self.module, self.tasks
        tasks.setup("fit")
        module.configure_model()
        module.sampler.tasks = tasks
        tasks.num_generations = module.sampler.num_generations
        tasks.eval_num_generations = module.evaluation.num_generations
        lean = LeanPolicy(module.policy.model, module.policy.temperature)
        module.sampler.engine = LeanEngine(lean)
        module.policy.forward = lean.logprobs  # type: ignore[method-assign]
        self.steps = tasks.steps_per_epoch or -(-len(tasks.require_pool()) // tasks.batch_size)
        if self.rollouts is not None:
            self.steps = self.rollouts // (tasks.batch_size * tasks.num_generations)
        tasks.selector.planned_selections = self.steps
        self.trained = trained_weights(module)
        optimization = module.updater.optimizer(module.algorithm, list(self.trained.values()), self.steps)
        self.optimizer, self.scheduler = optimization["optimizer"], optimization["lr_scheduler"]
        self.context = StepContext(
            strategy=SingleDeviceStrategy("cpu"),
            device=torch.device("cpu"),
            rank=0,
            world_size=1,
            all_gather=lambda tensor: tensor[None],
            backward=lambda loss: loss.backward(),
            seed=module.seed,
            progress=module.progress,
            max_completion_length=module.sampler.max_completion_length,
            optimizer=Stepping(self.optimizer),
            scheduler=self.scheduler,
            global_step=lambda: self.context.optimizer.steps,
            trained=self.trained,
        )

    def run(self, on_step: Callable[[], object] = lambda: None) -> Record:
        """All steps.

        Args:
            on_step: is called after each.
        """
        start = time.perf_counter()
        done = 0.0
        while done < 1:
            if self.rollouts is not None:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.module.updater.learning_rate * (1 - done)
            self.step()
            before, done = done, self.done
            if done >= 1:
                self.evaluate(self.module.evaluation.num_generations)
            elif self._due(before):
                self.evaluate(self.quick_completions)
            on_step()
        self.record.selection_counts = self.tasks.selection_counts.tolist()
        self.record.seconds = time.perf_counter() - start
        self.module.scorer.close()
        return self.record

    @property
    def done(self) -> float:
        """The share of the run that is over."""
        progress = self.module.progress
        return progress.iterations / self.steps if self.rollouts is None else progress.rollouts / self.rollouts

    def _due(self, before: float) -> bool:
        """Whether to evaluate now, after a step before which a share of the run was over."""
        if self.rollouts is None:
            return self.module.progress.iterations % self.every == 0
        return int(self.done * self.evaluations) > int(before * self.evaluations)

    def step(self) -> None:
        """One step, as `OnlineModule.training_step`."""
        module, context, tasks = self.module, self.context, self.tasks
        batch = TaskBatch.of(tasks.share(tasks.select()), tasks.require_pool())
        module.sampler.sync(context.strategy, context.progress.iterations)
        sampled = module.sampler.sample(batch, context)
        groups, _ = module.sampler.choose(sampled, context)
        experience, _ = module.algorithm.prepare(groups, context)
        module.updater.update(experience, module.algorithm, context)
        tasks.forecasts.clear()
        everything = ScoredBatch.concatenate(sampled, module.sampler.sampling.pad_token_id)
        context.progress.iterations += 1
        context.progress.rollouts += len(everything.evidence)
        self.record.steps.append(summed_up(everything))

    def evaluate(self, completions: int) -> None:
        """Counts the solved completions of all held-out tasks.

        Args:
            completions: of each.
        """
        module, context, tasks = self.module, self.context, self.tasks
        tasks.eval_num_generations = completions
        module.sampler.sync(context.strategy, context.progress.iterations)
        solved: list[int] = []
        halved: list[npt.NDArray[np.float64]] = []
        for number, loader in enumerate(tasks.val_dataloader()):
            for batch in loader:
                stream = module.seed, EVALUATE, number
                evidence = rollout_and_score(batch, module.sampler, context.progress.iterations, stream).evidence
                solved += np.add.reduceat(evidence >= 1 - 1e-6, starts(batch.counts)).tolist()
                halved.append(halves(evidence.reshape(-1, completions)))
        now = np.concatenate(halved)
        self.forgetting = self.forgetting or Forgetting("heldout", len(now))
        self.record.forgetting = mean_loss(self.forgetting.losses(now))
        self.forgetting.add(now)
        at = {"iteration": context.progress.iterations, "rollouts": context.progress.rollouts}
        self.record.evaluations.append(at | {"completions": completions, "solved": solved})


class Stepping:
    """An optimizer with the notices that Lightning's wrapper takes."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups
        self.steps = 0

    def step(self) -> None:
        """Takes a step."""
        self.optimizer.step()
        self.steps += 1

    def zero_grad(self) -> None:
        """Forgets gradients."""
        self.optimizer.zero_grad()


def summed_up(batch: ScoredBatch) -> dict[str, int]:
    """Groups, how many of them are mixed, and rollouts."""
    mixed = mixed_groups(batch.groups.rewards, batch.groups.group_of_row)
    return {"groups": len(mixed), "mixed": int(mixed.sum()), "rollouts": len(batch.evidence)}


def starts(counts: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where the rows of each group begin."""
    return np.cumsum(counts) - np.asarray(counts)


def parser() -> LightningArgumentParser:
    """The options of `fit` that make a module and its data; the trainer's are taken as they are."""
    known = LightningArgumentParser()
    known.add_argument("--config", action="config")
    known.add_argument("--name", type=str, default="run")
    known.add_argument("--seed_everything", type=int, default=0)
    known.add_argument("--trainer", type=dict[str, Any], default={})
    known.add_lightning_class_args(OnlineModule, "model")
    known.add_lightning_class_args(TaskDataModule, "data")
    known.link_arguments("seed_everything", "model.seed")
    known.link_arguments("seed_everything", "data.seed")
    return known


def main() -> None:
    """Runs a config and prints its evaluations."""
    run = LeanFit(sys.argv[1:])
    with tqdm(total=run.steps, unit="step") as bar:
        record = run.run(bar.update)
    for evaluation in record.evaluations:
        completions = evaluation["completions"]
        print(f"step {evaluation['iteration']}: avg@{completions} {np.mean(evaluation['solved']) / completions:.4f}")


if __name__ == "__main__":
    main()
