"""What the commands share: how their help is laid out."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter

from jsonargparse import DefaultHelpFormatter


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the description."""
