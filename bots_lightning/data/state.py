"""States of selectors as what a checkpoint may hold, and their digest."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch


def feed(digest: Any, value: Any) -> None:
    """Adds a state to a digest, dictionaries by sorted keys, arrays by their checksum: these may have gigabytes."""
    if isinstance(value, dict):
        for key in sorted(value):
            digest.update(str(key).encode())
            feed(digest, value[key])
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}{crc32(np.ascontiguousarray(value).data)}".encode())
    else:
        digest.update(repr(value).encode())


def stream_of(table: pa.Table) -> npt.NDArray[np.uint8]:
    """The table as bytes, types included."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return np.frombuffer(sink.getvalue(), dtype=np.uint8).copy()


def arrays_to_tensors(value: Any) -> Any:
    """Checkpoints load with weights_only=True, which refuses numpy arrays."""
    if isinstance(value, dict):
        return {key: arrays_to_tensors(item) for key, item in value.items()}
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def tensors_to_arrays(value: Any) -> Any:
    """The way back."""
    if isinstance(value, dict):
        return {key: tensors_to_arrays(item) for key, item in value.items()}
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
