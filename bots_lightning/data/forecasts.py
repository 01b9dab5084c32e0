"""What the selector predicted of a step before it saw the evidence."""

# Shapes: B tasks that were rolled out.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Evidence
from bots_lightning.selection import TaskSelector


@dataclass
class Forecast:
    """What was believed of a step's tasks before their evidence was observed, and that evidence.

    Attributes:
        evidence: of all ranks, merged: one row per task that was rolled out.
        alpha: (B,) α of each row's task.
        beta: (B,) β.
        dispersion: (B,) φ of its rewards, 1 for rewards of 0 and 1.
    """

    evidence: Evidence
    alpha: npt.NDArray[np.float64]
    beta: npt.NDArray[np.float64]
    dispersion: npt.NDArray[np.float64]

    @staticmethod
    def of(selector: TaskSelector, evidence: Evidence) -> Forecast | None:
        """What a selector believes of some tasks; call it before the selector observes their evidence.

        Args:
            selector: with or without a belief.
            evidence: merged, see `Evidence.merged`.

        Returns:
            the forecast; None without evidence or without a belief.
        """
        believed = selector.forecast(evidence.indices) if len(evidence) else None
        return None if believed is None else Forecast(evidence, *believed, selector.dispersion(evidence.indices))
