"""What a comparison has shown: tables and verdicts for the terminal, JSON for programs, a picture."""

from bots_lightning.evaluation.comparison.report.drawing import draw_picture
from bots_lightning.evaluation.comparison.report.json_file import write_json
from bots_lightning.evaluation.comparison.report.tables import print_tables

__all__ = ["draw_picture", "print_tables", "write_json"]
