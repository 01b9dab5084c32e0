"""States of selectors: in the types that a checkpoint may hold, and as a digest."""

from __future__ import annotations

import hashlib
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch


def digest_of(value: Any) -> str:
    """16 hex characters that stand for a nested state: equal states, equal digests.

    Args:
        value: nested dictionaries of arrays and of values that `repr` tells apart.
    """
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()[:16]


def _feed(digest: Any, value: Any) -> None:
    """Adds dictionaries by sorted keys, and arrays, which may have gigabytes, by their checksum."""
    if isinstance(value, dict):
        for key in sorted(value):
            digest.update(str(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}{crc32(np.ascontiguousarray(value).data)}".encode())
    else:
        digest.update(repr(value).encode())


def stream_of(table: pa.Table) -> npt.NDArray[np.uint8]:
    """The table as an Arrow stream, which keeps the types of its columns; `table_of` reads it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return np.frombuffer(sink.getvalue(), dtype=np.uint8).copy()


def table_of(stream: npt.NDArray[np.uint8]) -> pa.Table:
    """The table that `stream_of` has made bytes of."""
    return pa.ipc.open_stream(stream.tobytes()).read_all()


def arrays_to_tensors(value: Any) -> Any:
    """A copy of a nested state with tensors for arrays: checkpoints load with weights_only=True, which refuses arrays.

    Args:
        value: nested dictionaries; anything but an array is kept as it is.
    """
    if isinstance(value, dict):
        return {key: arrays_to_tensors(item) for key, item in value.items()}
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def tensors_to_arrays(value: Any) -> Any:
    """A nested state with arrays for tensors: undoes `arrays_to_tensors`."""
    if isinstance(value, dict):
        return {key: tensors_to_arrays(item) for key, item in value.items()}
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
