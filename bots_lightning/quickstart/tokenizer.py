"""A character tokenizer for transformers."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

PAD, STOP, UNKNOWN = "<pad>", "<stop>", "<unk>"


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """Makes a tokenizer with one token per character and three special ones: pad, stop and unknown.

    Args:
        alphabet: all characters that the model reads or writes.
    """
    tokens = [PAD, STOP, UNKNOWN, *sorted(set(alphabet))]
    tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=STOP, unk_token=UNKNOWN, padding_side="left"
    )
