"""A policy as a LightningModule: how it is loaded, rolled out, evaluated and saved; not how it learns."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows, T completion tokens.

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn

from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.evaluation import HeldOutScore
from bots_lightning.policy.base_model import base_digest, check_base
from bots_lightning.policy.loading import (
    LoRA,
    PretrainedSource,
    check_device,
    check_dtype,
    checkpoint_folder,
    context_length,
    language_model,
    load_policy,
    stop_token_ids,
)
from bots_lightning.rewards import RewardFunction, Scorer
from bots_lightning.rollouts import (
    CompactEngine,
    OnCompleted,
    PromptEncoder,
    RolloutEngine,
    Rollouts,
    Sampling,
    derive_seed,
    load_tokenizer,
    prompt_room,
)
from bots_lightning.strategies import whole_model
from bots_lightning.tasks import Task, TaskPool
from bots_lightning.training.failures import by_first_rank, together
from bots_lightning.training.kept import check_kept
from bots_lightning.training.pools import check_answers, check_prompts
from bots_lightning.training.signals import end_on_sigterm

# Streams of randomness below one seed.
TRAIN, EVALUATE, PREDICT, ADAPTERS, MINIBATCHES, CRITIC = range(6)
SAME_MODEL = "Resume with the `pretrained` and `lora` of the checkpoint."


@dataclass
class Progress:
    """Counters of a run, kept in its checkpoints. `global_step` of the trainer counts optimizer steps instead.

    Attributes:
        iterations: RL steps: one selection, one batch of rollouts, one update.
        rollouts: completions sampled for training, over all ranks.
        generated_tokens: tokens of those completions.
        skipped_steps: optimizer steps left out because loss or gradient was not finite.
        skipped_in_a_row: those since the last that was taken.
    """

    iterations: int = 0
    rollouts: int = 0
    generated_tokens: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0


class PolicyModule(LightningModule):
    """A causal language model of transformers, in full or with LoRA, that can be rolled out, scored and evaluated.

    All randomness is derived from (seed, iteration, place in the draw), so that a resumed run repeats the undisturbed
    one, and any number of ranks rolls out the same.

    Args:
        pretrained: a checkpoint folder, a Hub name, or a source that makes one.
        reward_funcs: reward functions in TRL's signature, by dotted path in YAML.
        reward_weights: one per function; all 1 by default.
        reward_range: the smallest and largest weighted sum of rewards.
        evidence: the reward function that says whether a task is solved, by its name or its place in `reward_funcs`:
            its own scores, unweighted, are what beliefs count, and held-out scores, pass rates and the shares of
            solved tasks are of them. What the policy learns from, and with it which groups have a gradient, is the
            weighted sum all the same. None: that sum, mapped to [0, 1] by `reward_range`.
        evidence_range: the smallest and largest score of that function.
        lora: trains low-rank adapters; None trains all weights.
        dtype: of the loaded weights.
        gradient_checkpointing: trade a second forward pass for the memory of the first one's activations.
        engine: samples the completions; `CompactEngine` by default.
        num_generations: G, rollouts per selected task.
        max_prompt_length: tokens; longer prompts are an error unless `truncate_prompts`.
        max_completion_length: tokens, stop token included.
        truncate_prompts: keep the last tokens of prompts that are too long.
        temperature: of sampling, and of the log-probabilities in the loss.
        eval_num_generations: n, completions per held-out task.
        eval_pass_k: k of pass@k, by default n.
        seed: of rollouts and adapters.
    """

    def __init__(
        self,
        pretrained: str | PretrainedSource,
        reward_funcs: list[RewardFunction],
        reward_weights: list[float] | None = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
        evidence: int | str | None = None,
        evidence_range: tuple[float, float] = (0.0, 1.0),
        lora: LoRA | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        gradient_checkpointing: bool = False,
        engine: RolloutEngine | None = None,
        num_generations: int = 8,
        max_prompt_length: int = 512,
        max_completion_length: int = 256,
        truncate_prompts: bool = False,
        temperature: float = 1.0,
        eval_num_generations: int = 4,
        eval_pass_k: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_generations < 1:
            raise ValueError(f"num_generations={num_generations}; expected at least 1 rollout per task.")
        if temperature <= 0:
            raise ValueError(f"temperature={temperature}; expected a positive number: training samples.")
        check_dtype(lora, dtype)
        self.strict_loading = False  # checkpoints leave frozen weights out; on_load_checkpoint checks the rest
        self.pretrained, self.lora, self.dtype_name = pretrained, lora, dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.scorer = Scorer(reward_funcs, reward_weights, reward_range, evidence, evidence_range)
        self.engine = engine or CompactEngine()
        self.num_generations = num_generations
        self.max_prompt_length, self.max_completion_length = max_prompt_length, max_completion_length
        self.truncate_prompts = truncate_prompts
        self.temperature = temperature
        self.eval_num_generations, self.eval_pass_k = eval_num_generations, eval_pass_k or eval_num_generations
        self.seed = seed
        self.policy: torch.nn.Module | None = None
        self.progress = Progress()
        self.evaluations: list[dict[str, Any]] = []  # [{"iteration", "overall", "scores": {name: float}}]
        self._held_out: dict[str, HeldOutScore] = {}
        self._whole = ExitStack()  # what an evaluation holds until it ends

    # --- the policy ---------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Loads model and tokenizer, once, when a run starts."""
        if self.policy is not None:
            return
        folder = checkpoint_folder(self.pretrained)
        room = prompt_room(self.context(), self.max_prompt_length, self.max_completion_length)
        seed = derive_seed(self.seed, ADAPTERS)
        self.policy = load_policy(folder, self.lora, self.dtype_name, seed, self.gradient_checkpointing)
        self._base = {"digest": base_digest(self.policy), "pretrained": folder}
        self.tokenizer = load_tokenizer(folder)
        self.encoder = PromptEncoder(self.tokenizer, self.max_prompt_length, self.truncate_prompts, room)
        self.sampling = Sampling(
            self.max_completion_length,
            stop_token_ids(self.policy, self.tokenizer),
            self.tokenizer.pad_token_id,
            self.temperature,
        )

    def context(self) -> int | None:
        """The most tokens, prompt and completion together, that all models which read them take; None for no bound."""
        return context_length(checkpoint_folder(self.pretrained))

    def setup(self, stage: str) -> None:
        """Refuses, before a model is loaded, what would come to nothing and tasks whose answers nothing could match."""
        check_device(self.trainer.strategy.root_device)
        if stage == "predict":
            check_kept(self.trainer)
        by_first_rank(self.trainer.strategy, lambda: check_answers(self._pools(), self.scorer))

    def _pools(self) -> dict[str, TaskPool]:
        """All that this run may roll out, by what errors call it."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(datamodule, TaskDataModule):
            return {}  # `check_trainer` refuses it
        function, training = self.trainer.state.fn, {"training": datamodule.require_pool()}
        if function == TrainerFn.PREDICTING:
            return training
        return datamodule.eval_pools if function != TrainerFn.FITTING else training | datamodule.eval_pools

    def _check_prompts(self) -> None:
        by_first_rank(self.trainer.strategy, lambda: check_prompts(self._pools(), self.encoder))

    def on_fit_start(self) -> None:
        """Refuses prompts that do not fit."""
        self._check_prompts()

    def on_validation_start(self) -> None:
        """Refuses prompts that do not fit, where that is all of the run."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.on_predict_start()

    def on_test_start(self) -> None:
        """Refuses prompts that do not fit."""
        self.on_predict_start()

    def on_predict_start(self) -> None:
        """Refuses prompts that do not fit; SIGTERM ends the program from here on."""
        end_on_sigterm()
        self._check_prompts()

    @property
    def _datamodule(self) -> TaskDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def sync_engine(self) -> None:
        """Shows the engine the present policy, whose weights are whole; fails on all ranks or on none."""
        assert self.policy is not None
        policy, version = self.policy, self.progress.iterations
        together(self.trainer.strategy, lambda: self.engine.sync(policy, version))

    def rollout(self, tasks: list[Task], n: int, seeds: list[int], on_completed: OnCompleted | None = None) -> Rollouts:
        """Samples n completions of each task, which has a seed of its own, under the present policy.

        Args:
            tasks: B of them.
            n: completions of each.
            seeds: B.
            on_completed: see `RolloutEngine.generate`.
        """
        assert self.policy is not None
        return self.rollout_by(self.policy, self.progress.iterations, tasks, n, seeds, on_completed)

    def rollout_by(
        self,
        policy: torch.nn.Module,
        policy_version: int,
        tasks: list[Task],
        n: int,
        seeds: list[int],
        on_completed: OnCompleted | None = None,
    ) -> Rollouts:
        """`rollout` under a given policy, of which the engine has that version; on any thread."""
        prompts = self.encoder.encode([task.prompt for task in tasks], [task.id for task in tasks])
        model = language_model(policy)
        return self.engine.generate(model, prompts, n, self.sampling, seeds, policy_version, on_completed)

    # --- evaluation ---------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Fresh counts for every held-out pool; the whole model on every rank until the epoch ends."""
        self._whole.enter_context(whole_model(self.trainer.strategy))
        self.sync_engine()
        self._held_out = {
            name: HeldOutScore(self.eval_num_generations, self.eval_pass_k, sorted(set(pool.groups))).to(self.device)
            for name, pool in self._datamodule.eval_pools.items()
        }

    def validation_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Rolls out and scores held-out tasks; the same draws at every evaluation."""
        score = list(self._held_out.values())[dataloader_idx]
        seeds = [derive_seed(self.seed, EVALUATE, dataloader_idx, position) for position in batch.positions]
        _, _, evidence = self._rollout_and_score(batch.tasks, self.eval_num_generations, seeds)
        valid = np.isfinite(evidence)
        with np.errstate(invalid="ignore"):
            quality = np.where(valid, evidence, 0.0).sum(axis=1) / valid.sum(axis=1)
        solved = (evidence >= 1 - 1e-6).sum(axis=1)
        groups = [score.positions.get(task.group, -1) for task in batch.tasks]
        score.update(
            torch.as_tensor(quality, dtype=torch.float32, device=self.device),
            *(torch.as_tensor(column, device=self.device) for column in (solved, valid.sum(axis=1), np.array(groups))),
        )

    def on_validation_epoch_end(self) -> None:
        """Logs `eval/NAME/…` and keeps the scores in the run's history."""
        self._whole.close()
        if not self.trainer.sanity_checking:
            scores = self._record_scores() | {"step": float(self.progress.iterations)}
            self.log_dict(scores, batch_size=1, sync_dist=self.trainer.world_size > 1)
        elif self.trainer.num_sanity_val_steps == math.inf:  # the evaluation before training, and not a part of it
            self._log_outside_the_loop(self._record_scores())

    def on_train_end(self) -> None:
        """Evaluates the final policy, if the last evaluation came before the last iteration."""
        if self.evaluations and self.evaluations[-1]["iteration"] != self.progress.iterations:
            self.on_validation_epoch_start()
            with torch.no_grad():
                for index, loader in enumerate(self._datamodule.val_dataloader()):
                    for batch_idx, batch in enumerate(loader):
                        self.validation_step(batch, batch_idx, index)
            self._whole.close()
            self._log_outside_the_loop(self._record_scores())

    def _log_outside_the_loop(self, scores: dict[str, float]) -> None:
        """To the loggers themselves: Lightning drops figures of sanity checks and of `on_train_end`."""
        for logger in self.trainer.loggers:
            logger.log_metrics(scores, step=self.progress.iterations)

    def _record_scores(self) -> dict[str, float]:
        scores = {
            f"eval/{name}/{figure}": float(value)
            for name, score in self._held_out.items()
            for figure, value in score.compute().items()
        }
        if scores:
            overall = [scores[f"eval/{name}/avg@{self.eval_num_generations}"] for name in self._held_out]
            entry = {"iteration": self.progress.iterations, "overall": sum(overall) / len(overall), "scores": scores}
            self.evaluations.append(entry)
        return scores

    def on_test_epoch_start(self) -> None:
        """As for validation."""
        self.on_validation_epoch_start()

    def test_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As for validation."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """As for validation."""
        self.on_validation_epoch_end()

    def on_predict_epoch_start(self) -> None:
        """The whole model on every rank until the epoch ends."""
        self._whole.enter_context(whole_model(self.trainer.strategy))
        self.sync_engine()

    def on_predict_epoch_end(self) -> None:
        """Lets it go."""
        self._whole.close()

    def predict_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Rolls out training tasks; for writers `task_ids`, `rewards` and `evidence` (B, G), and `completions`."""
        seeds = [derive_seed(self.seed, PREDICT, position) for position in batch.positions]
        completions, rewards, evidence = self._rollout_and_score(batch.tasks, self.num_generations, seeds)
        numbers = {"rewards": torch.as_tensor(rewards), "evidence": torch.as_tensor(evidence)}
        return {"task_ids": [task.id for task in batch.tasks], "completions": completions} | numbers

    def _rollout_and_score(
        self, tasks: list[Task], n: int, seeds: list[int]
    ) -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """B·n completions, their rewards (B, n) and the evidence of them (B, n)."""
        tokens = self.rollout(tasks, n, seeds).completion_lists()
        completions = self.encoder.decode_rows(tokens)
        scores = self.scorer.scores(tasks, completions, tokens)
        rewards = self.scorer.combine(scores, tasks)
        return completions, rewards, self.scorer.evidence(scores, rewards, tasks)

    def teardown(self, stage: str) -> None:
        """Ends the processes of reward functions."""
        self.scorer.close()

    # --- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves frozen weights out; adds the counters and the history of evaluations."""
        kept = set(self._trained_names(checkpoint["state_dict"]))
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint["base"] = self._base
        checkpoint["progress"] = vars(self.progress).copy()
        checkpoint["evaluations"] = self.evaluations

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses weights of another model, or on top of another; restores the counters.

        Raises:
            ValueError: the checkpoint's trained weights are not those of this policy, or were trained on another base.
        """
        self.configure_model()
        self._check_weights({name: tuple(weight.shape) for name, weight in checkpoint["state_dict"].items()})
        check_base(checkpoint.get("base"), **self._base)
        self.progress = Progress(**checkpoint["progress"])
        self.evaluations = list(checkpoint["evaluations"])

    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all that a checkpoint holds of the model, by name; whole also where ranks have parts."""
        state, weights = self.state_dict(), self.named_parameters(remove_duplicate=False)
        whole = {name: tuple(getattr(weight, "ds_shape", weight.shape)) for name, weight in weights}
        return {name: whole.get(name, tuple(state[name].shape)) for name in self._trained_names(state)}

    def _check_weights(self, theirs: dict[str, tuple[int, ...]]) -> None:
        mine = self.trained_shapes()
        if mine.keys() != theirs.keys():
            raise ValueError(
                f"the checkpoint holds {len(theirs)} trained weights, this policy has {len(mine)}; the first that "
                f"differ: {sorted(mine.keys() ^ theirs.keys())[:3]}. {SAME_MODEL}"
            )
        for name, shape in mine.items():
            if theirs[name] != shape:
                raise ValueError(f"{name} is {theirs[name]} in the checkpoint and {shape} in this policy. {SAME_MODEL}")

    def _trained_names(self, names: Iterable[str]) -> list[str]:
        frozen = {n for n, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return [name for name in names if name not in frozen]
