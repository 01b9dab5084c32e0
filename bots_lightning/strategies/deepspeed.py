"""DeepSpeed's ZeRO: optimizer state, gradients and weights sharded over the ranks (arXiv:1910.02054)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from bots_lightning.checkpoints import (
    TAG,
    announce_fresh_optimizer,
    consolidated,
    read_file,
    read_manifest,
    read_state,
)
from bots_lightning.options import check_numbers
from bots_lightning.strategies.base import Computed, OnlineStrategy, connect_ranks
from bots_lightning.strategies.reached import check_same_weights
from bots_lightning.strategies.shards import save_shards
from bots_lightning.strategies.zero3 import gathered


class DeepSpeed(DeepSpeedStrategy, OnlineStrategy):
    """ZeRO for a module that learns online, on GPUs and CPUs alike.

    Lightning's DeepSpeedStrategy runs a training step inside the engine's forward pass; several backward passes in one
    step give wrong gradients, silently. Here the engine sees each differentiated pass by itself, and one optimizer step
    takes all gradients since the last.

    Args:
        stage: 1 shards the optimizer's state, 2 also the gradients, 3 also the weights. 3 gathers the weights for all
            rollouts of a step, so that ranks may generate completions of different lengths.
        offload_optimizer: keeps the optimizer's state in the memory of the CPU.
        offload_parameters: keeps the weights there too; stage 3 only.
        bucket_size: elements of gradient or weight that are sent together, at least 1.
        timeout_seconds: how long a rank waits for the others before it gives up, more than 0.
        options: further entries of DeepSpeed's own config, by its names.

    Raises:
        ValueError: a number is out of range.
    """

    repeatable = False

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        bucket_size: int = 200_000_000,
        timeout_seconds: float = 1800.0,
        options: dict[str, Any] | None = None,
    ) -> None:
        check_numbers(1, bucket_size=bucket_size)
        check_numbers(0, above=True, timeout_seconds=timeout_seconds)
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            allgather_bucket_size=bucket_size,
            reduce_bucket_size=bucket_size,
            overlap_comm=stage == 2,
            logging_batch_size_per_gpu=1,
            exclude_frozen_parameters=True,
            timeout=timedelta(seconds=timeout_seconds),
        )
        assert isinstance(self.config, dict)
        # torch's AdamW also where state is offloaded: DeepSpeed's own needs a compiler.
        self.config |= {"managed_gradient_accumulation": False, "zero_force_ds_cpu_optimizer": False}
        self.config |= options or {}
        self._shards: Path | None = None  # that this run resumes from

    # --- setup --------------------------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Sets the devices up: also CPUs, which Lightning refuses."""
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_environment()
            return
        import deepspeed

        os.environ["DS_ACCELERATOR"] = "cpu"
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # not needed, and compiled for a minute
        assert self.parallel_devices is not None
        self.parallel_devices = [torch.device("cpu", index) for index in range(len(self.parallel_devices))]
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Makes the process group, once the ranks have found each other."""
        connect_ranks(self)
        super().setup_distributed()

    def setup(self, trainer: Trainer) -> None:
        """Makes the engine. It clips gradients itself, since no rank holds all of them."""
        assert isinstance(self.config, dict)
        self.config.setdefault("gradient_clipping", getattr(self.lightning_module, "max_grad_norm", 0.0))
        super().setup(trainer)
        if trainer.training and not self.zero_stage_3:
            self.deepspeed_engine.optimizer.check_grad_overflow = True  # off in float32 by default

    def model_sharded_context(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Shards nothing while weights are loaded: the checkpoint is read in full, then sharded."""
        return nullcontext()

    @property
    def shards_parameters(self) -> bool:
        """True for ZeRO-3."""
        return bool(self.zero_stage_3)

    # --- steps --------------------------------------------------------------------------------------------------

    @property
    def _module(self) -> Any:
        """The module itself, without the engine around it."""
        assert self.lightning_module is not None
        return self.lightning_module

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own step, not inside of the engine's forward pass."""
        with self.precision_plugin.train_step_context():
            return self._module.training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own step, not inside of the engine's forward pass."""
        with self.precision_plugin.val_step_context():
            return self._module.validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own step, not inside of the engine's forward pass."""
        with self.precision_plugin.test_step_context():
            return self._module.test_step(*args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own step, not inside of the engine's forward pass."""
        with self.precision_plugin.predict_step_context():
            return self._module.predict_step(*args, **kwargs)

    def trained_pass(self, compute: Callable[[], Computed]) -> Computed:
        """Runs the pass as a forward pass of the engine."""
        return self.deepspeed_engine(compute)

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Runs the engine's backward pass, which averages gradients over ranks in the order of their arrival.

        Raises:
            ValueError: the losses of the ranks reach different weights.
        """
        check_same_weights(closure_loss, self._module)
        return super().backward(closure_loss, optimizer, *args, **kwargs)

    def take_step(
        self, optimizer: Any, trained: Sequence[nn.Parameter], max_norm: float, finite: bool
    ) -> tuple[float, bool]:
        """Has the engine average, clip and step; it skips if a gradient is not finite, or a loss of any rank."""
        engine = self.deepspeed_engine
        check = "_overflow_check_and_loss_scale_update" if self.zero_stage_3 else "check_overflow"
        with nullcontext() if self.reduce_boolean_decision(finite, all=True) else _skipping(engine.optimizer, check):
            optimizer.step()
        if self.zero_stage_3:  # a weight's late first gradient is added to what the buffer holds
            engine.optimizer.grad_partitions_flat_buffer.zero_()
        norm = engine.get_global_grad_norm()
        return (math.nan if norm is None else float(norm)), engine.was_step_applied()

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Writes a folder with the shards of all ranks, see `save_shards`.

        Raises:
            CheckpointError: the disk is full, or fails.
        """
        save_shards(self, self._stage, Path(self.broadcast(filepath)), checkpoint, self._module.trained_shapes())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads the run's state; its shards are loaded later, by `load_model_state_dict`.

        Of a checkpoint of another stage, world size or strategy, weights are restored and the optimizer is not.

        Raises:
            ValueError: it is damaged, or no checkpoint.
        """
        path = Path(self.broadcast(checkpoint_path))
        manifest = read_manifest(path) if path.is_dir() else None
        same = manifest is not None and (manifest.stage, manifest.world_size) == (self._stage, self.world_size)
        self._shards = path if same and self._fitting else None
        if self._shards:
            return read_state(path)
        if self._fitting:
            announce_fresh_optimizer(path)
        return consolidated(path) if manifest else read_file(path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Restores weights and optimizer from shards, or weights alone from the state, sharding them."""
        if self._shards:
            self.deepspeed_engine.load_checkpoint(
                str(self._shards), tag=TAG, load_module_strict=False, load_lr_scheduler_states=False
            )
            return
        if self.zero_stage_3:
            self._restore_zero_state(checkpoint, strict=False)
        else:
            super(DeepSpeedStrategy, self).load_model_state_dict(checkpoint, strict=False)
        if self._fitting:
            self.deepspeed_engine.optimizer.refresh_fp32_params()

    @property
    def _fitting(self) -> bool:
        return self._module.trainer.state.fn == TrainerFn.FITTING

    @property
    def _stage(self) -> int:
        assert isinstance(self.config, dict)
        return self.config["zero_optimization"]["stage"]

    # --- gathered parameters ------------------------------------------------------------------------------------

    def gathered_parameters(self) -> AbstractContextManager[None]:
        """Gathers what ZeRO-3 shards; at other stages every rank holds all weights."""
        return gathered(self.deepspeed_engine.optimizer) if self.zero_stage_3 else nullcontext()


@contextmanager
def _skipping(optimizer: Any, check: str) -> Iterator[None]:
    """Makes the optimizer's own check report an overflow of the gradients."""

    def overflow(*_: Any, **__: Any) -> None:
        optimizer.overflow = True

    setattr(optimizer, check, overflow)
    try:
        yield
    finally:
        delattr(optimizer, check)
