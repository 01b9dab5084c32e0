"""Explains configs and options of the flat layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bots_lightning.commands.flat_layout.names import OLD_NAME, PLACES, present_name
from bots_lightning.commands.parsing.places import config_files, places_in_file, places_in_words


def flat_fault(words: Sequence[str]) -> str | None:
    """Explains the first config of the flat layout, or else the first option.

    Args:
        words: of the command line.

    Returns:
        a line; None if there is no such config or option.
    """
    return next(_in_configs(config_files(words)), None) or next(_in_words(words), None)


def flat_config(file: str, section: str) -> str | None:
    """Explains a section of the flat layout.

    Args:
        file: a config.
        section: `model` or `data`.

    Returns:
        a line; None if the section does not have that layout.
    """
    return next(_in_configs([file], [section]), None)


def _in_configs(files: Sequence[str], sections: Sequence[str] = ("model", "data")) -> Iterator[str]:
    for file in files:
        for place in places_in_file(file):
            found = OLD_NAME.match(place.name)
            if found and found["section"] in sections:
                yield (
                    f"{place}: the layout of configs has changed. Convert the file: bots-lightning convert-config "
                    f"{file} NEW.yaml"
                )


def _in_words(words: Sequence[str]) -> Iterator[str]:
    for place in places_in_words(words):
        found = OLD_NAME.match(place.name)
        if found and (found["section"] == "data" or found["option"] in PLACES):
            yield f"{place}: the layout of options has changed; here it is --{present_name(place.name)}."
