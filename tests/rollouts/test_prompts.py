"""Prompts become token ids and completions become text; nothing is cut in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.rollouts import PromptEncoder, load_tokenizer, prompt_room
from bots_lightning.tasks import PromptTokens, TaskPool
from bots_lightning.tasks.procedural import ALPHABET

TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }},{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = character_tokenizer(ALPHABET)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [tokenizer.get_vocab()[character] for character in text]


def test_a_string_is_encoded_as_it_is(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = PromptEncoder(tokenizer, 8).encode(["add 1+2=", "1"], ["a", "b"])
    assert encoded == [ids(tokenizer, "add 1+2="), ids(tokenizer, "1")]


def test_chat_messages_go_through_the_template_and_end_where_the_answer_begins(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+2="}]
    encoded = PromptEncoder(tokenizer, 64).encode([messages], ["a"])
    assert encoded == [ids(tokenizer, "s:be brief,u:1+2=,a:")]


@pytest.fixture
def opening() -> PreTrainedTokenizerBase:
    """As Llama's: it puts <s> before every text, and so does its chat template."""
    words = ["<s>", "</s>", "<unk>", "u:", "a:", "one", "two"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    whole.chat_template = "{{ bos_token }}" + TEMPLATE.replace("[0] }}:", "[0] }}: ").replace(",", " ")
    return whole


def test_a_prompt_has_its_first_token_once(opening: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "one two"}]
    rendered = opening.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == "<s>u: one two a:"
    encoded = PromptEncoder(opening, 8).encode([messages, rendered, "one two", "<s> one", "two <s>"], list("abcde"))
    assert encoded == [[0, 3, 5, 6, 4], [0, 3, 5, 6, 4], [0, 5, 6], [0, 5], [0, 6, 0]]
    opening.save_pretrained(tmp_path)
    rows = [{"id": "x", "prompt": rendered, "answer": "1"}, {"id": "y", "prompt": "one one two two", "answer": "1"}]
    assert PromptTokens(5, str(tmp_path)).keeps(TaskPool.from_rows(rows)).tolist() == [True, True]
    assert PromptTokens(4, str(tmp_path)).keeps(TaskPool.from_rows(rows)).tolist() == [False, False]


def test_a_prompt_is_not_ended(opening: PreTrainedTokenizerBase) -> None:
    """Though some tokenizers end every text; a stop token that the prompt itself ends with stays."""
    opening.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert PromptEncoder(opening, 8).encode(["one", "<s> one </s>"], ["a", "b"]) == [[0, 5], [0, 5, 1]]


def test_a_prompt_of_exactly_the_longest_length_fits(tokenizer: PreTrainedTokenizerBase) -> None:
    assert PromptEncoder(tokenizer, 3).encode(["1+2"], ["a"]) == [ids(tokenizer, "1+2")]


def test_a_longer_prompt_is_an_error_that_names_task_lengths_and_ways_out(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(
        ValueError, match=r"task 'b' has 4 tokens, max_prompt_length is 3\. Raise.*truncate_prompts=true"
    ):
        PromptEncoder(tokenizer, 3).encode(["1+2", "1+2="], ["a", "b"])


def test_truncation_keeps_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = PromptEncoder(tokenizer, 3, truncate=True)
    assert encoder.encode(["1+2=", "7"], ["a", "b"]) == [ids(tokenizer, "+2="), ids(tokenizer, "7")]


@pytest.mark.parametrize("truncate", [False, True])
def test_a_prompt_without_tokens_is_an_error(tokenizer: PreTrainedTokenizerBase, truncate: bool) -> None:
    with pytest.raises(ValueError, match="prompt of task 'b' has no tokens"):
        PromptEncoder(tokenizer, 3, truncate).encode(["1", ""], ["a", "b"])


def test_prompts_and_completions_share_the_context(tokenizer: PreTrainedTokenizerBase) -> None:
    room = prompt_room(12, max_prompt_length=8, max_completion_length=9)
    assert PromptEncoder(tokenizer, 8, room=room).encode(["1+2"], ["a"]) == [ids(tokenizer, "1+2")]
    with pytest.raises(ValueError, match=r"'a' has 4 tokens, the context has room for 3 beside max_completion"):
        PromptEncoder(tokenizer, 8, room=room).encode(["1+2="], ["a"])
    assert PromptEncoder(tokenizer, 8, truncate=True, room=room).encode(["1+2="], ["a"]) == [ids(tokenizer, "+2=")]
    assert PromptEncoder(tokenizer, 2, truncate=True, room=room).encode(["1+2="], ["a"]) == [ids(tokenizer, "2=")]


def test_a_context_without_room_for_a_prompt_is_refused_and_a_narrow_one_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert prompt_room(None, 512, 10**9) is None
    assert prompt_room(12, max_prompt_length=3, max_completion_length=9) == 3
    assert caplog.text == ""
    assert prompt_room(12, max_prompt_length=4, max_completion_length=9) == 3
    assert "are more than the model's context of 12 tokens: prompts have room for 3." in caplog.text
    with pytest.raises(ValueError, match=r"max_completion_length=12 leaves no room for a prompt in .* of 12 tokens"):
        prompt_room(12, max_prompt_length=1, max_completion_length=12)


def test_as_many_ids_as_prompts_are_needed(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        PromptEncoder(tokenizer, 3).encode(["1", "2"], ["a"])


def test_only_the_completion_is_decoded_and_special_tokens_are_not(tokenizer: PreTrainedTokenizerBase) -> None:
    stop, pad, unknown = tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id
    rows = [[*ids(tokenizer, "42"), stop, pad], [stop, *ids(tokenizer, "7"), pad, pad], ids(tokenizer, " 1 2")]
    rows.append([unknown, *ids(tokenizer, "abc")])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    assert PromptEncoder(tokenizer, 8).decode(torch.tensor(rows), mask) == ["42", "", " 1 2", "ab"]


texts = st.text(ALPHABET, min_size=1, max_size=12).filter(lambda text: "<pad>" not in text)  # a token of its own


@given(st.lists(texts, min_size=1, max_size=4))
def test_decoding_inverts_encoding(texts: list[str]) -> None:
    encoder = PromptEncoder(character_tokenizer(ALPHABET), 12)
    encoded = encoder.encode(texts, texts)
    completions = torch.tensor([row + [5] * (12 - len(row)) for row in encoded])  # 5 is a letter like any other
    mask = torch.arange(12) < torch.tensor([[len(row)] for row in encoded])
    assert encoder.decode(completions, mask) == texts


def test_a_tokenizer_without_a_pad_token_takes_its_stop_token(tmp_path: Path) -> None:
    tokenizer = character_tokenizer(ALPHABET)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token_id == loaded.eos_token_id == tokenizer.eos_token_id


def test_a_pad_token_of_its_own_is_kept(checkpoint: str) -> None:
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
