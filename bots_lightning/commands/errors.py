"""One-line messages for errors that a user can fix; all others are bugs and keep their traceback."""

from __future__ import annotations

import dis
import errno
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

from lightning.fabric.utilities.exceptions import MisconfigurationException

from bots_lightning.commands.parsing.extras import how_to_install
from bots_lightning.rewards import RewardFunctionError
from bots_lightning.strategies import LostRankError
from bots_lightning.training import StepFailedError

OURS = ("bots_lightning", "callbacks")
# Classes whose messages are for users; a `raise` of another class in this package is a broken invariant.
FOR_USERS = (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError)
NOT_FOR_USERS = (AssertionError, NotImplementedError)
# Libraries that load models and tasks by name, and modules where Lightning refuses options of the trainer.
READERS = ("transformers", "huggingface_hub", "datasets", "peft", "safetensors")
REFUSALS = (
    "lightning.pytorch.trainer",
    "lightning.pytorch.loops",
    "lightning.fabric.accelerators",
    "lightning.fabric.utilities.device_parser",
)
SYSTEM = {
    errno.ENOENT: "there is no such file or folder. Correct the path.",
    errno.EACCES: "permission denied. Name another place, or change the permissions of this one.",
    errno.EPERM: "permission denied. Name another place, or change the permissions of this one.",
    errno.EROFS: "the file system is read-only. Name another place.",
    errno.ENOTDIR: "a part of the path is a file where a folder is expected. Correct the path.",
    errno.EISDIR: "this is a folder; expected a file.",
}
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_DISK = "the disk is full. Make room, or name another disk by runs_dir; to continue: --ckpt_path last"
# Messages of Lightning and PyTorch, and what is shown instead.
REWORDED = (
    (
        re.compile(r"No supported gpu backend|CUDAAccelerator` can not run|not compiled with CUDA|NVIDIA driver"),
        "no GPU that PyTorch can use is there. Set trainer.accelerator=cpu, or install the driver and the build of "
        "PyTorch for it.",
    ),
    (
        re.compile(r"`val_check_interval` \((\d+)\) must be less than or equal to the number .*\((\d+)\)"),
        r"trainer.val_check_interval=\1 is above the epoch's \2 steps, so that nothing would be evaluated. Set it to "
        r"at most \2, or trainer.check_val_every_n_epoch=null to count over epochs.",
    ),
)


def line_for(error: BaseException) -> str | None:
    """The message for the user.

    Args:
        error: as it ended the program.

    Returns:
        one line; None for a bug, in this package or in the user's own program.
    """
    text = _message(error)
    return None if text is None else " ".join(text.split())


def _message(error: BaseException) -> str | None:
    if isinstance(error, LostRankError):
        return _rank_failure(error)
    causes = list(_causes(error))
    if any(isinstance(each, RewardFunctionError) and each.__cause__ is not None for each in causes):
        return None  # raised by a reward function: its traceback shows where
    if isinstance(error, StepFailedError):
        return str(error) if error.__cause__ is None or _message(error.__cause__) is not None else None
    text = next((str(each) for each in causes if _raised_for_users(each)), None)
    text = text or next(filter(None, map(_of_libraries, causes)), None)
    handled = causes[-1].__context__
    if text is None or handled is None or causes[-1].__suppress_context__:
        return text
    return _message(handled) or text  # the first error, if a second one was raised while the program ended


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the chain of errors it was raised from."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__


def _rank_failure(lost: LostRankError) -> str | None:
    """This rank's own failure comes first, a library's error last: it may follow from the other rank's failure."""
    cause = lost.__cause__
    if cause is None:
        return str(lost)
    if (message := _message(cause)) is not None:
        return f"{message} (Besides, {lost})"
    if not isinstance(cause, RuntimeError | OSError) or _in_users_program(cause):
        return None
    first = next(iter(str(cause).strip().splitlines()), "")
    return f"{lost} (Here: {type(cause).__name__}: {first})"


def _raised_for_users(error: BaseException) -> bool:
    """Whether this package raised it, with a class that it uses for messages."""
    innermost = _innermost(error)
    if innermost is None or _module(innermost).split(".")[0] not in OURS or not _is_raise(innermost):
        return False
    ours = type(error).__module__.split(".")[0] in OURS
    of_system = isinstance(error, OSError) and error.errno is not None
    return (ours or isinstance(error, FOR_USERS)) and not (isinstance(error, NOT_FOR_USERS) or of_system)


def _is_raise(innermost: TracebackType) -> bool:
    """Whether a frame ended in a `raise` statement and not in an operation that failed."""
    return innermost.tb_frame.f_code.co_code[innermost.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _of_libraries(error: BaseException) -> str | None:
    """Errors of the operating system and of libraries."""
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{error}: {FULL_DISK}"
    if _in_users_program(error):
        return None
    module = _module(_innermost(error))
    for pattern, text in REWORDED:
        if found := pattern.search(str(error)):
            return found.expand(text)
    if isinstance(error, ModuleNotFoundError):
        return _missing_module(error)
    if isinstance(error, MisconfigurationException) or (
        isinstance(error, ValueError | TypeError) and module.startswith(REFUSALS)
    ):
        return f"the trainer says: {error}"
    if isinstance(error, OSError) and error.errno in SYSTEM and error.filename is not None:
        return f"{error.filename}: {SYSTEM[error.errno]}"
    if module.split(".")[0] in READERS and isinstance(error, OSError | ValueError):
        return _unreadable(error)
    return None


def _missing_module(error: ModuleNotFoundError) -> str | None:
    if error.name is None:
        return str(error)  # a library's own message, with its remedy
    if error.name.split(".")[0] in OURS:
        return None
    install = how_to_install(error.name) or "Install the package that has it."
    return f"the module {error.name} is not installed. {install}"


def _unreadable(error: BaseException) -> str:
    """A model or data set that a library could not load, by name."""
    name = _name_asked_for(error)
    why = next(filter(None, map(_why_not_on_hub, _causes(error))), None)
    why = why or next((line.rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"{name or 'a model'} cannot be loaded: {why}. Name a folder with a model (looked in {Path.cwd()}), or a name "
        "on the Hub that can be reached, as model.policy.pretrained."
    )


def _why_not_on_hub(error: BaseException) -> str | None:
    kind, offline = type(error).__name__, getattr(sys.modules.get("huggingface_hub.constants"), "HF_HUB_OFFLINE", False)
    if kind == "HFValidationError":
        return "there is no such folder, and it is no name of the Hub's"
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return "the Hub has none of this name that you may see; for private and gated ones: hf auth login"
    if kind in ("LocalEntryNotFoundError", "OfflineModeIsEnabled") or "couldn't connect" in str(error):
        unreachable = "HF_HUB_OFFLINE is set" if offline else "the Hub cannot be reached"
        return f"there is no such folder, it was not downloaded before, and {unreachable}"
    return None


def _name_asked_for(error: BaseException) -> str | None:
    """The argument of `from_pretrained`, which messages often leave out."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if name := frame.f_locals.get("pretrained_model_name_or_path"):
            return str(name)
    return None


def _in_users_program(error: BaseException) -> bool:
    """Whether this package had called code that belongs to no installed package."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    begin = next((number for number, frame in enumerate(frames) if _is_ours(frame)), len(frames))
    return any(not _is_ours(frame) and not _is_installed(frame) for frame in frames[begin:])


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).split(".")[0] in OURS


def _is_installed(frame: FrameType) -> bool:
    file = Path(frame.f_code.co_filename)
    standard = any(Path(sysconfig.get_path(name)) in file.parents for name in ("stdlib", "platstdlib"))
    return standard or str(file).startswith("<") or not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def _innermost(error: BaseException) -> TracebackType | None:
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    return tb


def _module(tb: TracebackType | None) -> str:
    return "" if tb is None else str(tb.tb_frame.f_globals.get("__name__", ""))
