"""Text to token ids and back, such that nobody's text is ever read as a special token.

The chat template is rendered around place-holders. Only the template's own text may spell special tokens; what
callers and models wrote is encoded by a tokenizer that knows none, so `<|im_end|>` in a problem is seven
harmless pieces of text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path as File
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from tts.answers.calls import BEGIN
from tts.backends.turns import PLACE, Turns, place, tojson
from tts.errors import UsageError
from tts.types import Message, Path

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>")
_CONTEXT = 8
"""Ids decoded together with new ones: some tokenizers spell a token differently at the start of a text."""


class Prompter:
    """A model's tokenizer and chat template."""

    def __init__(self, folder: File, template: str | None = None, variables: Mapping[str, Any] | None = None) -> None:
        """`template` replaces the model's own; `variables` are what a template may be told, such as a mode."""
        try:
            described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            self._template_tokenizer = Tokenizer.from_str(json.dumps(described))
            self._text_tokenizer = Tokenizer.from_str(json.dumps({**described, "added_tokens": []}))
            settings = _read_json(folder / "tokenizer_config.json")
            source = _source(folder, settings, template)
            self._template = _compiled(source) if source else None
        except Exception as error:  # tokenizers raises bare Exception for a broken file
            raise UsageError(f"cannot read the tokenizer in {folder}: {error}") from error
        self._calls = BEGIN in source and '"arguments' in source.replace("\\", "") and "<function=" not in source
        """Whether it spells calls of functions as `tts.answers.calls` reads them."""
        self._special = {token["id"] for token in described.get("added_tokens", ())}
        self._tokens = {
            name: token["content"] if isinstance(token, dict) else token
            for name, token in settings.items()
            if name.endswith("_token") and token
        }
        self._variables = dict(variables or {})
        self.manner = f"{template or ''}{self._variables or ''}"
        """Names what was given instead of the model's own; empty where nothing was."""
        self.start_ids = lru_cache(maxsize=1024)(self._start_ids)
        self.opening: tuple[int, ...] = tuple(self._template_tokenizer.encode("").ids)
        """What the tokenizer puts before a text that is no conversation."""
        self.turn_ends = tuple(i for i in map(self.token_id, _TURN_ENDS) if i is not None)
        """The usual ends of a turn, which not every configuration names."""

    def path_ids(self, path: Path) -> list[int]:
        """The whole path as a prompt: generated steps keep the ids they were generated as."""
        ids = list(self.start_ids(path.start))
        for step in path.steps:
            ids += step.token_ids if step.token_ids is not None else self.encode(step.text)
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of a caller's or model's text, none of them special."""
        found = self._text_tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = found.ids
        forged = self._special.intersection(ids)  # also by what a tokenizer does not know, if it calls that special
        if forged:
            pieces = {text[begin:end] for i, (begin, end) in zip(ids, found.offsets, strict=True) if i in forged}
            spelled = ", ".join(map(repr, sorted(pieces)))
            raise UsageError(f"this tokenizer cannot spell {spelled} as plain text; take it out of the text")
        return ids

    def decode(self, ids: Sequence[int], before: Sequence[int] = ()) -> str:
        """The text of `ids` as it reads after `before`; special tokens spell nothing."""
        context = list(before[-_CONTEXT:])
        lead: str = self._template_tokenizer.decode(context, skip_special_tokens=True)
        whole: str = self._template_tokenizer.decode([*context, *ids], skip_special_tokens=True)
        return whole[len(lead) :] if whole.startswith(lead) else whole

    def token_id(self, token: str) -> int | None:
        found: int | None = self._template_tokenizer.token_to_id(token)
        return found

    def _start_ids(self, start: tuple[Message, ...] | tuple[int, ...]) -> tuple[int, ...]:
        messages = [part for part in start if isinstance(part, Message)]
        if len(messages) < len(start):
            return tuple(part for part in start if isinstance(part, int))
        return tuple(self._spelled(messages, prompting=True)[0])

    def conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """The ids of a conversation that nobody is asked to continue, and where each message's content begins."""
        return self._spelled(messages, prompting=False)

    def token(self, text: str) -> int:
        """The one token that spells a text."""
        ids = self.encode(text)
        if len(ids) != 1:
            raise UsageError(f"this tokenizer spells {text!r} in {len(ids)} tokens, and can be asked about one only")
        return ids[0]

    def _spelled(self, messages: Sequence[Message], prompting: bool) -> tuple[list[int], list[int]]:
        """The ids, and where the content of each turn begins."""
        ids: list[int] = []
        begins: list[int] = []
        turns = Turns(messages)
        pieces = PLACE.split(self._rendered(turns, prompting))
        for template_text, number in zip(pieces[::2], [*pieces[1::2], None], strict=True):
            ids += self._template_tokenizer.encode(template_text, add_special_tokens=False).ids
            if number is not None:
                if int(number) in turns.contents:
                    begins.append(len(ids))
                ids += self.encode(turns.texts[int(number)])
        return ids, begins

    def _rendered(self, turns: Turns, prompting: bool) -> str:
        """The template with a place-holder for everybody's text, each exactly once and the turns in order."""
        if self._template is None:
            return self._bare(turns)
        if turns.tools and not self._calls:
            raise UsageError("the model's chat template does not spell calls of functions as <tool_call> and JSON")
        told = {"tools": turns.tools} if turns.tools else {}
        try:
            text: str = self._template(
                messages=turns.told, add_generation_prompt=prompting, **told, **self._tokens, **self._variables
            )
        except TemplateError as error:
            raise UsageError(f"the model's chat template refuses this conversation: {error}") from error
        turns.check(text)
        return text

    def _bare(self, turns: Turns) -> str:
        """A model without a chat template continues a text: its start token, then the one message."""
        if len(turns.texts) > 1 or turns.tools:
            raise UsageError("this model has no chat template, so it reads one message and not a conversation")
        return f"{self._tokens.get('bos_token', '')}{place(0)}"


def _source(folder: File, settings: dict[str, Any], given: str | None) -> str:
    """The chat template; empty where there is none."""
    file = folder / "chat_template.jinja"
    return given or (file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")) or ""


def _compiled(source: str) -> Callable[..., str]:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now(UTC).strftime(form))
    return environment.from_string(source).render


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _read_json(file: File) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
