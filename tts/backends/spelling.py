"""What a model is asked, as its token ids: prompts, and sheets with the places to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from tts.backends.base import Request
from tts.backends.prompt import Prompter
from tts.errors import UsageError
from tts.types import Message, Path, Sheet


class Speller:
    """Spells for the model `name`, which knows `vocabulary` tokens and, of a text, says classes or what comes next.

    Raises `UsageError` for what would break an engine, and with it everybody who is in the same batch.
    """

    def __init__(self, prompter: Prompter, name: str, vocabulary: int, *, classes: bool) -> None:
        self.prompter, self.classes = prompter, classes
        self._name, self._vocabulary = name, vocabulary
        self.sheet = lru_cache(maxsize=4096)(lambda sheet: spell(sheet, prompter))

    def prompt_tokens(self, path: Path) -> int:
        return len(self.prompter.path_ids(path))

    def prompt(self, request: Request) -> tuple[int, ...]:
        """The ids that are to be continued."""
        return tuple(i for part in self.prompt_parts(request) for i in part)

    def prompt_parts(self, request: Request) -> tuple[tuple[int, ...], ...]:
        """The same, start and steps apart."""
        if self.classes:
            raise UsageError(f"{self._name} judges texts and writes none; it cannot be a policy")
        parts = self.parts(request.path)
        self._check(i for ids in (*parts, request.sampling.banned_ids) for i in ids)
        if not any(parts):
            raise UsageError(f"{self._name} cannot continue an empty prompt; give it a message or a token")
        return parts

    def parts(self, path: Path) -> tuple[tuple[int, ...], ...]:
        """The ids of the prompt, its start and its steps apart."""
        steps = (s.token_ids if s.token_ids is not None else tuple(self.prompter.encode(s.text)) for s in path.steps)
        return (self.prompter.start_ids(path.start), *steps)

    def sheet_tokens(self, sheet: Sheet) -> int:
        if bool(sheet.ask) == self.classes:
            said = "log-probabilities of tokens, and this sheet asks for classes"
            says = "classes, and this sheet asks for tokens" if self.classes else said
            raise UsageError(f"{self._name} gives {says}; choose the verifier, or its form=…, that it was trained for")
        ids = self.sheet(sheet).ids
        self._check([*ids, *self.asked(sheet)])
        return len(ids)

    def asked(self, sheet: Sheet) -> tuple[int, ...]:
        """The ids of the tokens that a sheet asks about."""
        return tuple(map(self.prompter.token, sheet.ask))

    def _check(self, ids: Iterable[int]) -> None:
        unknown = next((i for i in ids if not 0 <= i < self._vocabulary), None)
        if unknown is not None:
            raise UsageError(
                f"{self._name} has no token {unknown}; its last one is {self._vocabulary - 1}: where nobody named that "
                "token, the tokenizer is another model's"
            )


@dataclass(frozen=True)
class Spelled:
    """A sheet as the model reads it: the ids, how many of them come before the first piece, and, of each piece that was
    not skipped, the places whose states say what comes next."""

    ids: tuple[int, ...]
    before: int
    places: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...] = ()
    """Where each piece is looked at last, skipped ones too."""

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """The ids, parted where texts of the same beginning may part."""
        cuts = (0, self.before, *(end + 1 for end in self.ends))
        return tuple(self.ids[begin:end] for begin, end in pairwise(cuts) if begin < end)

    @property
    def first(self) -> int:
        """The first place: states are wanted from here on."""
        return self.places[0][0]


def spell(sheet: Sheet, prompter: Prompter) -> Spelled:
    """Token ids of a sheet. A mark is one of the tokens of a piece's end only where the sheet puts it: the same letters
    in somebody's text are taken out of it by whoever writes the sheet."""
    before, parts = _turns(sheet, prompter) if sheet.turns else _marked(sheet, prompter)
    ids = [*before, *(i for piece, mark in parts for i in (*piece, *mark))]
    begins = accumulate((len(piece) + len(mark) for piece, mark in parts), initial=len(before))
    places = tuple(_places(sheet, begin, *map(len, part)) for begin, part in zip(begins, parts, strict=False))
    ends = tuple(each[-1] for each in places if each)
    places = places[sheet.skip :]
    if any(not each or each[0] < 0 for each in places):
        raise UsageError("there is nothing to look at in an empty piece without a mark")
    # Nothing after the last place is read; what is read before the first is what several sheets may share.
    return Spelled(tuple(ids[: places[-1][-1] + 1]), min(len(before), places[0][0]), places, ends)


def _places(sheet: Sheet, begin: int, piece: int, mark: int) -> tuple[int, ...]:
    """Where to look at a piece of so many tokens and at its mark's."""
    if sheet.place == "token":
        return tuple(range(begin, begin + piece + mark))
    return (begin + piece + (mark if sheet.place == "mark" else 0) - 1,)


Parts = list[tuple[list[int], list[int]]]
"""The ids of each piece and of its mark."""


def _marked(sheet: Sheet, prompter: Prompter) -> tuple[list[int], Parts]:
    if isinstance(sheet.before, str):
        before = list(prompter.opening)
        text = sheet.before
    else:
        before, text = list(prompter.start_ids(sheet.before)), ""
    special = prompter.token_id(sheet.mark) if sheet.mark else None
    if special is not None or not sheet.mark:
        mark = [] if special is None else [special]
        before += prompter.encode(text)
        return before, [(prompter.encode(piece), mark) for piece in sheet.pieces]
    return _spelled_through(sheet, before, text, prompter)


def _spelled_through(sheet: Sheet, before: list[int], text: str, prompter: Prompter) -> tuple[list[int], Parts]:
    """Where the mark is a word like others, the text is spelled as a whole, as the model has learnt to read it: some
    tokenizers spell a word differently where a text begins."""
    ending = prompter.encode(sheet.mark)[-1:]
    if prompter.decode(ending).strip() != sheet.mark.strip():
        raise UsageError(f"this tokenizer has no token for the mark {sheet.mark!r} that ends a step")
    (word,) = ending
    ids = prompter.encode(text + "".join(piece + sheet.mark for piece in sheet.pieces))
    ends = [i for i, token in enumerate(ids) if token == word]
    if len(ends) != len(sheet.pieces):
        raise UsageError(f"the mark {sheet.mark!r} stands {len(ends)} times in {len(sheet.pieces)} pieces")
    opening = len(prompter.encode(text)) if text else 0
    begins = [min(opening, ends[0]), *(end + 1 for end in ends[:-1])]
    parts = [(ids[begin:end], [word]) for begin, end in zip(begins, ends, strict=True)]
    return [*before, *ids[: begins[0]]], parts


def _turns(sheet: Sheet, prompter: Prompter) -> tuple[list[int], Parts]:
    """Each piece with the template's words up to the assistant's turn; the mark with those up to the next user's."""
    if isinstance(sheet.before, str):
        raise UsageError("a sheet of turns begins with messages, not with a text")
    turns = [
        message
        for piece in sheet.pieces
        for message in (Message(role="user", content=piece), Message(role="assistant", content=sheet.mark))
    ]
    ids, begins = prompter.conversation((*sheet.before, *turns))
    pieces, marks = begins[len(sheet.before) :: 2], begins[len(sheet.before) + 1 :: 2]
    ends = [*pieces[1:], len(ids)]
    return ids[: pieces[0]], [(ids[p:m], ids[m:e]) for p, m, e in zip(pieces, marks, ends, strict=True)]
