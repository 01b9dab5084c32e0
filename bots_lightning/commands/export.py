"""The command `bots-lightning export`: a checkpoint's policy as a folder for transformers and peft."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from bots_lightning.checkpoints import consolidated, damage, read_file
from bots_lightning.commands.parsing import CommandParser, command_parser, explain, flat_config
from bots_lightning.policy.export import Exported, check_unused, export_policy
from bots_lightning.training import OnlineModule

DESCRIPTION = """\
Writes the policy of a checkpoint, and its tokenizer, as a folder that plain transformers and peft load.

  bots-lightning export --ckpt_path runs/quickstart/checkpoints/last.ckpt --output exported/adapter
  bots-lightning export --ckpt_path runs/quickstart/checkpoints/last.ckpt --output exported/model --merge

A LoRA becomes an adapter folder, which needs the pretrained model beside it; --merge makes a full model of the two.
Full finetuning always becomes a full model.
"""


def export_command(args: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        args: the words after `export`; by default those of the command line.
    """
    parser = _parser()
    options = parser.parse_args(args)
    output, checkpoint = Path(options.output), Path(options.ckpt_path)
    try:
        check_unused(output)  # before a large model is loaded
        module = load_module(checkpoint, Path(options.config) if options.config else None)
        dtype = getattr(torch, options.dtype) if options.dtype else None
        exported = export_policy(module.policy, output, options.merge, dtype, model_card(module))
    except (OSError, ValueError) as error:
        parser.refuse(str(error))
    print(describe(exported, module.progress.iterations))


def model_card(module: OnlineModule) -> str:
    """How the policy of a run was trained, as the text of a model card.

    Args:
        module: with the counters and the history of its checkpoint.
    """
    progress, lora = module.progress, module.policy.lora
    trained = "all weights" if lora is None else f"LoRA adapters of rank {lora.r}"
    rewards = ", ".join(f"`{name}`" for name in module.scorer.names)
    lines = [
        f"Trained with {type(module.algorithm).__name__}: {trained}, "
        f"{progress.iterations:,} iterations, {progress.rollouts:,} rollouts, {progress.generated_tokens:,} tokens.",
        "",
        f"- Rewards: {rewards}",
        f"- {module.sampler.num_generations} rollouts per task, at temperature {module.policy.temperature:g}",
    ]
    lines += [
        f"- Evaluation after {entry['iteration']} iterations: held-out mean {entry['overall']:.3f}"
        for entry in (module.history[:1] + module.history[1:][-1:])
    ]
    return "\n".join(lines)


def describe(exported: Exported, iterations: int) -> str:
    """What was written, and the two lines of Python that load it.

    Args:
        exported: as of `export_policy`.
        iterations: of the checkpoint.
    """
    if exported.is_adapter:
        what, package, auto = f"the adapter of {exported.base}", "peft", "AutoPeftModelForCausalLM"
    else:
        what, package, auto = "a full model", "transformers", "AutoModelForCausalLM"
    dtype = str(exported.dtype).removeprefix("torch.")
    return (
        f"{exported.folder}: {what} after {iterations} iterations, in {dtype}. To load it:\n\n"
        f"from {package} import {auto}\n"
        f'model = {auto}.from_pretrained("{exported.folder}")'
    )


def load_module(checkpoint_path: Path, config: Path | None = None) -> OnlineModule:
    """Builds the module of a run and loads the weights of a checkpoint.

    Args:
        checkpoint_path: a checkpoint that `fit` wrote, a file or a folder.
        config: with the `model` of the run; by default the config.yaml of the checkpoint's run folder.

    Returns:
        the module, with its model loaded, on the CPU.

    Raises:
        FileNotFoundError: there is no such checkpoint, config or pretrained model.
        ValueError: one of them is not what it should be, or they do not belong together.
    """
    checkpoint = read_checkpoint(checkpoint_path)
    config = config or checkpoint_path.resolve().parent.parent / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"{config} is not a file. Name the config of the checkpoint's run: --config FILE.yaml")
    module = build_module(config)
    try:
        module.configure_model()
    except OSError as error:
        raise FileNotFoundError(f"{config}: the pretrained model cannot be loaded: {error}") from error
    try:
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=False)  # frozen weights are left out
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{checkpoint_path} does not fit the model of {config}: {error}") from error
    return module


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, on the CPU.

    Args:
        path: a file, or a folder of sharded parts.

    Returns:
        its content, of a folder the parts put together.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint of a policy, is damaged, or has the layout of an earlier version.
    """
    beside = sorted(str(other) for other in path.rglob("*.ckpt"))
    if beside or not path.exists():
        hint = f"Checkpoints in there: {', '.join(beside)}." if beside else "Correct --ckpt_path."
        raise FileNotFoundError(f"{path} is not a checkpoint (looked in {Path.cwd()}). {hint}")
    if fault := damage(path):
        raise ValueError(f"{path} is damaged: {fault}. Name another checkpoint.")
    checkpoint = consolidated(path) if path.is_dir() else read_file(path, weights_only=True, mmap=True)
    if not isinstance(checkpoint, dict) or not {"state_dict", "progress", "evaluations"} <= checkpoint.keys():
        raise ValueError(f"{path} is not a checkpoint that bots-lightning fit has written. Correct --ckpt_path.")
    if any(name.startswith("policy.") and not name.startswith("policy.model.") for name in checkpoint["state_dict"]):
        raise ValueError(f"{path} was written by an earlier version of this package. Export it with that version.")
    return checkpoint


def build_module(config: Path) -> OnlineModule:
    """Builds the module that a config's `model` section describes; the other sections are not looked at.

    Args:
        config: a YAML file.

    Raises:
        ValueError: there is no such section, it has the flat layout, or it cannot be built.
    """
    if fault := flat_config(str(config), "model"):
        raise ValueError(fault)
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{config} is not YAML ({error}).") from error
    if not isinstance(content, dict) or "model" not in content:
        raise ValueError(f"{config} has no `model`. Name the config.yaml of the checkpoint's run with --config.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=OnlineModule)
    try:
        return parser.instantiate_classes(parser.parse_object({"model": content["model"]})).model
    except (ArgumentError, ValueError) as error:
        told = explain(parser, str(error), ["--config", str(config)]) if isinstance(error, ArgumentError) else error
        raise ValueError(f"{config}: the model cannot be built: {told}") from error


def _parser() -> CommandParser:
    parser = command_parser("bots-lightning export", DESCRIPTION)
    parser.add_argument("--ckpt_path", type=str, required=True, metavar="NAME.ckpt", help="Which checkpoint.")
    parser.add_argument("--output", type=str, required=True, metavar="FOLDER", help="A new or an empty folder.")
    parser.add_argument("--merge", action="store_true", help="Write a full model instead of an adapter.")
    parser.add_argument(
        "--dtype",
        type=Literal["float32", "bfloat16", "float16"],
        help="Of a full model's weights; by default that of the pretrained ones.",
    )
    parser.add_argument(
        "--config", type=str, metavar="FILE.yaml", help="The run's config; by default config.yaml in its folder."
    )
    return parser
