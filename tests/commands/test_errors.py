"""Mistakes of a user are one line on stderr; bugs keep their traceback."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentError

from bots_lightning import cli
from bots_lightning.beliefs import BetaBelief
from bots_lightning.commands.errors import line_for
from bots_lightning.commands.export import build_module
from bots_lightning.commands.parsing import DEBUG, check_run_folder
from bots_lightning.commands.parsing.extras import how_to_install
from bots_lightning.commands.replay import _selector_node
from bots_lightning.rewards import exact_match
from bots_lightning.strategies import LostRankError
from bots_lightning.training.failures import together

ROOT = Path(__file__).parents[2]
FILES = {
    "open.yaml": "model:\n  scorer:\n    reward_funcs: [a\n",
    "tab.yaml": "model:\n\tclass_path: x\n",
    "empty.yaml": "# nothing yet\n",
    "list.yaml": "- a\n- b\n",
    "key.yaml": "trainer:\n  max_epochs: 2\n  max_stps: 1\n",
    "section.yaml": "trainr:\n  max_epochs: 2\n",
    "option.yaml": "model:\n  optimizer:\n    # slower\n    learning_rat: 1.0e-5\n",
    "below.yaml": "model:\n  algorithm:\n    init_args:\n      epsilom: 0.1\n",
    "deep.yaml": "data:\n  evaluation:\n    heldout:\n      class_path: bots_lightning.tasks."
    "ProceduralTasks\n      init_args:\n        num_task: 3\n",
    "value.yaml": "model:\n  optimizer:\n    learning_rate: fast\n",
    "part.yaml": "model:\n  sampler:\n    epsilon: 0.1\n",
    "flat.yaml": "name: old\nmodel:\n  class_path: bots_lightning.algorithms.PPO\n  init_args: {cliprange: 0.1}\n",
    "flat_overlay.yaml": "data:\n  init_args:\n    selector:\n      class_path: "
    "bots_lightning.selection.UniformSelector\n",
    "callback.yaml": "trainer:\n  callbacks:\n  - class_path: callbacks.CompletionsLog\n  - class_path: "
    "callbacks.RunSumary\n",
    "picture.jsonl": '{"task_id": "a", "prompt": "p", "answer": "1", "reference_pass_rate": 0.5, "successes": [1, 2], '
    '"rollouts": 4}\n',
}
# Words behind `bots-lightning`, the exit code, and the line. FIT is `fit --config base.yaml`.
MISTAKES = {
    # commands
    "fitt --config base.yaml": (
        2,
        "'fitt' is not a command; did you mean fit? Commands: fit, validate, test, predict, ",
    ),
    "train --config base.yaml": (2, "'train' is not a command; did you mean fit?"),
    "": (2, "no command given. Commands: fit, validate, test, predict, export, replay, compare"),
    "fit": (2, "no data and no model given. Name a config: bots-lightning fit --config configs/quickstart.yaml"),
    "--config base.yaml fit": (2, "options and configs stand behind the command. Write bots-lightning fit --config …"),
    # configs
    "fit --config bose.yaml": (
        2,
        "--config bose.yaml: there is no such file (looked in HERE); did you mean base.yaml?",
    ),
    "fit --config uniform.yaml": (2, "no such file (looked in HERE); did you mean configs/selectors/uniform.yaml?"),
    "fit --config configs": (2, "--config configs is a folder. Name a YAML file in it."),
    "FIT --config open.yaml": (2, "open.yaml, line 4, column 1: not YAML: expected ',' or ']'"),
    "FIT --config tab.yaml": (2, "tab.yaml, line 2, column 1: not YAML: found character '\\t' that cannot start any "),
    "FIT --config empty.yaml": (2, "empty.yaml is empty; expected keys as `model`, `data`, `trainer`."),
    "FIT --config list.yaml": (2, "list.yaml is not a mapping; expected keys as `model`, `data`, `trainer`."),
    "FIT --config binary.yaml": (2, "binary.yaml is not text in UTF-8 (byte 0). Name a YAML file."),
    "FIT --config key.yaml": (
        2,
        "key.yaml, line 3: trainer.max_stps is not an option; did you mean trainer.max_steps?",
    ),
    "FIT --config section.yaml": (
        2,
        "section.yaml, line 2: trainr.max_epochs is not an option; did you mean trainer.max_epochs?",
    ),
    "FIT --config option.yaml": (
        2,
        "option.yaml, line 4: model.optimizer.learning_rat is not an option; did you mean "
        "model.optimizer.learning_rate?",
    ),
    "FIT --config below.yaml": (
        2,
        "below.yaml, line 4: model.algorithm.init_args.epsilom is not an option of bots_lightning.algorithms.GRPO; did "
        "you mean epsilon?",
    ),
    "FIT --config part.yaml": (
        2,
        "part.yaml, line 3: model.sampler.epsilon is not an option; did you mean model.algorithm.init_args.epsilon?",
    ),
    "FIT --config deep.yaml": (
        2,
        "deep.yaml, line 6: data.evaluation.heldout.init_args.num_task is not an option of "
        "bots_lightning.tasks.ProceduralTasks; did you mean num_tasks?",
    ),
    "FIT --config value.yaml": (2, "value.yaml, line 3: model.optimizer.learning_rate=fast: expected a number."),
    "FIT --config callback.yaml": (
        2,
        "callback.yaml, line 4: trainer.callbacks.class_path=callbacks.RunSumary: callbacks has no RunSumary; did you "
        "mean callbacks.RunSummary?",
    ),
    "fit --config configs/selectors/uniform.yaml": (
        2,
        "model.policy.pretrained and model.scorer.reward_funcs and model.algorithm and data.source must be set. Set "
        "them, or stack this config on a whole one: --config configs/quickstart.yaml",
    ),
    "fit --config configs/algorithms/gspo.yaml": (2, "stack this config on a whole one: --config configs/quickstart"),
    # the flat layout of earlier configs
    "FIT --config flat.yaml": (
        2,
        "flat.yaml, line 3: model.class_path: the layout of configs has changed. Convert the file: bots-lightning "
        "convert-config flat.yaml NEW.yaml",
    ),
    "FIT --config flat_overlay.yaml": (
        2,
        "flat_overlay.yaml, line 2: data.init_args: the layout of configs has changed. Convert the file: ",
    ),
    "fit --config flat.yaml --config flat_overlay.yaml": (2, "convert-config flat.yaml NEW.yaml"),
    "FIT --model.init_args.learning_rate 1": (
        2,
        "--model.init_args.learning_rate: the layout of options has changed; here it is "
        "--model.optimizer.learning_rate.",
    ),
    "FIT --model.init_args.importance_sampling_correction false": (
        2,
        "the layout of options has changed; here it is --model.algorithm.importance_sampling.",
    ),
    "FIT --data.init_args.selector.init_args.belief BetaBelief": (
        2,
        "the layout of options has changed; here it is --data.selector.init_args.belief.",
    ),
    "FIT --model bots_lightning.algorithms.PPO": (
        2,
        "--model bots_lightning.algorithms.PPO: expected options, not a class. The algorithm is one: --model.algorithm "
        "bots_lightning.algorithms.PPO",
    ),
    # options
    "FIT --trainer.max_stps 1": (2, "--trainer.max_stps is not an option; did you mean --trainer.max_steps?"),
    "FIT --learning_rate 1": (
        2,
        "--learning_rate is not an option; did you mean --model.optimizer.learning_rate?",
    ),
    "FIT --modle.sampler.num_generations 1": (
        2,
        "--modle.sampler.num_generations is not an option; did you mean --model.sampler.num_generations?",
    ),
    "FIT --model.seed 1": (2, "--model.seed is not an option; here it is --seed_everything."),
    "FIT --model.learning_rate 1": (2, "not an option; did you mean --model.optimizer.learning_rate?"),
    "FIT --model.optimizer.cliprange 1": (2, "not an option; here it is --model.algorithm.epsilon."),
    "FIT --model.optimizer.lr 1": (2, "not an option; here it is --model.optimizer.learning_rate."),
    "FIT --actor_rollout_ref.rollout.n 8": (
        2,
        "--actor_rollout_ref.rollout.n is not an option; here it is --model.sampler.num_generations.",
    ),
    "FIT --trainer.gradient_accumulation_steps 8": (
        2,
        "--trainer.gradient_accumulation_steps is not an option; here it is --model.policy.max_tokens_per_micro",
    ),
    "FIT --per_device_train_batch_size 4": (
        2,
        "--per_device_train_batch_size is not an option; here it is --data.batch_size, in tasks per step",
    ),
    "FIT --model.optimizer.learning_rat 1": (
        2,
        "--model.optimizer.learning_rat is not an option; did you mean --model.optimizer.learning_rate?",
    ),
    "FIT --model.algorithm.epsilom 1": (
        2,
        "not an option of bots_lightning.algorithms.GRPO; did you mean epsilon?",
    ),
    "FIT --model.algorithm.critic SharedCritic": (
        2,
        "not an option of bots_lightning.algorithms.GRPO. To see them: bots-lightning fit --model.algorithm.help "
        "bots_lightning.algorithms.GRPO",
    ),
    "FIT --model.algorithm.lr 1": (
        2,
        "not an option of bots_lightning.algorithms.GRPO; here it is model.optimizer.learning_rate.",
    ),
    "FIT --model.algorithm.importance_sampling.cap 1": (2, "importance_sampling.cap is not an option of "),
    "FIT --model.algorithm.beta 0.1": (
        2,
        "--model.algorithm.beta is not an option of bots_lightning.algorithms.GRPO; here it is kl_coef.",
    ),
    "FIT --model.algorithm bots_lightning.algorithms.PPO --model.algorithm.epsilon 0.1": (
        2,
        "--model.algorithm.epsilon is not an option of bots_lightning.algorithms.PPO; here it is cliprange.",
    ),
    "FIT --model.policy.lora.lora_alpha 8": (
        2,
        "not an option of bots_lightning.policy.LoRA; here it is alpha.",
    ),
    "FIT --trainer.max_steps": (2, "--trainer.max_steps needs a value behind it."),
    "FIT quickly": (2, "'quickly' is not expected here; options begin with --."),
    # values
    "FIT --model.optimizer.learning_rate abc": (2, "--model.optimizer.learning_rate abc: expected a number."),
    "FIT --trainer.max_steps 1.5": (2, "--trainer.max_steps 1.5: expected a whole number."),
    "FIT --model.algorithm.loss_type gspo": (
        2,
        "--model.algorithm.loss_type gspo: GSPO here is importance_sampling_level: sequence (--config "
        "configs/algorithms/gspo.yaml); expected one of grpo, dr_grpo, ",
    ),
    "FIT --model.algorithm.loss_type gprpo": (2, "bnpo; did you mean grpo?"),
    "FIT --model.algorithm.scale_rewards true": (
        2,
        "scale_rewards true: TRL's true here is group; expected one of group",
    ),
    # classes
    "FIT --model.algorithm GRP0": (
        2,
        "--model.algorithm GRP0: there is no such class; did you mean bots_lightning.algorithms.GRPO?",
    ),
    "FIT --model.algorithm.help GRP0": (
        2,
        "--model.algorithm.help GRP0: there is no such class; did you mean bots_lightning.algorithms.GRPO?",
    ),
    "FIT --model.algorithm DAPO": (
        2,
        "--model.algorithm DAPO: DAPO is GRPO with --config configs/algorithms/dapo.yaml.",
    ),
    "FIT --data.selector bots_lightning.selectors.ThompsonSelector": (
        2,
        "bots_lightning has no selectors; did you mean bots_lightning.selection.ThompsonSelector?",
    ),
    "FIT --data.selector bots_lightning.algorithms.GRPO": (
        2,
        "not a TaskSelector. Known: bots_lightning.selection.",
    ),
    "FIT --model.scorer.reward_funcs '[bots_lightning.rewards.exact_mach]'": (
        2,
        "bots_lightning.rewards has no exact_mach; did you mean bots_lightning.rewards.exact_match?",
    ),
    "FIT --model.scorer.reward_funcs '[my_rewards.length]'": (
        2,
        "there is no module my_rewards. Python looks where packages are installed and in PYTHONPATH",
    ),
    # the trainer
    "FIT --trainer.gradient_clip_val 1": (
        1,
        "trainer.gradient_clip_val=1: the model clips its gradients itself. Remove ",
    ),
    "FIT --trainer.accumulate_grad_batches 2": (
        1,
        "set data.batch_size for more tasks a step, model.policy",
    ),
    "FIT --trainer.strategy ddp": (
        1,
        "trainer.strategy=ddp: expected one that is made for learning online. Remove it, ",
    ),
    "FIT --trainer.accelerator cuda": (1, "no GPU that PyTorch can use is there. Set trainer.accelerator=cpu"),
    "FIT --trainer.accelerator abacus": (1, "You selected an invalid accelerator name: `accelerator='abacus'`"),
    "FIT --trainer.val_check_interval 9": (1, "trainer.val_check_interval=9 is above the epoch's 2 steps"),
    "FIT --trainer.precision bf16-true": (1, "trainer.precision=bf16-true; expected 32-true or bf16-mixed."),
    "FIT --trainer.callbacks callbacks.RunSummary": (1, "RunSummary needs callbacks.EffectiveTaskRatio; add it to "),
    # files and folders
    "FIT --runs_dir base.yaml": (
        1,
        "HERE/base.yaml is a file; expected a folder. Set runs_dir, and name, to another",
    ),
    "FIT --name ../up": (1, "name='../up'; expected the name of a folder below runs_dir."),
    "FIT --ckpt_path gone.ckpt": (1, "--ckpt_path gone.ckpt: there is no such checkpoint (looked in HERE)."),
    "FIT --data.source bots_lightning.tasks.JsonlTasks --data.source.init_args.path gone.jsonl": (
        1,
        "gone.jsonl is not a file (looked in HERE). Correct the source's `path`.",
    ),
    "FIT --model.policy.pretrained nobody/nothing": (
        1,
        "nobody/nothing cannot be loaded: there is no such folder, it was not downloaded before, and HF_HUB_OFFLINE is "
        "set. Name a folder with a model (looked in HERE), or a name on the Hub that can be reached",
    ),
    "FIT --model.policy.pretrained ./nothing": (
        1,
        "./nothing cannot be loaded: there is no such folder, and it is no ",
    ),
    # the other commands
    "export --ckpt_pth gone.ckpt": (2, "--ckpt_pth is not an option; did you mean --ckpt_path?"),
    "export": (2, "--ckpt_path and --output must be given. See bots-lightning export --help."),
    "export --ckpt_path gone.ckpt --output new": (2, "gone.ckpt is not a checkpoint (looked in HERE)."),
    "export --ckpt_path gone.ckpt --output new --dtype float23": (
        2,
        "--dtype float23: expected one of float32, bfloat16, ",
    ),
    "compare --baselin uniform runs/a": (2, "--baselin is not an option; did you mean --baseline?"),
    "compare runs/a": (2, "runs/a is not a folder (looked in HERE)."),
    "compare runs/a --picture base.yaml/a.png": (
        2,
        "--picture base.yaml/a.png: base.yaml is a file; expected a folder",
    ),
    "replay --data gone.jsonl": (2, "gone.jsonl is not a file (looked in HERE). Correct --data."),
    "replay --data picture.jsonl --selectors unifrom": (2, "(looked in HERE); did you mean uniform? Overlays in "),
    "replay --data picture.jsonl --seeds 0": (2, "--seeds 0: expected a whole number above 0."),
    "replay --data picture.jsonl --weak first": (2, "--weak first: expected one of first-epoch, none"),
    "replay --data picture.jsonl --picture a.pgn": (2, "--picture a.pgn: expected a name that ends in one of .png, "),
    "replay --data picture.jsonl --selectors forgets.yaml": (
        2,
        "forgets.yaml: the selector cannot be built: forgets.yaml, line 6: "
        "data.selector.init_args.belief.init_args.forgeting is not an option of "
        "bots_lightning.beliefs.BetaBelief; did you mean forgetting?",
    ),
    "replay --data picture.jsonl --selectors flat_overlay.yaml": (
        2,
        "flat_overlay.yaml, line 2: data.init_args: the layout of configs has changed. Convert the file: ",
    ),
    "convert-config": (2, "old and new must be given. See bots-lightning convert-config --help."),
    "convert-config gone.yaml new.yaml": (2, "gone.yaml is not a file (looked in HERE). Name a config."),
    "convert-config tab.yaml new.yaml": (2, "tab.yaml, line 2, column 1: not YAML: found character"),
    "convert-config base.yaml new.yaml": (2, "base.yaml has no model.init_args and no data.init_args: it needs no"),
    "convert-config flat.yaml base.yaml": (2, "base.yaml exists already, and was left as it is. Name another file."),
    "convert-config flat.yaml base.yaml/new.yaml": (2, "base.yaml is a file; expected a folder"),
}
FORGETS = """\
data:
  selector:
    class_path: bots_lightning.selection.ThompsonSelector
    init_args:
      belief:
        {class_path: bots_lightning.beliefs.BetaBelief, init_args: {forgeting: 0.1}}
"""
LOGS = ("Seed set", "GPU available", "TPU available", "Loading weights")


@pytest.fixture
def here(tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config of a tiny run, and spoilt ones."""
    base = {
        "model": {
            "policy": {"pretrained": checkpoint, "lora": {"r": 2}},
            "scorer": {"reward_funcs": ["bots_lightning.rewards.exact_match"]},
            "sampler": {"num_generations": 2, "max_prompt_length": 64, "max_completion_length": 4},
            "algorithm": {"class_path": "bots_lightning.algorithms.GRPO"},
        },
        "data": {
            "source": {"class_path": "bots_lightning.tasks.ProceduralTasks", "init_args": {"num_tasks": 4}},
            "selector": {"class_path": "bots_lightning.selection.UniformSelector"},
            "batch_size": 2,
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    for name, content in {**FILES, "forgets.yaml": FORGETS}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(DEBUG, raising=False)
    monkeypatch.setattr("lightning.pytorch.accelerators.cuda.CUDAAccelerator.is_available", lambda: False)
    return tmp_path


Ended = Callable[[str], tuple[int, list[str]]]


@pytest.fixture
def ended(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ended:
    """Runs the program with words; its exit code, and the lines on stderr that are no log."""

    def run(words: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(
            sys, "argv", ["bots-lightning", *shlex.split(words.replace("FIT", "fit --config base.yaml"))]
        )
        with pytest.raises(SystemExit) as ended:
            cli.run()
        shown, code = capfd.readouterr().err, ended.value.code
        if isinstance(code, str):  # what Python prints at exit
            shown, code = f"{shown}\n{code}", 1
        lines = [line for line in shown.splitlines() if line.strip() and not line.strip().startswith(LOGS)]
        return int(code or 0), lines

    return run


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(words: str, ended: Ended, here: Path) -> None:
    expected, text = MISTAKES[words]
    code, lines = ended(words)
    print(f"$ bots-lightning {words}\n{code} {lines[-1]}")  # shown by pytest -rP
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert text.replace("HERE", str(here)) in lines[0]
    assert code == expected
    assert not (here / "runs").exists()


def test_debug_shows_where_a_mistake_comes_from(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, kind in ((["--trainer.max_steps", "x"], ArgumentError), (["--name", "../up"], ValueError)):
        monkeypatch.setenv(DEBUG, "")  # restored after the test
        monkeypatch.setattr(sys, "argv", ["bots-lightning", "fit", "--debug", "--config", "base.yaml", *words])
        with pytest.raises(kind):
            cli.run()
        assert "--debug" not in sys.argv  # nor in those of this run's subprocesses, which have the variable


def raised(raise_it: Callable[[], object]) -> BaseException:
    """What a program of the user's, or this package's, raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        raise_it()
    return caught.value


def test_a_failed_operation_in_this_package_is_a_bug_though_its_class_is_that_of_messages() -> None:
    assert line_for(raised(lambda: exact_match(completions=None))) is None  # type: ignore[arg-type]
    assert line_for(raised(lambda: BetaBelief(forgetting=2.0))) == str(raised(lambda: BetaBelief(forgetting=2.0)))


def test_what_the_system_refuses_is_a_line_unless_the_users_own_program_has_asked(here: Path) -> None:
    def told(path: Path) -> str | None:
        return line_for(raised(lambda: _selector_node(path)))

    gone, below = here / "gone.yaml", here / "base.yaml" / "uniform.yaml"
    assert told(gone) == f"{gone}: there is no such file or folder. Correct the path."
    assert told(here) == f"{here}: this is a folder; expected a file."
    assert told(below) == f"{below}: a part of the path is a file where a folder is expected. Correct the path."
    own = raised(lambda: together(Alone(), lambda: gone.read_text()))
    assert isinstance(own.__cause__, FileNotFoundError)
    assert line_for(own) is None


class Alone:
    """Stands for the strategy of one process."""

    def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
        return decision


def test_permission_is_denied_in_a_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "/root/metrics.csv")
    assert line_for(denied) == (
        "/root/metrics.csv: permission denied. Name another place, or change the permissions of this one."
    )
    monkeypatch.setattr("os.access", lambda *_: False)  # the system administrator is denied nothing
    with pytest.raises(ValueError, match=r"may not be written by this user\. Set runs_dir, and name, to another"):
        check_run_folder(here / "runs")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("reasoning_gym.games", "Run: pip install 'bots-lightning[reasoning-gym]'"),
        ("deepspeed", "Run: pip install 'bots-lightning[deepspeed]'"),
        ("sympy", "Run: pip install 'bots-lightning[maths]'"),
        ("matplotlib", "Run: pip install matplotlib"),
        ("math_verify", None),
        ("somebodys", None),
    ],
)
def test_a_missing_module_is_told_with_the_extra_that_brings_it(module: str, command: str | None) -> None:
    assert how_to_install(module) == command
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert line_for(error) == f"the module {module} is not installed. {command or 'Install the package that has it.'}"


def test_a_library_s_own_word_on_a_missing_module_is_passed_on() -> None:
    text = "Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install -U 'wandb>=0.12.10'`"
    assert line_for(ModuleNotFoundError(text)) == text


def test_a_missing_module_of_this_package_is_a_bug() -> None:
    assert line_for(ModuleNotFoundError("No module named 'bots_lightning.gone'", name="bots_lightning.gone")) is None


def test_an_extra_that_is_not_installed_is_told_by_the_program(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it raises ModuleNotFoundError
    code, lines = ended("FIT --data.source bots_lightning.tasks.DatasetTasks --data.source.init_args.path x/y")
    assert (code, len(lines)) == (1, 1)
    assert "pip install 'bots-lightning[datasets]'" in lines[0]


def lost_after(cause: BaseException) -> LostRankError:
    lost = LostRankError("rank 1 (process 7 on node) is gone. To continue: --ckpt_path last")
    lost.__cause__ = cause
    return lost


def test_a_lost_rank_does_not_hide_what_has_failed_here() -> None:
    own = raised(lambda: BetaBelief(forgetting=2.0))
    told = line_for(lost_after(own))
    assert told is not None
    assert told.startswith(str(own))
    assert "rank 1 (process 7 on node) is gone" in told
    assert line_for(lost_after(raised(lambda: {}["gone"]))) is None  # type: ignore[index]
    broken = RuntimeError("[gloo] Connection closed by peer\nmore")
    assert line_for(lost_after(broken)) == (
        "rank 1 (process 7 on node) is gone. To continue: --ckpt_path last (Here: RuntimeError: [gloo] Connection "
        "closed by peer)"
    )


def test_the_first_of_two_errors_is_told_and_a_bug_behind_a_handled_one_is_not_hidden() -> None:
    def twice() -> None:
        try:
            BetaBelief(forgetting=2.0)
        finally:
            _selector_node(Path("gone.yaml"))

    def bug() -> None:
        try:
            BetaBelief(forgetting=2.0)
        except ValueError:
            {}["gone"]  # type: ignore[index]

    assert line_for(raised(twice)) == str(raised(lambda: BetaBelief(forgetting=2.0)))
    assert line_for(raised(bug)) is None


def test_a_wrapper_s_message_is_told_rather_than_what_it_wraps(here: Path) -> None:
    Path("none.yaml").write_text("model: {sampler: {num_generations: x}}")
    told = line_for(raised(lambda: build_module(Path("none.yaml"))))
    assert told is not None
    assert told.startswith("none.yaml: the model cannot be built: none.yaml, line 1: model.sampler.num_generations=x")
