"""Handlers for the command line: `--backend fake:tests.handlers:NAME`."""

from __future__ import annotations

import json
import random

from tts.backends.base import Request
from tts.backends.fake import Handler, Reply
from tts.types import Message


def quick(request: Request) -> Reply:
    draw = random.Random(request.seed)
    return Reply(f"so the answer is \\boxed{{{draw.choice([12, 12, 12, 7])}}}", probability=draw.uniform(0.2, 0.9))


def slow(request: Request) -> Reply:
    """Half a second a sample, some of them five: time enough to be killed."""
    reply = quick(request)
    return Reply(reply.text, latency=0.3 if request.seed % 2 else 5.0, probability=reply.probability)


def mute(request: Request) -> Reply:
    return Reply("word " * 10_000)


def broken(request: Request) -> Reply:
    return Reply("", error="connection refused")


def half_broken(request: Request) -> Reply:
    return broken(request) if request.seed % 2 else quick(request)


def programs(request: Request) -> Reply:
    """Doubles, right or wrong."""
    body = random.Random(request.seed).choice(["return 2 * x", "return x + x", "return x", "while True: pass"])
    return Reply(f"```python\ndef double(x): {body}\n```", probability=0.5)


def counting(request: Request) -> Reply:
    """Counts to 700 from wherever a path has come to, about four seconds; then an answer. A text that was resumed
    wrongly has a number twice, or not at all."""
    words = [f" {i}" for i in range(1, 701)] + [" so", " \\boxed{700}"]
    return Reply("".join(words[request.path.tokens :]), latency=0.05, per_token=0.006)


def endless(request: Request) -> Reply:
    """Goes on until it is told to stop."""
    return Reply("so the answer is \\boxed{12} " * 10_000, per_token=0.001, probability=0.5)


def stubborn(request: Request) -> Reply:
    """Does not hear that it is to stop."""
    return Reply("word " * 10_000, per_token=0.01, stubborn=60)


def crashing(request: Request) -> Reply:
    """What nobody foresaw."""
    raise ZeroDivisionError("a secret of the handler's")


def wordy(request: Request) -> Reply:
    """One of three texts, a second each."""
    texts = ("I would say \\boxed{12}.", "It is \\boxed{7}, I think.", "Surely \\boxed{12}!")
    return Reply(texts[request.seed % 3], latency=0.2, per_token=0.1)


def caller(request: Request) -> Reply:
    """Calls the first function that it is told of, most of the time as it should; answers once it has heard back."""
    told = [message for message in request.path.start if isinstance(message, Message)]
    if told[-1].role == "tool":
        return Reply(f"It is {told[-1].content}.", probability=0.5)
    (name, *_) = (tool["function"]["name"] for tool in json.loads(told[0].content))
    arguments = random.Random(request.seed).choice(['{"a": 1, "b": 2}', '{"b": 2, "a": 1}', '{"a": 3}'])
    return Reply(
        f'Let me see. <tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>', probability=0.5
    )


caller.offers = {"structural_tag"}  # type: ignore[attr-defined]


def _calling(arguments: str) -> Handler:
    """Calls `add` with these arguments."""

    def calling(request: Request) -> Reply:
        return Reply(f'<tool_call>\n{{"name": "add", "arguments": {{"a": {arguments}}}}}\n</tool_call>')

    calling.offers = {"structural_tag"}  # type: ignore[attr-defined]
    return calling


halved = _calling('"\\ud800"')
unending = _calling("1e999")
nested = _calling("[" * 900 + "]" * 900)
lengthy = _calling(f'"{"y" * 500_100}"')
"""Calls that are hard to tell."""
