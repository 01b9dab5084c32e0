"""Every prompt without tokens or with too many is found, with any tokenizer; short ASCII ones are not encoded."""

# Shapes: N prompts.

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.tasks.lengths import LengthCheck, picked
from bots_lightning.tasks.procedural import ALPHABET
from bots_lightning.tasks.prompts import prompt_tokens

TEMPLATE = (
    "{{ bos_token or '' }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}"
    "[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEXTS = [
    "What is 2 + 2?",
    "  Name   three primes. ",
    "Solve x² = 4 for x.",
    "Zwölf Boxkämpfer",
    "ﷺ and ﷺ",
    "数え上げる",
]


def byte_level(**options: Any) -> PreTrainedTokenizerFast:
    """As Qwen and Llama 3 have them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if options:  # begins and ends every text
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE, **options)


def metaspace(fallback: bool) -> PreTrainedTokenizerFast:
    """As Llama 2 has it: a sign for spaces, one at the start, bytes for unknown characters; or without that sign."""
    characters = [chr(code) for code in range(33, 127)] + (["▁", "▁a"] if fallback else [])
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    merges = [("▁", "a")] if fallback else []
    model = models.BPE({t: i for i, t in enumerate(tokens)}, merges, byte_fallback=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE, bos_token="<s>")


def compatibility() -> PreTrainedTokenizerFast:
    """Characters of NFKC, which makes eighteen letters of one."""
    tokenizer = character_tokenizer(ALPHABET + "".join(map(chr, range(32, 127))))
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def growing() -> PreTrainedTokenizerFast:
    """Writes out one character and removes another."""
    tokenizer = character_tokenizer("abcdefghij")
    grown = [normalizers.Replace("&", " and "), normalizers.Replace(Regex("#+"), "")]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(grown)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


TOKENIZERS = {
    "bytes": byte_level(),
    "begun and ended": byte_level(bos_token="<s>", eos_token="</s>"),
    "spaces": metaspace(True),
    "spaces of three bytes": metaspace(False),
    "compatibility": compatibility(),
    "growing": growing(),
}
texts = st.one_of(
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=20),
    st.text(st.sampled_from("a#& ﷺé<s>²数🙂"), min_size=1, max_size=8),
).filter(str.strip)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(prompts=st.lists(texts, min_size=1, max_size=5), most=st.integers(0, 24))
def test_prompts_that_are_not_doubtful_are_valid_and_invalid_ones_stay_doubtful(
    name: str, prompts: list[str], most: int
) -> None:
    tokenizer = TOKENIZERS[name]
    check = LengthCheck(tokenizer, most)
    valid = np.array([1 <= len(prompt_tokens(tokenizer, prompt)) <= most for prompt in prompts])
    assert valid[~check.doubtful(pa.chunked_array([prompts]))].all()
    assert valid[~check.still_doubtful(prompts)].all()
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    valid = np.array([1 <= len(prompt_tokens(tokenizer, chat)) <= most for chat in chats])
    assert check.doubtful(pa.chunked_array([chats])).all()
    assert valid[~check.still_doubtful(chats)].all()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_short_ascii_text_is_checked_by_its_bytes_if_the_tokenizer_allows(name: str) -> None:
    check = LengthCheck(TOKENIZERS[name], 20)
    doubtful = check.doubtful(pa.chunked_array([["16 characters ok", "as é is not"], ["longer than 20 characters"]]))
    assert doubtful.tolist() == [name in ("spaces of three bytes", "growing"), True, True]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_encoded_prompts_are_compared_with_the_limit(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompts = ["abc " * count for count in (1, 3, 30)]
    counts = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert LengthCheck(tokenizer, counts[1]).still_doubtful(prompts).tolist() == [False, False, True]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    limit = len(prompt_tokens(tokenizer, chats[1]))
    assert LengthCheck(tokenizer, limit).still_doubtful(chats).tolist() == [False, False, True]


def test_a_prompt_of_which_no_token_is_left_is_doubtful() -> None:
    check = LengthCheck(TOKENIZERS["growing"], 9)
    assert check.still_doubtful(["##", "a#"]).tolist() == [True, False]
    ended = LengthCheck(TOKENIZERS["begun and ended"], 9)
    assert ended.still_doubtful(["", "a"]).tolist() == [True, False]


def test_chats_that_the_template_rejects_are_doubtful() -> None:
    tokenizer = TOKENIZERS["bytes"]
    chats = [[{"role": "user", "content": "a"}], [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]]
    assert LengthCheck(tokenizer, 99).still_doubtful(chats).all()
    with pytest.raises(TemplateError, match="no system prompt"):
        prompt_tokens(tokenizer, chats[1])


def test_the_chosen_prompts_come_in_batches_with_their_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bots_lightning.tasks.lengths.BATCH", 3)
    column = pa.chunked_array([["a", "b"], ["c", "d", "e", "f"], ["g", "h"]])
    chosen = np.array([True, False, True, False, False, False, True, False])
    assert [(rows.tolist(), batch) for rows, batch in picked(column, chosen)] == [([0, 2], ["a", "c"]), ([6], ["g"])]
    chats = pa.chunked_array([[[{"role": "user", "content": "a", "name": None}]]])
    assert [batch for _, batch in picked(chats, np.array([True]))] == [[[{"role": "user", "content": "a"}]]]
