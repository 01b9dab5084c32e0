"""What a replay has shown: tables for the terminal, JSON for programs, a picture."""

from bots_lightning.evaluation.replay.report.drawing import draw_picture
from bots_lightning.evaluation.replay.report.json_file import write_json
from bots_lightning.evaluation.replay.report.tables import print_tables

__all__ = ["draw_picture", "print_tables", "write_json"]
