"""The lab's alphabets: one token per symbol, in `chain` also per number; saved as Hugging Face tokenizers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
PAD_ID, BOS_ID, EOS_ID = range(3)
STEP_TAG = "\n"
"""Ends a step for a reward model: a symbol that its policy knows there."""
SYMBOLS = tuple("\n+-*/=:;,.?!()<>|&#~^ @")
"""More than the tasks need today: a mode of answering is to be chosen by a symbol at the end of the prompt."""
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"


class Alphabet:
    """The tokens of one task. Every piece of text is one symbol, or, where numbers are tokens, one number."""

    def __init__(self, words: Sequence[str], pieces: str) -> None:
        self.tokens = (PAD, BOS, EOS, *words)
        self._pieces = re.compile(pieces)
        self._ids = {token: i for i, token in enumerate(self.tokens)}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, as the saved tokenizer gives them; a KeyError for a symbol that the task does not have."""
        return [self._ids[piece] for piece in self._pieces.findall(text)]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The same alphabet for transformers, SGLang (which warms up on words) and the local backend (which refuses
        what the alphabet lacks)."""
        from tokenizers import Regex, Tokenizer
        from tokenizers.decoders import Fuse
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Split
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(WordLevel(dict(self._ids), unk_token=PAD))
        words.pre_tokenizer = Split(Regex(self._pieces.pattern), behavior="isolated")
        words.decoder = Fuse()
        made = PreTrainedTokenizerFast(
            tokenizer_object=words, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
        )
        made.chat_template = CHAT_TEMPLATE
        return made


LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
ALPHABETS = {
    "chain": Alphabet((*map(str, range(100)), *SYMBOLS, *LETTERS), r"[1-9]\d|[\s\S]"),
    "countdown": Alphabet((*"0123456789X", *SYMBOLS, *LETTERS), r"[\s\S]"),
}
"""By task."""
