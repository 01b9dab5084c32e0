"""The one LightningModule: Lightning's hooks around the parts that make a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast, final

import torch
from lightning import LightningModule
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn

from bots_lightning.algorithms import Algorithm, Progress, StepContext
from bots_lightning.checkpoints import WholeSteps
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.options import check_numbers
from bots_lightning.policy import Policy
from bots_lightning.policy.loading import check_device
from bots_lightning.rewards import Scorer
from bots_lightning.rollouts import derive_seed
from bots_lightning.strategies import gathered_parameters, shards_parameters
from bots_lightning.training import checks, report, start
from bots_lightning.training.batch import ScoredBatch
from bots_lightning.training.evaluation import Evaluation
from bots_lightning.training.failures import EndsRollouts, by_first_rank
from bots_lightning.training.kept import check_kept
from bots_lightning.training.metrics import timing_metrics
from bots_lightning.training.pools import check_answers, check_prompts
from bots_lightning.training.sampler import Sampler
from bots_lightning.training.schedule import total_optimizer_steps
from bots_lightning.training.seeds import ADAPTERS, CRITIC, EVALUATE, PREDICT
from bots_lightning.training.signals import end_on_sigterm
from bots_lightning.training.trained import check_checkpoint, trained_shapes, trained_weights, without_frozen
from bots_lightning.training.updater import Updater


@final
class OnlineModule(LightningModule):
    """Learns online: rolls out the tasks that are drawn, updates the belief, then the policy.

    The belief is updated inside `training_step`, so that every checkpoint holds a policy and a belief of the same step.

    Args:
        policy: the language model that is trained.
        scorer: reward functions, and what counts as evidence.
        sampler: how rollouts are sampled.
        algorithm: what is learned from them: GRPO, PPO, or a class of your own.
        optimizer: learning rate, its schedule, and clipping.
        evaluation: of held-out tasks.
        check_ranks_every: iterations after which ranks compare what they believe, and stop if it differs.
        seed: of rollouts, adapters and minibatches.
    """

    def __init__(
        self,
        policy: Policy,
        scorer: Scorer,
        sampler: Sampler,
        algorithm: Algorithm,
        optimizer: Updater,
        evaluation: Evaluation,
        check_ranks_every: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_numbers(1, check_ranks_every=check_ranks_every)
        algorithm.attach(policy, sampler.num_generations, sampler.max_completion_length)
        sampler.attach(policy, scorer, seed)
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints leave frozen weights out; on_load_checkpoint checks the rest
        self.critic, self.policy = algorithm.critic, policy
        self.scorer, self.sampler, self.algorithm = scorer, sampler, algorithm
        self.updater, self.evaluation = optimizer, evaluation
        self.check_ranks_every, self.seed = check_ranks_every, seed
        self.progress = Progress()
        self._gathered = ExitStack()  # what an evaluation holds until it ends
        self._fitting = ExitStack()  # what a fit has set up until teardown

    @property
    def history(self) -> list[dict[str, Any]]:
        """All evaluations so far: `iteration`, `overall` and `scores` of each."""
        return self.evaluation.history

    @property
    def max_grad_norm(self) -> float:
        """The gradients' largest norm, for strategies that clip themselves."""
        return self.updater.max_grad_norm

    @property
    def _tasks(self) -> TaskDataModule:
        return cast(TaskDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]

    # --- one step -----------------------------------------------------------------------------------------------

    def training_step(self, batch: TaskBatch, batch_idx: int) -> dict[str, Any]:
        """Rolls out and scores a batch, updates the belief and the policy; see `step_output` for what it returns."""
        context = self.step_context()
        with context.clock.phase("rollout"):
            waited = self.sampler.wait(1)
        with context.gathered_parameters():
            with context.clock.phase("sync"):
                self.sampler.sync(context.strategy, self.progress.iterations)
            sampled = self.sampler.sample(batch, context)
            groups, chosen = self.sampler.choose(sampled, context)
        self.sampler.begin_next(context)
        with context.gathered_parameters(), context.clock.phase("logprobs", self.device):
            experience, prepared = self.algorithm.prepare(groups, context)
        updated = self.updater.update(experience, self.algorithm, context)
        return self._report(sampled, chosen | prepared | updated, waited, context)

    def step_context(self) -> StepContext:
        """What the parts of a step share."""
        return start.step_context(self, self.progress, self.seed, self.sampler.max_completion_length)

    def _report(
        self, sampled: list[ScoredBatch], metrics: dict[str, Any], waited: float, context: StepContext
    ) -> dict[str, Any]:
        """Counts and logs the step; what callbacks read."""
        everything = ScoredBatch.concatenate(sampled, self.sampler.sampling.pad_token_id)
        tokens = report.count(everything, context)
        metrics |= report.batch_metrics(everything, self.scorer.names, context)
        timings = context.clock.stop()
        report.log_step(self, metrics | timing_metrics(timings, tokens), self.progress, self._tasks.selector.metrics())
        if self.progress.iterations % self.check_ranks_every == 0:
            self._check_ranks_agree()
        timings |= {"step": sum(timings.values()) - timings["select"], "ahead": waited}
        return report.step_output(everything, self.sampler.scorer.names, metrics["loss"], timings)

    def forward(self, compute: Callable[[], Any]) -> Any:
        """Runs a forward pass for a strategy that wraps this module.

        Args:
            compute: the pass.
        """
        return compute()

    def configure_optimizers(self) -> Any:
        """AdamW over the trained weights, with its schedule."""
        steps = total_optimizer_steps(self.trainer, self.algorithm.steps_per_iteration)
        return self.updater.optimizer(self.algorithm, list(trained_weights(self).values()), steps)

    # --- start and end ------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Loads the policy, its tokenizer and the critic, once, when a run starts."""
        if self.policy.is_loaded:
            return
        room = start.prompt_room_of(self.policy, self.algorithm, self.sampler)
        self.policy.load(derive_seed(self.seed, ADAPTERS))
        self.sampler.build(room)
        self.algorithm.build(derive_seed(self.seed, CRITIC))

    def setup(self, stage: str) -> None:
        """Refuses what cannot go well before a model is loaded; sees that checkpoints are taken of whole steps."""
        if stage == "fit":
            checks.check_trainer(self.trainer, self.algorithm)
        check_device(self.trainer.strategy.root_device)
        if stage == "predict":
            check_kept(self.trainer)
        by_first_rank(self.trainer.strategy, lambda: check_answers(start.pools_of(self.trainer), self.scorer))
        if isinstance(tasks := self._tasks, TaskDataModule):
            self.sampler.tasks = tasks
            tasks.num_generations = self.sampler.num_generations
            tasks.eval_num_generations = self.evaluation.num_generations
        if stage == "fit":
            self._fitting.close()  # of a run that failed, which Lightning does not tear down
            between_steps = self._tasks.between_steps
            self._fitting.callback(WholeSteps(self.trainer, between_steps).remove)
            self._fitting.callback(report.forget_between_steps(self.trainer, between_steps))
            if self.algorithm.kl_coef:
                self.policy.load_reference(self.device)  # before a strategy shards the weights

    def teardown(self, stage: str) -> None:
        """Ends rollouts that are under way, then the processes of reward functions."""
        self.sampler.close()
        self.scorer.close()
        self._fitting.close()

    def configure_callbacks(self) -> list[Callback]:
        """A callback that ends asynchronous rollouts when a run fails."""
        return [EndsRollouts(self.sampler)] if self.sampler.max_staleness else []

    def on_fit_start(self) -> None:
        """Refuses prompts that do not fit and updates without a step; tells the selector how long the run is."""
        checks.check_update(self.trainer, self.sampler, self.algorithm)
        if self.trainer.ckpt_path:  # Lightning would evaluate all the same where an epoch is over
            self.trainer.num_sanity_val_steps = 0
        self._check_prompts()
        start.prepare_engine(self.sampler)
        self._tasks.selector.planned_selections = start.planned_iterations(self.trainer, self.algorithm)

    def on_train_start(self) -> None:
        """Continues the curves where this run does, and the schedule; ranks begin alike."""
        if self.sampler.leftovers is not None:
            self.sampler.leftovers = self.sampler.leftovers.to(self.device)
        self._check_ranks_agree()
        report.continue_curves(self.trainer, self.progress.iterations)
        self.updater.set_rates(self.optimizers(), self.lr_schedulers())

    def on_train_end(self) -> None:
        """Evaluates the final policy, if the last evaluation came before the last iteration."""
        if self.history and self.history[-1]["iteration"] != self.progress.iterations:
            self.on_validation_epoch_start()
            with torch.no_grad():
                for index, loader in enumerate(self._tasks.val_dataloader()):
                    for batch_idx, batch in enumerate(loader):
                        self.validation_step(batch, batch_idx, index)
            self._gathered.close()
            report.log_outside_the_loop(self.trainer.loggers, self.evaluation, self.progress.iterations)

    def _check_prompts(self) -> None:
        by_first_rank(self.trainer.strategy, lambda: check_prompts(start.pools_of(self.trainer), self.sampler.encoder))

    def _check_ranks_agree(self) -> None:
        replicated = {} if shards_parameters(self.trainer.strategy) else trained_weights(self)
        checks.check_ranks_agree(self._tasks.fingerprint, replicated.items())

    # --- evaluation and prediction ------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Refuses prompts that do not fit, where evaluation is all of the run."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.on_predict_start()

    def on_predict_start(self) -> None:
        """Refuses prompts that do not fit; SIGTERM ends the program from here on."""
        end_on_sigterm()
        self._check_prompts()

    def on_predict_epoch_start(self) -> None:
        """Gathers the parameters until the epoch ends, and shows them to the engine."""
        self.sampler.wait()
        self._gathered.enter_context(gathered_parameters(self.trainer.strategy))
        self.sampler.sync(self.trainer.strategy, self.progress.iterations)

    def on_predict_epoch_end(self) -> None:
        """Releases the gathered parameters."""
        self._gathered.close()

    def predict_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Rolls out training tasks; see `predict_output` for what it returns to writers."""
        sampled = self.evaluation.sample(batch, self.sampler, self.progress.iterations, (self.seed, PREDICT))
        return report.predict_output(batch, sampled)

    def on_validation_epoch_start(self) -> None:
        """Gathers the parameters, and starts fresh counts for every held-out pool."""
        self.on_predict_epoch_start()
        self.evaluation.begin(self._tasks.eval_pools, self.device)

    def validation_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Rolls out and scores held-out tasks, with equal seeds every time; returns what `predict_step` does."""
        stream = (self.seed, EVALUATE, dataloader_idx)
        sampled = self.evaluation.sample(batch, self.sampler, self.progress.iterations, stream)
        self.evaluation.add(dataloader_idx, batch, sampled.evidence)
        return report.predict_output(batch, sampled)

    def on_validation_epoch_end(self) -> None:
        """Logs `eval/NAME/…` and keeps the scores in the run's history."""
        self._gathered.close()
        if not self.trainer.sanity_checking:
            scores = self.evaluation.finish(self.progress.iterations) | {"step": float(self.progress.iterations)}
            self.log_dict(scores, batch_size=1, sync_dist=self.trainer.world_size > 1)
        elif self.trainer.num_sanity_val_steps == math.inf:  # the evaluation before training, and not a part of it
            report.log_outside_the_loop(self.trainer.loggers, self.evaluation, self.progress.iterations)

    on_test_start, on_test_epoch_start = on_predict_start, on_validation_epoch_start
    test_step, on_test_epoch_end = validation_step, on_validation_epoch_end

    # --- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves frozen weights out; adds counters, history and the sampler's state.

        The curves are written first: a run that goes on from this checkpoint will not log its steps again.
        """
        checkpoint["state_dict"] = without_frozen(self, checkpoint["state_dict"])
        checkpoint["base"] = self.policy.base
        checkpoint["progress"] = vars(self.progress).copy()
        checkpoint["evaluations"] = self.evaluation.state_dict()
        checkpoint |= self.sampler.state_dict()
        report.flush_curves(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses weights of another model, or on top of another; restores what `on_save_checkpoint` added.

        Raises:
            ValueError: the checkpoint's trained weights are not those of this policy, or were trained on another base.
        """
        self.configure_model()
        check_checkpoint(self, checkpoint, self.policy.base)
        self.progress = Progress(**checkpoint["progress"])
        self.evaluation.load_state_dict(checkpoint["evaluations"])
        world_size = 1 if self._trainer is None else self.trainer.world_size
        self.sampler.load_state_dict(checkpoint, world_size)

    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all that a checkpoint holds of the module, by name."""
        return trained_shapes(self)
