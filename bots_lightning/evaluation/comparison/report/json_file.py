"""The result of a comparison as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(result: Mapping[str, Any], path: str | Path) -> None:
    """Writes the result; null where there is no number, and at an infinite end of an interval.

    Args:
        result: of a comparison.
        path: of the file; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
