"""The content of a config of the flat layout, each option at its present place."""

from __future__ import annotations

from typing import Any

from bots_lightning.commands.flat_layout.names import CORRECTION, place_of

ORDER = ("policy", "scorer", "sampler", "algorithm", "optimizer", "evaluation", "check_ranks_every", "seed")
CORRECTION_OPTIONS = {"mode": "sequence_mask", "clip_max": 3.0, "clip_min": None}  # with their defaults
# Class: an option of it that had another name then, and its name now.
RENAMED = {"GresoSelector": ("max_passes", "max_epochs"), "CosineLength": ("judge", "grader")}
CORRECTION_NAMES = ("correction", *CORRECTION_OPTIONS)


def converted_config(config: dict[str, Any]) -> dict[str, Any]:
    """Moves the options of `model` and `data` to their present places; everything else is kept.

    Args:
        config: content of a YAML file.
    """
    sections = {"model": _model, "data": _data}
    return {
        name: sections[name](_renamed(content)) if name in sections else content for name, content in config.items()
    }


def is_flat(section: Any) -> bool:
    """Whether a `model` or `data` section has the flat layout."""
    if isinstance(section, dict):
        return not {"class_path", "init_args"}.isdisjoint(section)
    return isinstance(section, str)


def path_of(option: str) -> str:
    """Where an option is, below `model`, in a config: with the `init_args` of the algorithm's class."""
    return place_of(option).replace("algorithm.", "algorithm.init_args.")


def _renamed(node: Any) -> Any:
    """Content in which options of classes, at any depth, have their present names."""
    if isinstance(node, list):
        return [_renamed(each) for each in node]
    if not isinstance(node, dict):
        return node
    node = {name: _renamed(value) for name, value in node.items()}
    old, new = RENAMED.get(str(node.get("class_path")).rpartition(".")[2], ("", ""))
    if old and isinstance(options := node.get("init_args"), dict):
        node["init_args"] = {new if name == old else name: value for name, value in options.items()}
    return node


def _data(section: Any) -> Any:
    if not is_flat(section):
        return section
    return {} if isinstance(section, str) else dict(section.get("init_args") or {})


def _model(section: Any) -> Any:
    if not is_flat(section):
        return section
    if isinstance(section, str):
        return {"algorithm": {"class_path": section}}
    model: dict[str, Any] = {}
    if "class_path" in section:
        _put(model, "algorithm.class_path", section["class_path"])
    given = dict(section.get("init_args") or {})
    correction = {name: given.pop(CORRECTION + name) for name in CORRECTION_NAMES if CORRECTION + name in given}
    for name, value in given.items():
        _put(model, path_of(name), value)
    if correction:
        _put(model, "algorithm.init_args.importance_sampling", _importance_sampling(correction))
    return {name: model[name] for name in ORDER if name in model}


def _importance_sampling(given: dict[str, Any]) -> dict[str, Any] | None:
    """The options `importance_sampling_…` as one; null for what was not corrected."""
    switch = given.pop("correction", None)
    if switch is False:
        return None
    known = CORRECTION_OPTIONS | given if switch else given
    return {name: known[name] for name in CORRECTION_OPTIONS if name in known}


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for name in above:
        tree = tree.setdefault(name, {})
    tree[last] = value
