"""The scores of a replay as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bots_lightning.evaluation.replay.forecasts import Scores
from bots_lightning.evaluation.replay.frontier import Curve


def write_json(
    results: Mapping[str, Scores],
    settings: Mapping[str, Any],
    path: str | Path,
    limits: Mapping[str, Curve] | None = None,
) -> None:
    """Writes {"settings": …, "selectors": {NAME: scores}, "frontiers": …}, null where there is no score.

    Args:
        results: scores by selector.
        settings: of the replay.
        path: of the file; its folder is made.
        limits: frontiers by the knowledge that they need.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"settings": dict(settings), "selectors": dict(results), "frontiers": dict(limits or {})}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
