"""The flat layout of earlier configs, `model.init_args.OPTION`: names of its options, and how a config is rewritten."""

from bots_lightning.commands.flat_layout.contents import converted_config, is_flat
from bots_lightning.commands.flat_layout.names import PLACES, place_of, present_name
from bots_lightning.commands.flat_layout.text import converted

__all__ = ["PLACES", "converted", "converted_config", "is_flat", "place_of", "present_name"]
