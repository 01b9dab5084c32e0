"""Signals outside of training."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def end_on_sigterm() -> None:
    """Has SIGTERM end the program, with code 143, until the trainer puts the handlers back.

    Lightning's own handler waits for the end of a training step, which does not come in an evaluation or prediction.
    """
    if threading.current_thread() is threading.main_thread():  # only it may set handlers
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
