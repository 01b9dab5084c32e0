"""Tasks that a run could not use are all named before it starts, with the file and row that they came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer

from bots_lightning.algorithms import GRPO
from bots_lightning.data import TaskDataModule
from bots_lightning.rewards import ChatReward, CosineLength, Gradable, GradedReward, exact_match
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import FilteredTasks, JsonlTasks, MixedTasks, PromptCharacters, Task
from bots_lightning.training import StepFailedError, pools


class Numbers(GradedReward):
    """Answers must be whole numbers; counts what it is asked."""

    asked = 0

    def __call__(self, prompts: Any, completions: Any, answer: Any, **columns: Any) -> list[float | None]:
        return [float(given == right) for given, right in zip(completions, answer, strict=True)]

    def fault(self, task: Task) -> str | None:
        Numbers.asked += 1
        return None if task.answer.isdigit() else f"the answer {task.answer!r} is no number"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., JsonlTasks]:
    """`write(name, **answers)`: a file of one task for each id, behind an empty line."""

    def write(name: str, **answers: str) -> JsonlTasks:
        rows = [{"id": name, "prompt": f"{name}?", "answer": answer} for name, answer in answers.items()]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n" + "\n".join(json.dumps(row) for row in rows))
        return JsonlTasks(path)

    return write


def run(build: Any, trainer: Trainer, how: str, train: Any, heldout: Any = None, **options: Any) -> None:
    module = build(GRPO, **{"reward_funcs": [Numbers()]} | options)
    evaluation = {} if heldout is None else {"heldout": heldout}
    getattr(trainer, how)(module, TaskDataModule(train, UniformSelector(), 2, evaluation))


def test_every_faulty_answer_is_counted_and_the_first_are_shown_with_file_and_row(
    build: Any, new_trainer: Any, write: Any
) -> None:
    train = write("train", a="1", b="x", c="y", d="2", e="z", f="u")
    with pytest.raises(ValueError, match=r"^6 of 8 tasks cannot be graded, the first 5: ") as caught:
        run(build, new_trainer(), "fit", train, write("held", g="v", h="w"))
    message, at = str(caught.value), str(train.path)
    assert f"task 'b' ({at}, line 3): the answer 'x' is no number; task 'c' ({at}, line 4)" in message
    assert "held.jsonl, line 2): the answer 'v' is no number. Correct them, or leave them out" in message
    assert "'w'" not in message


@pytest.mark.parametrize(("how", "count"), [("validate", 1), ("test", 1), ("predict", 2)])
def test_the_pools_that_are_rolled_out_are_checked(
    build: Any, new_trainer: Any, write: Any, how: str, count: int
) -> None:
    with pytest.raises(ValueError, match=rf"^{count} of {3 - (count == 1)} tasks cannot be graded"):
        run(build, new_trainer(), how, write("train", a="1", b="x", c="y"), write("held", g="v", h="2"))


def test_a_grader_inside_of_another_reward_is_asked(build: Any, new_trainer: Any, write: Any) -> None:
    inside = CosineLength(Numbers(), max_characters=10)
    with pytest.raises(ValueError, match="1 of 2 tasks cannot be graded"):
        run(build, new_trainer(), "fit", write("train", a="1", b="x"), reward_funcs=[exact_match, inside])


def test_a_reward_function_that_needs_a_column_which_is_not_there_is_refused(
    build: Any, new_trainer: Any, write: Any
) -> None:
    def levelled(completions: list[str], level: list[int], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    for function in (levelled, ChatReward(levelled)):
        with pytest.raises(
            ValueError, match="reward function levelled needs level; it can be given answer, completion"
        ):
            run(build, new_trainer(), "fit", write("train", a="1", b="2"), reward_funcs=[function])


def test_sound_pools_run_and_every_task_is_asked_about_once(build: Any, new_trainer: Any, write: Any) -> None:
    before = Numbers.asked
    trainer = new_trainer(limit_train_batches=1)
    run(build, trainer, "fit", write("train", a="1", b="2"), write("held", c="3"))
    assert trainer.lightning_module.progress.iterations == 1
    assert Numbers.asked == before + 3


def test_faulty_tasks_can_be_left_out(
    build: Any, new_trainer: Any, write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    train = write("train", a="1", b="x", c="2", d="y")
    sound = FilteredTasks(train, [Gradable(Numbers())])
    with caplog.at_level("INFO"):
        assert sound.load().ids == ["a", "c"]
    assert f"2 tasks cannot be graded and are left out: task 'b' ({train.path}, line 3): the answer 'x'" in caplog.text
    assert "Gradable(Numbers) removed 2; 2 remain" in caplog.text
    run(build, new_trainer(limit_train_batches=1), "fit", sound)


def test_every_prompt_that_is_too_long_is_named_with_file_and_row(build: Any, new_trainer: Any, write: Any) -> None:
    train = write("train", a="1", long="2", longer="3")
    with pytest.raises(ValueError, match=r"^2 of 3 tasks cannot be rolled out: ") as caught:
        run(build, new_trainer(), "fit", MixedTasks({"all": train}), max_prompt_length=4)
    assert f"task 'long' ({train.path}, line 3): the prompt has 5 tokens, max_prompt_length is 4; task" in str(
        caught.value
    )
    assert str(caught.value).endswith("or set truncate_prompts=true to keep the last tokens of long prompts.")
    for how in ("validate", "test", "predict"):
        with pytest.raises(ValueError, match="cannot be rolled out"):
            run(build, new_trainer(), how, train, train, max_prompt_length=4)
    run(build, new_trainer(limit_train_batches=1), "fit", FilteredTasks(train, [PromptCharacters(6)]))


def test_beyond_so_many_prompts_that_may_be_too_long_those_with_the_most_characters_are_looked_at(
    build: Any, new_trainer: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "LONGEST", 2)
    train = write("train", a="1", four="2", longest="3", tiny="4", longer="5")
    options = {"max_prompt_length": 2, "truncate_prompts": False}
    with pytest.raises(ValueError, match=r"^2 of 5 tasks cannot be rolled out: ") as caught:
        run(build, new_trainer(), "fit", train, **options)
    assert "task 'longest'" in str(caught.value)
    assert "task 'longer'" in str(caught.value)
    monkeypatch.setattr(pools, "LONGEST", 5)
    with pytest.raises(ValueError, match=r"^4 of 5 tasks cannot be rolled out: "):
        run(build, new_trainer(), "fit", train, **options)


def test_where_many_prompts_are_too_long_the_check_ends_early_and_says_so(
    build: Any, new_trainer: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "ENOUGH", 3)
    monkeypatch.setattr("bots_lightning.tasks.lengths.BATCH", 2)
    train = write("train", **dict.fromkeys(["aaa", "b", "ccc", "ddd", "eee", "fff"], "1"))
    with pytest.raises(ValueError, match=r"^at least 3 of 6 tasks cannot be rolled out: .*'aaa'.*'ccc'.*'ddd'"):
        run(build, new_trainer(), "fit", train, max_prompt_length=3)


def test_a_prompt_that_is_not_checked_at_the_start_is_an_error_when_it_is_drawn(
    build: Any, new_trainer: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "LONGEST", 0)
    with pytest.raises(
        StepFailedError, match=r"the prompt of task 'long' has 5 tokens, max_prompt_length is 4\. Raise"
    ):
        run(build, new_trainer(), "fit", write("train", long="1", tall="2"), max_prompt_length=4)


def test_a_chat_that_the_template_refuses_is_named(build: Any, new_trainer: Any, tmp_path: Path) -> None:
    user, system = {"role": "user", "content": "1+2="}, {"role": "system", "content": "brief"}
    rows = [{"id": name, "prompt": chat, "answer": "3"} for name, chat in {"a": [user], "b": [system, user]}.items()]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    module = build(GRPO, reward_funcs=[Numbers()])
    module.configure_model()
    refuse = "{% if m['role'] == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}"
    template = f"{{% for m in messages %}}{refuse}{{{{ m['content'] }}}}{{% endfor %}}"
    module.sampler.encoder.tokenizer.chat_template = template
    with pytest.raises(ValueError, match=r"^1 of 2 tasks cannot be rolled out: ") as caught:
        new_trainer().fit(module, TaskDataModule(JsonlTasks(path), UniformSelector(), 2))
    refused = "the tokenizer's chat template refuses the prompt (no system prompt)"
    assert f"task 'b' ({path}, line 2): {refused}" in str(caught.value)
