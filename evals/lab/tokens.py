"""The lab's alphabet: one token per symbol, shared by all tasks and models, saved as a Hugging Face tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIAL = (PAD, BOS, EOS)
DIGITS = tuple("0123456789X")
STEP_TAG = "@"
"""Stands after a step where a reward model is to answer `+` or `-`."""
SYMBOLS = (*"\n+-*/=:;,.?!()<>|&#~^ ", STEP_TAG)
"""More than the tasks need today: a mode of answering is chosen by a symbol at the end of the prompt."""
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
VOCABULARY = (*SPECIAL, *DIGITS, *SYMBOLS, *LETTERS)
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"

PAD_ID, BOS_ID, EOS_ID = range(3)
_IDS = {token: i for i, token in enumerate(VOCABULARY)}


def encode(text: str) -> list[int]:
    """The ids of a text, as the saved tokenizer gives them; a KeyError for a symbol the lab does not have."""
    return [_IDS[symbol] for symbol in text]


def tokenizer() -> PreTrainedTokenizerFast:
    """The same alphabet for transformers, SGLang and the local backend."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel(dict(_IDS)))
    words.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    words.decoder = Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    made.chat_template = CHAT_TEMPLATE
    return made
