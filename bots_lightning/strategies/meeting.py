"""Ranks meet at the port of the first one, or end with one line that says why they cannot."""

from __future__ import annotations

import os
import socket
import threading
import time
from datetime import timedelta

import torch.distributed as dist

HERE = "bots_lightning/first rank"  # a key that the first rank sets in its store
ANSWER_SECONDS = 30.0  # how long the others wait for that key once the port is open

_store: dist.TCPStore | None = None  # kept alive: `init_process_group` uses it


def meet(address: str, port: int, rank: int, world_size: int, timeout: timedelta) -> None:
    """Opens the port at the first rank; at the others, makes sure that it is this run's first rank that answers.

    Without it, where the port is in use, the first rank ends with a torch error, and the others wait half an hour for
    an answer of the program that holds it, or join another run.

    Args:
        address: of the first rank: MASTER_ADDR.
        port: of the first rank: MASTER_PORT.
        rank: this one.
        world_size: how many there are.
        timeout: how long the others wait until the port is open.

    Raises:
        ConnectionError: the port is in use, or was not opened in time.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)  # torchrun holds the port and ends all ranks
    if world_size == 1 or agent or dist.is_initialized():
        return
    if rank == 0:
        _open(address, port, world_size, timeout)
    else:
        _await_port(address, port, timeout)
        _greet(address, port, rank, world_size)


def _open(address: str, port: int, world_size: int, timeout: timedelta) -> None:
    """Opens the port at the first rank."""
    global _store
    options = {"wait_for_workers": False, "multi_tenant": True}  # as torch opens it, so that torch shares this store
    try:
        _store = dist.TCPStore(address, port, world_size, True, timeout, **options)
    except dist.DistNetworkError as error:
        in_use = "EADDRINUSE" in str(error)
        seen = "is in use by another program" if in_use else f"cannot be opened ({str(error).splitlines()[0]})"
        raise ConnectionError(
            f"port {port} of {address}, where the ranks meet, {seen}. Set MASTER_PORT to a free port, the same for all "
            "ranks."
        ) from error
    _store.set(HERE, "")


def _await_port(address: str, port: int, timeout: timedelta) -> None:
    """Waits until the first rank has opened its port."""
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            socket.create_connection((address, port), timeout=10).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"the first rank has not opened port {port} of {address} in {timeout.total_seconds():g} s "
                    f"({error}). See its log; MASTER_ADDR must name its machine."
                ) from error
            time.sleep(0.2)
        else:
            return


def _greet(address: str, port: int, rank: int, world_size: int) -> None:
    """Registers this rank with the first one; fails where another program, or the same rank, has answered."""
    answers: list[int] = []

    def ask() -> None:
        try:
            store = dist.TCPStore(address, port, world_size, False, wait_for_workers=False)
            store.wait([HERE], timedelta(seconds=ANSWER_SECONDS))
            answers.append(store.add(f"bots_lightning/rank {rank}", 1))
        except dist.DistError:  # no store at all, or one without the first rank of this run
            return

    # On a thread, since torch waits forever for the answer of a program that is no store.
    asking = threading.Thread(target=ask, name="meeting", daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    if answers != [1]:
        who = "another run, which has this rank already" if answers else "another program than this run's first rank"
        raise ConnectionError(
            f"port {port} of {address}, where the ranks meet, is in use by {who}. Set MASTER_PORT to a free port, the "
            "same for all ranks."
        )


def check_same_checkpoint(path: str | None) -> None:
    """Refuses to resume from different checkpoints: ranks that Lightning has not started each look for `last`.

    Args:
        path: of this rank's checkpoint, None if there is none.

    Raises:
        ValueError: the ranks' checkpoints differ; raised on all.
    """
    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, path)
    if len(set(found)) > 1:
        listed = ", ".join(f"rank {rank}: {theirs}" for rank, theirs in enumerate(found))
        raise ValueError(
            f"the ranks would resume from different checkpoints ({listed}): a run of this name was saved while they "
            "looked, or they do not see the same files. Start again, or name the checkpoint by its path."
        )
