"""Evaluation of runs: held-out scores, effective tasks, loggers; replay and comparison have folders of their own."""

from bots_lightning.evaluation.loggers.metrics_csv import MetricsCSV, read_metrics
from bots_lightning.evaluation.loggers.step_metrics import log_step_metrics
from bots_lightning.evaluation.loggers.tensorboard import TensorBoardCurves
from bots_lightning.evaluation.scores.effective_tasks import CountHistogram, effective_number, extremes, mixed_groups
from bots_lightning.evaluation.scores.forgetting import Forgetting, halves, mean_loss
from bots_lightning.evaluation.scores.pass_at_k import HeldOutScore, pass_at_k

__all__ = [
    "CountHistogram",
    "Forgetting",
    "HeldOutScore",
    "MetricsCSV",
    "TensorBoardCurves",
    "effective_number",
    "extremes",
    "halves",
    "log_step_metrics",
    "mean_loss",
    "mixed_groups",
    "pass_at_k",
    "read_metrics",
]
