"""Whether the tokenizer here is the server's. Ids of another one are other words, and an id beyond a model's vocabulary
ends its server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as File

from tts.backends.prompt import Prompter
from tts.backends.sglang.wire import Failure, Wire
from tts.errors import UsageError

PROBES = ("What is 12 * 17?", "x=1+1\n=2", "Don't say 3.14, say more.")
"""Texts without anything that tokenizers of one model disagree about."""
SHOWN = 8
"""Ids of a probe that a message shows."""

Spelt = Mapping[str, Sequence[int]]
"""Token ids by probe."""


class ForeignTokenizer(UsageError):
    """A server spells otherwise than the tokenizer that was named for it."""


async def spelt(wire: Wire, seconds: float) -> Spelt:
    """How a server spells the probes; nothing where it does not say."""
    try:
        told = await wire.post("/v1/tokenize", {"prompt": [*PROBES], "add_special_tokens": False}, seconds)
        return dict(zip(PROBES, told["tokens"], strict=True))
    except (Failure, UsageError, KeyError, TypeError, ValueError):
        return {}


def check_alike(prompter: Prompter, folder: File, url: str, theirs: Spelt) -> None:
    """Refuse the tokenizer in `folder` where a server spells a probe otherwise. What it has no letters for is no
    probe."""
    for text, ids in theirs.items():
        try:
            ours = prompter.encode(text)
        except UsageError:
            continue
        if ours != list(ids):
            raise ForeignTokenizer(
                f"the tokenizer in {folder} is not that of {url}: it spells {text!r} as {ours[:SHOWN]}, and the server "
                f"as {list(ids)[:SHOWN]}; name a folder with the server's own: tokenizer = … of its profile in tts.toml"
            )
