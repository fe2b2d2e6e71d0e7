"""One problem's recorded samples, as jobs draw them: without replacement, at what they cost, cut where a call is."""

from __future__ import annotations

from functools import cached_property

from tts.bank.nouns import Asked
from tts.bank.reading import Bank
from tts.errors import UsageError, counted
from tts.types import Completion, Finish, ModelInfo, Path, Sampling, Usage

COLUMNS = ("tokens", "seconds", "finish", "cached", "logprob", "self_certainty", "text")


class Deck:
    """A problem's samples in a fixed order, each known by its place. A completion is put together when it is dealt for
    the first time."""

    def __init__(self, bank: Bank, asked: Asked) -> None:
        self.asked, self.bank = asked, bank
        self.keys, rows = bank.rows(asked.id, *COLUMNS)
        self.lengths: list[int] = rows["tokens"]
        self.seconds: list[float] = rows["seconds"]
        self.texts: list[str] = rows["text"]
        self.finishes: list[Finish] = rows["finish"]
        self._logprobs: list[float | None] = rows["logprob"]
        self._certainties: list[float | None] = rows["self_certainty"]
        self._cached = max(rows["cached"], default=0)
        self._whole: dict[tuple[int, bool], Completion] = {}

    @cached_property
    def start(self) -> Path:
        """Where every sample begins."""
        return Path(start=self.asked.start)

    def fresh(self) -> list[int]:
        """The places of all samples, for one job to be dealt from."""
        return list(range(len(self.keys)))

    def deal(self, seed: int, left: list[int], wanted: int | None = None) -> int:
        """One of the places left, by the seed. `wanted` is how many samples the job would still like, where that is
        known, for the words in which it is refused."""
        if not left:
            raise self._dealt_out(wanted)
        place = seed % len(left)
        left[place], left[-1] = left[-1], left[place]
        return left.pop()

    def granted(self, place: int, tokens: int, first: bool) -> Completion:
        """A sample as a call for so many tokens gets it. A job's first call reads the prompt, the others find it
        read."""
        if tokens < self.lengths[place]:
            return self.cut(place, tokens, self.seconds[place] * tokens / self.lengths[place], "length", first)
        key = place, first
        if key not in self._whole:
            self._whole[key] = Completion(
                text=self.texts[place],
                token_ids=None,
                logprob=self._logprobs[place],
                self_certainty=self._certainties[place],
                finish=self.finishes[place],
                usage=self.usage(self.lengths[place], self.seconds[place], first),
            )
        return self._whole[key]

    def cut(self, place: int, tokens: int, seconds: float, finish: Finish, first: bool) -> Completion:
        """The beginning of a sample; how likely that was, the bank does not know."""
        ids = self._ids[place]
        return Completion(
            text=self.bank.decode(ids[:tokens]) if ids is not None else "",
            token_ids=None,
            logprob=None,
            self_certainty=None,
            finish=finish,
            usage=self.usage(tokens, seconds, first),
        )

    def usage(self, tokens: int, seconds: float, first: bool) -> Usage:
        """What a call for so many tokens consumes."""
        cached = 0 if first else self._cached
        return Usage.of(prompt=self.asked.prompt_tokens, cached=cached, completion=tokens, seconds=seconds)

    def _dealt_out(self, wanted: int | None) -> UsageError:
        count = len(self.keys)
        more = "asks for more" if wanted is None else f"lacks up to {wanted:,} more"
        enough = "as many --samples as it draws" if wanted is None else f"--samples {count + wanted}"
        return UsageError(
            f"{self.bank.folder} holds {counted(count, 'sample')} of problem {self.asked.id}, and this job {more}; "
            f"fill the bank up with tts bank fill, {enough}"
        )

    @cached_property
    def _ids(self) -> list[list[int] | None]:
        ids: list[list[int] | None] = self.bank.rows(self.asked.id, "token_ids")[1]["token_ids"]
        return ids


def served(model: ModelInfo) -> ModelInfo:
    """The model as far as recorded samples stand in for it."""
    return model.model_copy(update={"capabilities": model.capabilities & {"logprobs", "self_certainty"}})


def check(bank: Bank, sampling: Sampling, *, continued: bool, ended_early: bool) -> None:
    """Refuse, with the reason, a call that recorded samples cannot answer."""
    if continued:
        raise UsageError(f"{bank.folder} holds whole samples; to continue one needs a live backend")
    if ended_early:
        raise UsageError(f"{bank.folder} holds whole samples; steps and early stops need a live backend")
    recorded = bank.manifest.sampling
    same = sampling.model_copy(update={"max_tokens": recorded.max_tokens})
    differs = [name for name in Sampling.model_fields if getattr(recorded, name) != getattr(same, name)]
    if sampling.max_tokens > recorded.max_tokens:
        differs.append("max_tokens")
    if differs:
        found = ", ".join(f"{name}={getattr(recorded, name)}" for name in differs)
        raise UsageError(f"{bank.folder} was recorded with {found}; ask for the same, or fill another bank")
