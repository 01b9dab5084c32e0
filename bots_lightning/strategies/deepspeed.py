"""DeepSpeed's ZeRO: optimizer state, gradients and weights divided over the ranks (arXiv:1910.02054)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from bots_lightning.checkpoints import (
    TAG,
    announce_fresh_optimizer,
    begin_folder,
    consolidated,
    own_digests,
    put_in_place,
    read_file,
    read_manifest,
    read_state,
    sync,
    unfinished,
    write_manifest,
    write_state,
    writing,
)
from bots_lightning.strategies.base import Computed, OnlineStrategy, connect_ranks
from bots_lightning.strategies.reached import check_same_weights
from bots_lightning.strategies.zero3 import gathered


class DeepSpeed(DeepSpeedStrategy, OnlineStrategy):
    """ZeRO for a module that learns online, on GPUs and CPUs alike.

    Lightning's DeepSpeedStrategy runs a training step inside the engine's own forward pass; with several backward
    passes in it, gradients go wrong silently. Here the engine sees each differentiated pass by itself, and one step
    takes all the gradients since the last.

    Args:
        stage: 1 divides the optimizer's state, 2 the gradients too, 3 the weights too. 3 gathers the weights for the
            whole phase of rollouts, so that ranks may generate completions of different lengths.
        offload_optimizer: keeps the optimizer's state in the memory of the CPU.
        offload_parameters: keeps the weights there too; stage 3 only.
        bucket_size: elements that travel together.
        timeout_seconds: how long a rank waits for the others before it gives up.
        options: further entries of DeepSpeed's own config, by its names.
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
        # torch's AdamW steps also where state is offloaded: DeepSpeed's own needs a compiler.
        self.config |= {"managed_gradient_accumulation": False, "zero_force_ds_cpu_optimizer": False}
        self.config |= options or {}
        self._shards: Path | None = None  # that this run goes on from

    # --- setup --------------------------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Also on CPUs, which Lightning refuses."""
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_environment()
            return
        import deepspeed

        os.environ["DS_ACCELERATOR"] = "cpu"
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a minute of compiling, not needed
        assert self.parallel_devices is not None
        self.parallel_devices = [torch.device("cpu", index) for index in range(len(self.parallel_devices))]
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Once the ranks have found each other."""
        connect_ranks(self)
        super().setup_distributed()

    def setup(self, trainer: Trainer) -> None:
        """Clips in the engine, which has the whole gradient."""
        assert isinstance(self.config, dict)
        self.config.setdefault("gradient_clipping", getattr(self.lightning_module, "max_grad_norm", 0.0))
        super().setup(trainer)
        if trainer.training and not self.zero_stage_3:
            self.deepspeed_engine.optimizer.check_grad_overflow = True  # off in float32 by default

    def model_sharded_context(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Weights are loaded whole and divided afterwards, so that they are those of the checkpoint."""
        return nullcontext()

    @property
    def shards_parameters(self) -> bool:
        """ZeRO-3 does."""
        return bool(self.zero_stage_3)

    # --- steps --------------------------------------------------------------------------------------------------

    @property
    def _module(self) -> Any:
        """The module itself, without the engine around it."""
        assert self.lightning_module is not None
        return self.lightning_module

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Outside of the engine."""
        with self.precision_plugin.train_step_context():
            return self._module.training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Outside of the engine."""
        with self.precision_plugin.val_step_context():
            return self._module.validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Outside of the engine."""
        with self.precision_plugin.test_step_context():
            return self._module.test_step(*args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """Outside of the engine."""
        with self.precision_plugin.predict_step_context():
            return self._module.predict_step(*args, **kwargs)

    def trained_pass(self, compute: Callable[[], Computed]) -> Computed:
        """Through the engine."""
        return self.deepspeed_engine(compute)

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Through the engine, which averages gradients over ranks in the order in which they come."""
        check_same_weights(closure_loss, self._module)
        return super().backward(closure_loss, optimizer, *args, **kwargs)

    def take_step(
        self, optimizer: Any, trained: Sequence[nn.Parameter], max_norm: float, finite: bool
    ) -> tuple[float, bool]:
        """The engine averages, clips and steps; it skips what is not finite itself, but for losses."""
        engine = self.deepspeed_engine
        check = "_overflow_check_and_loss_scale_update" if self.zero_stage_3 else "check_overflow"
        with nullcontext() if self.reduce_boolean_decision(finite, all=True) else _skipping(engine.optimizer, check):
            optimizer.step()
        if self.zero_stage_3:  # where a weight's first gradient comes after others', it is added to what is there
            engine.optimizer.grad_partitions_flat_buffer.zero_()
        norm = engine.get_global_grad_norm()
        return (math.nan if norm is None else float(norm)), engine.was_step_applied()

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """A folder with the shards of all ranks, which gets its name when all of it has reached the disk."""
        path = Path(self.broadcast(filepath))
        with writing(path):
            if self.is_global_zero:
                write_state(begin_folder(path), checkpoint)
            self.barrier("begun")
            shapes = self._module.trained_shapes()
            with _state_of(self._module, shapes):
                self.deepspeed_engine.save_checkpoint(str(unfinished(path)), tag=TAG, exclude_frozen_parameters=True)
            if self.local_rank == 0:
                sync(unfinished(path))  # on each node, what was written there
            self.barrier("written")
            parts: list[Any] = [None] * self.world_size
            dist.all_gather_object(parts, own_digests(unfinished(path), self.global_rank, self.world_size))
            if self.is_global_zero:
                digests = {name: digest for part in parts for name, digest in part.items()}
                write_manifest(unfinished(path), self._stage, self.world_size, shapes, digests)
                put_in_place(path)
        self.barrier("in place")

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The run's state. Shards follow in `load_model_state_dict`, when they have been found to fit.

        A checkpoint of another stage, world size or strategy gives its weights, and leaves its optimizer behind.
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
        """The shards, or whole weights to be divided."""
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
def _state_of(module: nn.Module, kept: Container[str]) -> Iterator[None]:
    """Leaves the rest out of the module's state: DeepSpeed excludes frozen weights by one of their names only."""

    def drop(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
        for name in [name for name in state if name not in kept]:
            del state[name]

    handle = module.register_state_dict_post_hook(drop)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _skipping(optimizer: Any, check: str) -> Iterator[None]:
    """Makes the optimizer's own check take the gradients for overflown."""

    def overflow(*_: Any, **__: Any) -> None:
        optimizer.overflow = True

    setattr(optimizer, check, overflow)
    try:
        yield
    finally:
        delattr(optimizer, check)
