"""Plain data travels unchanged, changes of arguments travel back, and nonsense is refused."""

from __future__ import annotations

import json
import os
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.rewards.code.inside.peer import Lost, Peer, exception_class, rebuild
from bots_lightning.rewards.code.inside.wire import MAX_MESSAGE, Channel, MalformedError, decode, encode


def refuse(*_: Any) -> Any:
    raise MalformedError


def travel(value: Any) -> Any:
    message = json.loads(json.dumps(encode([value], refuse, [])))
    return decode(message, refuse, [])[0]


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False) | st.decimals(allow_nan=False) | st.fractions()
)  # fmt: skip
keys = st.recursive(scalars, lambda part: st.tuples(part, part) | st.frozensets(part, max_size=3), max_leaves=4)
data = st.recursive(
    keys,
    lambda part: st.lists(part, max_size=3) | st.tuples(part, part) | st.dictionaries(keys, part, max_size=3)
    | st.sets(keys, max_size=3),
)  # fmt: skip


@given(data)
def test_plain_data_travels_unchanged(value: Any) -> None:
    assert repr(travel(value)) == repr(value) or travel(value) == value
    assert type(travel(value)) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        True, 1, 1.0, -0.0, float("inf"), 2**63, -(2**63), 10**4000, "\ud800", "\0", b"\xff", 1j, range(1, 9, 2),
        slice(None, 2), Decimal("1.10"), Fraction(1, 3), deque([1, 2]), Counter("aab"), OrderedDict(b=1, a=2), (), {()},
        {(1, (2, frozenset({3}))): [4]},
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_types_and_signs_are_kept(value: Any) -> None:
    arrived = travel(value)
    assert (type(arrived), repr(arrived)[:100], arrived == value) == (type(value), repr(value)[:100], True)


def test_shared_cyclic_and_deep_objects_stay_what_they_are() -> None:
    shared: list[Any] = [1]
    shared.append(shared)
    first, second = travel([shared, shared])
    assert first is second
    assert first[1] is first
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    arrived, depth = travel(deep), 0
    while arrived:
        (arrived,) = arrived
        depth += 1
    assert depth == 10_000
    counts = travel(defaultdict(int, a=1))
    assert counts == {"a": 1}


def test_an_answer_changes_what_the_question_passed() -> None:
    numbers, table, both = [3, 1], {"a": {1}}, None
    both = (numbers, table)
    here: list[Any] = []
    question = encode([both], refuse, here)
    there: list[Any] = []
    ((their_numbers, their_table),) = decode(question, refuse, there)
    their_numbers.sort()
    their_table["b"] = their_numbers
    their_table["a"].add(2)
    answer = encode([their_numbers], refuse, there)
    (result,) = decode(answer, refuse, here)
    assert numbers == [1, 3]
    assert result is numbers
    assert table == {"a": {1, 2}, "b": [1, 3]}
    assert table["b"] is numbers


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"table": [], "roots": [[0]]},
        {"table": [["list", [[5]]]], "roots": [[0]]},
        {"table": [["list", 3]], "roots": [[0]]},
        {"table": [["function", "os.system"]], "roots": [[0]]},
        {"table": [["tuple", [[0]]]], "roots": [[0]]},
        {"table": [["set", [[1]]], ["list", []]], "roots": [[0]]},
        {"table": [["dict", [[[1], 2]]], ["list", []]], "roots": [[0]]},
        {"table": [["int", "os"]], "roots": [[0]]},
        {"table": [["Decimal", "x"]], "roots": [[0]]},
        {"table": [["Fraction", "1/0"]], "roots": [[0]]},
        {"table": [["bytes", "zz"]], "roots": [[0]]},
        {"table": [[[], []]], "roots": [[0]]},
        {"table": [[]], "roots": [[0]]},
        {"table": 3, "roots": []},
        {"table": [], "roots": [["a", "b"]]},
    ],
    ids=str,
)
def test_nonsense_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        decode(message, refuse, [])


def test_an_answer_cannot_turn_one_kind_of_object_into_another() -> None:
    numbers = [1]
    here: list[Any] = []
    encode([numbers], refuse, here)
    with pytest.raises(MalformedError):
        decode({"table": [["dict", [[1, 2]]]], "roots": [None]}, refuse, here)
    assert numbers == [1]


def test_a_channel_carries_messages_and_refuses_lengths_beyond_its_bound() -> None:
    reader, writer = os.pipe()
    channel = Channel(reader, writer)
    channel.send({"a": [1, "é"]})
    assert channel.receive() == {"a": [1, "é"]}
    for body, error in ((b"[1]", "expected an object"), (b"{", "Expecting"), (b"[" * 50_000, "recursion")):
        os.write(writer, len(body).to_bytes(8, "big") + body)
        with pytest.raises(MalformedError, match=error):
            channel.receive()
    os.write(writer, (MAX_MESSAGE + 1).to_bytes(8, "big"))
    with pytest.raises(MalformedError, match=str(MAX_MESSAGE)):
        channel.receive()
    os.close(writer)
    with pytest.raises(EOFError):
        channel.receive()
    os.close(reader)


def test_a_peer_is_lost_for_good_once_the_other_end_is_gone() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    answers, questions = os.pipe()
    peer = Peer(Channel(reader, questions), refuse, refuse, {})
    for _ in range(2):
        with pytest.raises(Lost):
            peer.ask("call")
    assert peer.lost
    for fd in (reader, answers, questions):
        os.close(fd)


def test_exceptions_come_back_by_name_and_never_as_a_way_out() -> None:
    error = rebuild(["KeyError", "LookupError", "Exception", "BaseException", "object"], "'a'")
    assert type(error) is KeyError
    caught = exception_class("TooSmall")
    error = rebuild(["MuchTooSmall", "TooSmall", "ValueError", "Exception", "BaseException", "object"], "x")
    assert isinstance(error, caught)
    assert isinstance(error, ValueError)
    assert (type(error).__name__, str(error)) == ("MuchTooSmall", "x")
    for name in ("StopIteration", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "Lost"):
        assert type(rebuild([name, "BaseException", "object"], "")) is RuntimeError
    assert isinstance(rebuild(["UnicodeDecodeError", "ValueError", "Exception"], "x"), RuntimeError)
