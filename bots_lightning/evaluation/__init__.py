"""Measures of runs: held-out quality, effective tasks."""

from bots_lightning.evaluation.effective_tasks import CountHistogram, effective_number, mixed_groups
from bots_lightning.evaluation.metrics_csv import MetricsCSV, read_metrics
from bots_lightning.evaluation.pass_at_k import HeldOutScore, pass_at_k
from bots_lightning.evaluation.tensorboard import TensorBoardCurves

__all__ = [
    "CountHistogram",
    "HeldOutScore",
    "MetricsCSV",
    "TensorBoardCurves",
    "effective_number",
    "mixed_groups",
    "pass_at_k",
    "read_metrics",
]
