"""Pools that are wrong in some way: every error names file, row and remedy, and no row is dropped silently."""

# Shapes: N tasks.

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bots_lightning.tasks import JsonlTasks, ParquetTasks, task_id

NAN, INFINITE = float("nan"), float("inf")
GOOD = {"prompt": "1+1=", "answer": "2"}
USER = {"role": "user", "content": "1+1="}
GURU = {"data_source": "math", "prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "2"}}
GSM8K = {"question": "1+1=", "answer": "1+1 is 2.\n#### 2"}
POLARIS = {"problem": "1+1=", "answer": "2", "difficulty": "3/8"}
RATE = {"references": ["rate"]}


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def chat(*messages: Any) -> bytes:
    """A valid chat, then this one."""
    return lines({"prompt": [USER], "answer": "2"}, {"prompt": list(messages), "answer": "3"})


def second(**values: Any) -> bytes:
    """A valid task, then one with these values."""
    return lines(GOOD, {"prompt": "2+2=", "answer": "4"} | values)


def counts(difficulty: str) -> bytes:
    """Two tasks of Polaris, the second of this difficulty."""
    return lines(POLARIS, POLARIS | {"problem": "2+2=", "difficulty": difficulty})


# Remedies, as the error messages name them.
PROMPT = "Give the task a prompt or remove it."
ANOTHER_PROMPT = "Rewrite it, or name another `prompt_column`."
FILL_IN = "Fill it in or remove the task."
FILL_IN_TEXT = "Fill it in (with any text, if no reward uses it) or remove the task."
FINITE = "Write a finite number, or null if it is unknown."
ONE_KEY = "Keep one of them."
NUL = "Remove it."
ROLES = "use one of system, user, assistant, tool."
MESSAGE = "Give every message a role and a content."
AS_MESSAGE = 'Write it as {"role": "user", "content": …}.'
UNIQUE = (
    "remove the repeated tasks (for a file: drop_duplicates=true), or give each a different id. (Without an id column, "
    "a task's id is the hash of its prompt and answer.)"
)
DIVIDE = "Divide counts by their number of attempts and percentages by 100."
NUMBER = "Write it as a number, or remove the column from the source's `references`."
COUNT = "Correct it, or set the source's `references`."
LINE = "Write one complete JSON object per line."
ADD = "Add tasks, or correct the source's `path`."
AGAIN = "Write or download it again."

JSONL: dict[str, tuple[bytes, dict[str, Any], str, str]] = {
    # what is wrong: (the file, options, what the error says that it saw where, what it says to do)
    "no prompt column": (
        lines({"text": "p", "answer": "2"}),
        {},
        r"no column 'prompt'; it has \['text', 'answer'\]",
        "Set `prompt_column` to a column of the file.",
    ),
    "no answer column": (
        lines({"prompt": "p"}),
        {},
        r"no column 'answer'; it has \['prompt'\]",
        "Set `answer_column` to a column of the file.",
    ),
    "no such reference": (
        lines(GOOD),
        {"references": ["rate"]},
        r"no column 'rate'; it has",
        "Set `references` to a column of the file.",
    ),
    "NaN prompt": (second(prompt=NAN), {}, r"line 2: the prompt is empty \(nan\)", PROMPT),
    "null prompt": (second(prompt=None), {}, r"line 2: the prompt is empty \(None\)", PROMPT),
    "absent prompt": (lines(GOOD, {"answer": "2"}), {}, r"line 2: the prompt is empty \(None\)", PROMPT),
    "empty prompt": (second(prompt=""), {}, r"line 2: the prompt is empty \(''\)", PROMPT),
    "white prompt": (second(prompt=" \n\u2003"), {}, r"line 2: the prompt is empty \(' \\n\\u2003'\)", PROMPT),
    "number as prompt": (second(prompt=5), {}, "line 2: the prompt is a number; expected a string", ANOTHER_PROMPT),
    "chat as object": (second(prompt=USER), {}, "line 2: the prompt is an object; expected a str", ANOTHER_PROMPT),
    "two kinds of prompt": (
        second(prompt=[USER]),
        {},
        "line 2: the prompt is a list, but that of .*line 1 is a string; expected one kind",
        "Write all prompts as strings, or all as lists of {role, content} messages.",
    ),
    "unpaired surrogate": (
        second(prompt="p\ud800"),
        {},
        "line 2: column 'prompt' holds an unpaired surrogate",
        "Remove it, or write both characters of the surrogate pair.",
    ),
    "duplicate id": (
        lines(GOOD | {"id": 1}, GOOD | {"id": 2}, GOOD | {"id": "1"}),
        {},
        r"1 task ids appear more than once: '1' \(.*tasks\.jsonl, line 1; .*tasks\.jsonl, line 3\)",
        UNIQUE,
    ),
    "duplicate task": (lines(GOOD, GOOD), {}, rf"'{task_id('1+1=', '2')}' \(.*line 1; .*line 2\)", UNIQUE),
    "null id": (lines(GOOD | {"id": 1}, GOOD | {"id": None}), {}, "line 2: the id is null", FILL_IN),
    "list as id": (
        lines(GOOD | {"id": ["a"]}),
        {},
        r"line 1: the id is a list \['a'\]; expected a string or a number",
        "Rewrite it, or name another `id_column`.",
    ),
    "null answer": (second(answer=None), {}, "line 2: the answer is null", FILL_IN),
    "NaN answer": (second(answer=NAN), {}, "line 2: the answer is null", FILL_IN),
    "absent answer": (lines(GOOD, {"prompt": "p"}), {}, "line 2: the answer is null", FILL_IN),
    "boolean answer": (
        second(answer=True),
        {},
        "line 2: the answer is a boolean True; expected a string or a number",
        "Rewrite it, or name another `answer_column`.",
    ),
    "one answer a list": (
        second(answer=["2"]),
        {},
        r"line 2: the answer is a list \['2'\]; expected a string or a number",
        "Rewrite it, or name another `answer_column`.",
    ),
    "one answer no list": (
        lines({"prompt": "p", "answer": ["2"]}, GOOD),
        {},
        "line 2: the answer is a string, but that of .*line 1 is a list or an object",
        "Write all answers in the same way, for example as JSON text.",
    ),
    "truth absent": (
        lines(GURU, GURU | {"reward_model": {"style": "rule"}}),
        {},
        "line 2: the answer is null",
        FILL_IN,
    ),
    "truth absent everywhere": (
        lines(GURU | {"reward_model": {"style": "rule"}}),
        {},
        r"no column 'reward_model.ground_truth'; .*'reward_model' is \{'style': 'rule'\}\)",
        "Set `answer_column` to a column of the file.",
    ),
    "a long struct": (
        lines(GURU | {"reward_model": {"style": "rule" * 10_000}}),
        {},
        r"'reward_model' is \{'style': '[rule]+\.\.\.[rule]+'\}\)",
        "Set `answer_column` to a column of the file.",
    ),
    "unknown role": (chat({"role": "bot", "content": "x"}), {}, "line 2: message 1 of the .*role='bot'", ROLES),
    "null role": (chat({"role": None, "content": "x"}), {}, "line 2: message 1 of the .*role=None; ex", MESSAGE),
    "absent role": (chat(USER, {"content": "x"}), {}, "line 2: message 2 of the prompt has role=None; ex", MESSAGE),
    "null content": (chat(USER, {"role": "user", "content": None}), {}, "line 2: message 2 .*content=None", MESSAGE),
    "absent content": (chat({"role": "user"}), {}, "line 2: message 1 of the prompt has content=None", MESSAGE),
    "number as content": (chat({"role": "user", "content": 5}), {}, "line 2: message 1 .* has content=5", MESSAGE),
    "content as a list": (
        chat({"role": "user", "content": [{"type": "text"}]}),
        {},
        r"line 2: message 1 of the prompt has content=\[\{'type': 'text'\}\]; expected a string",
        MESSAGE,
    ),
    "message as text": (chat("hello"), {}, "line 2: message 1 of the prompt is a string; expected an", AS_MESSAGE),
    "no messages": (chat(), {}, r"line 2: the prompt is empty \(\[\]\)", PROMPT),
    "white messages": (
        chat({"role": "user", "content": "\t"}),
        {},
        "line 2: the prompt is empty: no message has content",
        PROMPT,
    ),
    "assistant last": (
        chat(USER, {"role": "assistant", "content": "2"}),
        {},
        "line 2: the last message is the assistant's, so that there is nothing to answer",
        "End the prompt with a user's.",
    ),
    "rate above 1": (second(rate=3), RATE, r"line 2: rate=3; expected a pass rate in \[0, 1\]", DIVIDE),
    "rate below 0": (second(rate=-0.1), RATE, r"line 2: rate=-0\.1; expected a pass rate", DIVIDE),
    "rate found, above 1": (second(reference_pass_rate=62.5), {}, r"line 2: reference_pass_rate=62\.5", DIVIDE),
    "rate as text": (second(rate="1/2"), RATE, "line 2: rate is a string '1/2'; expected a number", NUMBER),
    "boolean rate": (second(rate=True), RATE, "line 2: rate is a boolean True; expected a number", NUMBER),
    "9 of 8": (counts("9/8"), {}, "line 2: difficulty='9/8'; expected passed/attempts", COUNT),
    "none of 0": (counts("0/0"), {}, "line 2: difficulty='0/0'; expected passed/attempts", COUNT),
    "word as count": (counts("hard"), {}, "line 2: difficulty='hard'; expected passed/attempts", COUNT),
    "empty answer": (second(answer=""), {}, "line 2: the answer is empty", FILL_IN_TEXT),
    "white answer": (second(answer=" \u3000\n"), {}, "line 2: the answer is empty", FILL_IN_TEXT),
    "empty answer, empty tests": (second(answer="", test_list=[]), {}, "line 2: the answer is empty", FILL_IN_TEXT),
    "nothing behind the mark": (
        lines(GSM8K, GSM8K | {"answer": "1+1=2\n#### "}),
        {},
        r"line 2: nothing follows the last '####' of the answer '1\+1=2",
        FILL_IN,
    ),
    "nothing after the last mark": (lines(GSM8K | {"answer": "#### 2 ####"}), {}, "line 1: nothing follows", FILL_IN),
    "infinite answer": (second(answer=INFINITE), {}, "line 2: Infinity is not a JSON number", FINITE),
    "infinite level": (second(level=[{"x": -INFINITE}]), {}, "line 2: -Infinity is not a JSON number", FINITE),
    "answer beyond floats": (
        b'{"prompt": "p", "answer": 1e999}',
        {},
        "line 1: the answer is inf; expected a finite number or text",
        "Correct it.",
    ),
    "NaN in a list": (
        lines({"prompt": "p", "answer": [1]}, {"prompt": "q", "answer": [NAN]}),
        {},
        r"line 2: the answer \[nan\] holds NaN or infinity, which JSON cannot represent",
        "Write it as text.",
    ),
    "a key twice": (
        lines(GOOD) + b'{"prompt": "p", "answer": "2", "answer": "3"}',
        {},
        "line 2: an object has the key 'answer' more than once",
        ONE_KEY,
    ),
    "a key twice inside": (
        b'{"prompt": "p", "answer": "2", "info": [{"a": {"b": 1, "c": 2, "b": 1}}]}',
        {},
        "line 1: an object has the key 'b' more than once",
        ONE_KEY,
    ),
    "NUL behind a group": (
        lines(GOOD | {"group": "a"}, {"prompt": "p", "answer": "2", "group": "a\0"}),
        {},
        r"line 2: the group 'a\\x00' holds a NUL character",
        NUL,
    ),
    "NUL behind an id": (
        lines(GOOD | {"id": "a"}, GOOD | {"id": "a\0"}),
        {},
        r"line 2: the id 'a\\x00' holds a NUL character",
        NUL,
    ),
    "NUL behind an id, duplicates dropped": (
        lines(GOOD | {"id": "a"}, GOOD | {"id": "a\0"}),
        {"drop_duplicates": True},
        r"line 2: the id 'a\\x00' holds a NUL character",
        NUL,
    ),
    "a chat printed by Python": (
        lines(GOOD | {"prompt": str([USER])}),
        {},
        r"line 1: the prompt is a chat printed by Python, .*; expected JSON",
        "Write it with json.dumps.",
    ),
    "a chat as JSON, and a text": (
        lines(GOOD | {"prompt": json.dumps([USER])}, GOOD),
        {},
        "line 2: the prompt is the text '1.1=', but that of .*line 1 is a chat as JSON text",
        "Write all prompts as strings, or all as chats.",
    ),
    "a broken chat as JSON": (
        lines(GOOD | {"prompt": json.dumps([USER])}, GOOD | {"prompt": json.dumps([USER])[:-1]}),
        {},
        "line 2: the prompt is the text .*, but that of .*line 1 is a chat as JSON text",
        "Write all prompts as strings, or all as chats.",
    ),
    "a faulty chat as JSON": (
        lines(GOOD | {"prompt": json.dumps([USER])}, GOOD | {"prompt": json.dumps([USER | {"role": "bot"}])}),
        {},
        "line 2: message 1 of the prompt has role='bot'",
        ROLES,
    ),
    "a chat as JSON with a key twice": (
        lines(GOOD | {"prompt": '[{"role": "user", "content": "x", "content": "y"}]'}),
        {},
        "line 1: an object has the key 'content' more than once",
        ONE_KEY,
    ),
    "a truth as JSON that is none": (
        lines(GURU | {"reward_model": json.dumps(GURU["reward_model"])}, GURU | {"reward_model": "2"}),
        {},
        "line 2: reward_model is 2; expected an object as JSON text",
        "Correct it.",
    ),
    "mixed types": (
        lines(GOOD | {"level": 1}, {"prompt": "p", "answer": "2", "level": "hard"}),
        {},
        "line 2: column 'level' holds 'hard', which does not fit the rows before it",
        "Write one type of value in all rows, e.g. strings.",
    ),
    "cut line": (lines(GOOD) + b'\n{"prompt": "p", "ans', {}, r"line 3: not JSON \(Unterminated string", LINE),
    "indented array": (json.dumps([GOOD], indent=1).encode(), {}, "line 1: not JSON", LINE),
    "endless number": (b'{"prompt": "p", "answer": ' + b"9" * 5000 + b"}", {}, r"line 1: not JSON \(Exceeds", LINE),
    "array for lines": (
        json.dumps([GOOD]).encode(),
        {},
        "line 1: a list, not an object",
        'Write each task as {"prompt": …, "answer": …} on a line of its own.',
    ),
    "null for a line": (
        lines(GOOD, None),
        {},
        "line 2: a NoneType, not an object",
        'Write each task as {"prompt": …, "answer": …} on a line of its own.',
    ),
    "Latin-1": (lines(GOOD) + b'{"prompt": "\xe9"}', {}, "line 2: not UTF-8", "Save the file as UTF-8."),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), {}, "line 1: not UTF-8", "Save the file as UTF-8."),
    "empty": (b"", {}, "holds no tasks; expected one per line", ADD),
    "white": (b"\n \n", {}, "holds no tasks; expected one per line", ADD),
    "Parquet inside": (b"PAR1\x15\x04\n", {}, "is a Parquet file, not JSON lines", "Use ParquetTasks."),
}


def assert_refused(source: JsonlTasks | ParquetTasks, seen: str, remedy: str) -> None:
    """The error names the file and what is wrong there, and ends with what to do."""
    with pytest.raises(ValueError, match=f"(?s){seen}") as refused:
        source.load()
    assert str(source.path) in str(refused.value)
    assert str(refused.value).endswith(f" {remedy}")


@pytest.mark.parametrize("fault", JSONL)
def test_a_malformed_jsonl_file_is_refused(fault: str, tmp_path: Path) -> None:
    content, options, seen, remedy = JSONL[fault]
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(content)
    assert_refused(JsonlTasks(path, **options), seen, remedy)


def table(**columns: Any) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path)


def cut_off(path: Path) -> None:
    table(prompt=["1+1="] * 1000, answer=[str(i) for i in range(1000)])(path)
    path.write_bytes(path.read_bytes()[:-200])


def scribbled_on(path: Path) -> None:
    table(prompt=[f"{i}+1=" for i in range(1000)], answer=["2"] * 1000)(path)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)


def not_utf8() -> pa.Array:
    """Two texts; the second is Latin-1."""
    return pa.array([b"caf\xc3\xa9", b"caf\xe9"], pa.binary()).view(pa.string())


def not_utf8_inside() -> pa.Array:
    """Two lists of objects, with a Latin-1 text in the second."""
    objects = pa.StructArray.from_arrays([not_utf8()], names=["note"])
    return pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), objects)


STRUCT = pa.struct([("role", pa.string()), ("content", pa.string())])
TWO = {"prompt": ["1+1=", "2+2="], "answer": ["2", "4"]}


def chats(*prompts: Any) -> Callable[[Path], None]:
    return table(prompt=pa.array(prompts, pa.list_(STRUCT)), answer=[str(i) for i in range(len(prompts))])


PARQUET: dict[str, tuple[Callable[[Path], None], dict[str, Any], str, str]] = {
    # as above
    "no prompt column": (
        table(answer=["2"]),
        {},
        r"no column 'prompt'; it has \['answer'\]",
        "Set `prompt_column` to a column of the file.",
    ),
    "NaN prompts": (table(**TWO | {"prompt": [NAN, NAN]}), {}, r"row 0: the prompt is empty \(nan\)", PROMPT),
    "null prompt": (table(**TWO | {"prompt": ["p", None]}), {}, r"row 1: the prompt is empty \(None\)", PROMPT),
    "white prompt": (table(**TWO | {"prompt": ["p", "\u3000"]}), {}, "row 1: the prompt is empty", PROMPT),
    "bytes as prompt": (table(prompt=[b"p"], answer=["2"]), {}, "row 0: the prompt is of type bytes", ANOTHER_PROMPT),
    "null answer": (table(**TWO | {"answer": ["2", None]}), {}, "row 1: the answer is null", FILL_IN),
    "NaN answer": (table(**TWO | {"answer": [2.0, NAN]}), {}, "row 1: the answer is null", FILL_IN),
    "duplicate id": (table(id=["a", "a"], **TWO), {}, r"'a' \(.*row 0; .*row 1\)", UNIQUE),
    "duplicate number": (table(id=[7, 7], **TWO), {}, r"'7' \(.*row 0; .*row 1\)", UNIQUE),
    "null id": (table(id=["a", None], **TWO), {}, "row 1: the id is null", FILL_IN),
    "null chat": (chats([USER], None), {}, r"row 1: the prompt is empty \(None\)", PROMPT),
    "null message": (chats([USER], [None]), {}, "row 1: message 1 of the prompt is of type NoneType", AS_MESSAGE),
    "unknown role": (
        chats([USER], [{"role": "human", "content": "x"}]),
        {},
        "row 1: message 1 of the prompt has role='human'",
        ROLES,
    ),
    "messages without role": (
        table(prompt=[[{"content": "x"}]], answer=["2"]),
        {},
        "row 0: message 1 of the prompt has role=None; expected a string",
        MESSAGE,
    ),
    "list of strings": (
        table(prompt=[["x"]], answer=["2"]),
        {},
        "row 0: message 1 of the prompt is a string; expected an object",
        AS_MESSAGE,
    ),
    "struct without truth": (
        table(prompt=[[USER]], reward_model=[{"style": "rule"}]),
        {},
        "no column 'reward_model.ground_truth'",
        "Set `answer_column` to a column of the file.",
    ),
    "rate below 0": (table(rate=[0.5, -0.5], **TWO), RATE, r"row 1: rate=-0\.5; expected a pass rate", DIVIDE),
    "infinite rate": (table(rate=[0.5, float("inf")], **TWO), RATE, "row 1: rate=inf; expected a pass rate", DIVIDE),
    "boolean rate": (table(rate=[True, False], **TWO), RATE, "row 0: rate is a boolean True; expected a num", NUMBER),
    "no rows": (table(prompt=pa.array([], "str"), answer=pa.array([], "str")), {}, "no tasks; .*per row", ADD),
    "Latin-1 prompt": (
        table(**TWO | {"prompt": not_utf8()}),
        {},
        "row 1: column 'prompt' holds text that is not UTF-8",
        "Write it as UTF-8.",
    ),
    "large Latin-1 answer": (
        table(**TWO | {"answer": not_utf8().cast(pa.binary()).cast(pa.large_binary()).view(pa.large_string())}),
        {},
        "row 1: column 'answer' holds text that is not UTF-8",
        "Write it as UTF-8.",
    ),
    "Latin-1 inside": (
        table(note=not_utf8_inside(), **TWO),
        {},
        "row 1: column 'note' holds text that is not UTF-8",
        "Write it as UTF-8.",
    ),
    "Latin-1 category": (
        table(note=pa.DictionaryArray.from_arrays([0, 1], not_utf8()), **TWO),
        {},
        "tasks.parquet holds text that is not UTF-8",
        "Write it as UTF-8.",
    ),
    "empty answer": (table(**TWO | {"answer": ["2", ""]}), {}, "row 1: the answer is empty", FILL_IN_TEXT),
    "infinite answer": (
        table(**TWO | {"answer": [2.0, -INFINITE]}),
        {},
        "row 1: the answer is -inf",
        "Correct it.",
    ),
    "NUL behind a group": (
        table(group=["a", "a\0"], **TWO),
        {},
        r"row 1: the group 'a\\x00' holds a NUL character",
        NUL,
    ),
    "a chat as JSON, and a text": (
        table(**TWO | {"prompt": ["1+1=", json.dumps([USER])]}),
        {},
        "row 0: the prompt is the text '1.1=', but that of .*row 1 is a chat as JSON text",
        "Write all prompts as strings, or all as chats.",
    ),
    "JSON inside": (
        lambda path: path.write_bytes(lines(GOOD)) and None,
        {},
        "is not a Parquet file",
        "Use JsonlTasks for JSON lines.",
    ),
    "empty file": (
        lambda path: path.write_bytes(b"") and None,
        {},
        "is not a Parquet file",
        "Use JsonlTasks for JSON lines.",
    ),
    "truncated": (cut_off, {}, "is truncated or damaged", AGAIN),
    "scribbled on": (scribbled_on, {}, "is truncated or damaged", AGAIN),
}


@pytest.mark.parametrize("fault", PARQUET)
def test_a_malformed_parquet_file_is_refused(fault: str, tmp_path: Path) -> None:
    write, options, seen, remedy = PARQUET[fault]
    path = tmp_path / "tasks.parquet"
    write(path)
    assert_refused(ParquetTasks(path, **options), seen, remedy)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.jsonl", r"nowhere\.jsonl is not a file \(looked in .*Correct the source's `path`"),
        ("*.json", r"\*\.json matches no file .*Correct the source's `path`"),
        ("folder", r"folder has no \*\.jsonl\. Correct the source's `path`"),
        ("fold*", "matches no file"),  # a folder is no file
    ],
)
def test_a_path_without_files_is_refused(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep.jsonl").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=message):
        JsonlTasks(tmp_path / path).load()


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    arrays = [pa.array([name]) for name in ("1+1=", "2", "x", "y")]
    pq.write_table(pa.table(arrays, names=["prompt", "answer", "note", "note"]), tmp_path / "tasks.parquet")
    with pytest.raises(ValueError, match=r"tasks\.parquet has several columns named \['note'\].*Rename or drop"):
        ParquetTasks(tmp_path / "tasks.parquet").load()


def test_a_column_that_would_take_another_s_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    for order in (("answer", "original_answer"), ("original_answer", "answer")):
        path.write_bytes(lines({"prompt": "p", "final": "2"} | dict.fromkeys(order, "x")))
        with pytest.raises(ValueError, match=r"line 1: column 'answer' would be kept as 'original_answer'.*Rename"):
            JsonlTasks(path, answer_column="final").load()


def test_files_of_different_types_are_refused(tmp_path: Path) -> None:
    """Also if the first file lacks the column in which two others differ."""
    table(**TWO)(tmp_path / "a.parquet")
    table(level=[1, 2], **TWO)(tmp_path / "b.parquet")
    table(level=["hard", "easy"], **TWO)(tmp_path / "c.parquet")
    seen = r"the columns of .*c\.parquet do not fit those of .*a\.parquet .*level"
    assert_refused(ParquetTasks(tmp_path), seen, "Give a column one type everywhere, or rename it.")
