"""Callbacks that observe a run; losses are the same with and without them. `GracefulStop` alone ends one."""

from callbacks.answers_table import AnswersTable
from callbacks.belief_quality import BeliefQuality
from callbacks.completions import CompletionsLog
from callbacks.effective_task_ratio import EffectiveTaskRatio
from callbacks.graceful_stop import GracefulStop
from callbacks.pass_rates import PassRateWriter
from callbacks.progress_bar import TaskProgressBar
from callbacks.run_summary import RunSummary
from callbacks.selection_callback import SelectionCallback
from callbacks.selection_overhead import SelectionOverhead
from callbacks.stalled_learning import StalledLearning

__all__ = [
    "AnswersTable",
    "BeliefQuality",
    "CompletionsLog",
    "EffectiveTaskRatio",
    "GracefulStop",
    "PassRateWriter",
    "RunSummary",
    "SelectionCallback",
    "SelectionOverhead",
    "StalledLearning",
    "TaskProgressBar",
]
