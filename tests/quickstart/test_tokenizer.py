"""One token per character, three special ones, and text comes back as it went in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from bots_lightning.quickstart.tokenizer import PAD, STOP, UNKNOWN, character_tokenizer
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.tasks.procedural import ALPHABET

TOKENIZER = character_tokenizer(ALPHABET)


def test_special_tokens_come_first_and_are_three_different_ones() -> None:
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.unk_token_id) == (0, 1, 2)
    assert len(TOKENIZER) == 3 + len(set(ALPHABET))


def test_ids_do_not_depend_on_the_order_or_repetition_of_the_alphabet() -> None:
    assert character_tokenizer("cab").get_vocab() == character_tokenizer("abcab").get_vocab()
    assert character_tokenizer("cab")("abc")["input_ids"] == [3, 4, 5]


def contains_no_special_token(text: str) -> bool:
    return not any(token in text for token in (PAD, STOP, UNKNOWN))


@given(st.text(ALPHABET).filter(contains_no_special_token))
def test_every_character_is_one_token_and_nothing_is_added(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    assert len(ids) == len(text)
    assert ids == [TOKENIZER.get_vocab()[character] for character in text]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["\n", "é", "Ω"])
def test_a_character_outside_the_alphabet_is_unknown(text: str) -> None:
    assert TOKENIZER(f"a{text}b")["input_ids"] == TOKENIZER("a")["input_ids"] + [2] + TOKENIZER("b")["input_ids"]


def test_every_procedural_task_can_be_read_and_written() -> None:
    pool = ProceduralTasks(400).load()
    for task in (pool[i] for i in range(len(pool))):
        assert isinstance(task.prompt, str)
        assert TOKENIZER.decode(TOKENIZER(task.prompt + task.answer)["input_ids"]) == task.prompt + task.answer


def test_prompts_are_padded_on_the_left() -> None:
    padded = TOKENIZER(["1", "12"], padding=True)
    assert [row[0] for row in padded["input_ids"]] == [0, TOKENIZER("1")["input_ids"][0]]
    assert padded["attention_mask"] == [[0, 1], [1, 1]]


def test_a_saved_tokenizer_is_loaded_like_any_other(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert (loaded.pad_token, loaded.eos_token, loaded.unk_token) == (PAD, STOP, UNKNOWN)
    assert loaded.padding_side == "left"
    assert loaded("rev ab=")["input_ids"] == TOKENIZER("rev ab=")["input_ids"]
    assert loaded.decode(loaded("a ,b")["input_ids"]) == "a ,b"
