"""The backend: a continuation or a sheet, placed on a replica, brought to its end wherever that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path as File
from typing import Any, Self

from pydantic import ValidationError

from tts.backends.base import Health, Reading, Request
from tts.backends.prompt import Prompter
from tts.backends.sglang.about import Facts, ask, basename, folder_of, info_of, read_config
from tts.backends.sglang.absent import Absent
from tts.backends.sglang.draft import Draft, attempt_id
from tts.backends.sglang.fleet import Errand, Fleet
from tts.backends.sglang.likeness import check_alike
from tts.backends.sglang.replica import Replica
from tts.backends.sglang.warmth import Chain, chain
from tts.backends.sglang.wire import Failure, Wire, looks, readout
from tts.backends.spelling import Spelled, Speller
from tts.errors import BackendError, UsageError
from tts.halt import Halt
from tts.types import Completion, Looks, Message, Path, Sheet, Usage, Verdicts, digest

ATTEMPTS = 4
"""Replicas that one call tries, or times that it tries the only one."""
PATIENCE = 10.0
"""Seconds after which a server that says nothing counts as hung."""
GRACE = 2.0
"""Seconds for an aborted request to come back."""
USUAL = 256.0
"""Tokens that a continuation is expected to have, until some have come."""


def _say_nothing(words: str) -> None:
    """Who opens a model without a `notice` wants none."""


class SGLangBackend:
    """One model, served by the replicas at `urls`: `await SGLangBackend.open(urls)`.

    Every continuation ends at its grant, to the token, and is billed by what its server delivered, also when it was cut
    short. When a replica fails, another one goes on from what was delivered; what the first may have generated beside
    is `uncertain_tokens` of the usage, and is not billed. SGLang draws from a seed of its own: the same requests do not
    give the same completions twice.
    """

    def __init__(
        self, replicas: Sequence[Replica], facts: Facts, name: str, patience: float, key: str | None, prompter: Prompter
    ) -> None:
        classes = not facts.server.get("is_generation", True)
        self.info = info_of(facts, name, GRACE, prompter.manner)
        self.tokenizer = facts.folder / "tokenizer.json"
        self.speller = Speller(prompter, name, read_config(facts.folder)["vocab_size"], classes=classes)
        self._fleet = Fleet(replicas, patience)
        self._facts, self._patience, self._key = facts, patience, key
        self._usual = USUAL
        self._absent = Absent((), self.add, _say_nothing)

    @classmethod
    async def open(
        cls,
        urls: Sequence[str],
        *,
        name: str | None = None,
        tokenizer: File | None = None,
        context: int | None = None,
        parameters: int | None = None,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        api_key: str | None = None,
        patience: float = PATIENCE,
        notice: Callable[[str], None] = _say_nothing,
    ) -> Self:
        """Ask the servers at `urls` what they serve. One that does not answer joins the others when it does; `notice`
        is told. Raises `BackendError` where none is there, `UsageError` where they serve different models or the
        tokenizer cannot be found or is another model's."""
        if not urls:
            raise UsageError("the SGLang backend needs a server: --backend sglang:http://HOST:PORT")
        distinct = list(dict.fromkeys(urls))
        told = await asyncio.gather(*(_asked(url, api_key, patience) for url in distinct))
        asked = dict(zip(distinct, told, strict=True))
        replicas = [each for each in asked.values() if isinstance(each, Replica)]
        failures = {url: each for url, each in asked.items() if isinstance(each, BackendError)}
        if not replicas:
            raise next(iter(failures.values()))
        for failure in failures.values():
            notice(f"going on without a replica, which joins when it answers: {failure}")
        first = replicas[0].facts
        facts = Facts(first, folder_of(first, tokenizer))
        prompter = Prompter(facts.folder, template, variables)
        for replica in replicas:
            _check_same(facts, prompter, replica)
        backend = cls(replicas, facts, name or basename(first), patience, api_key, prompter)
        said = {"context": context and min(context, backend.info.context), "parameters": parameters}
        backend.info = backend.info.model_copy(update={key: value for key, value in said.items() if value})
        backend._absent = Absent(failures, backend.add, notice)
        return backend

    async def aclose(self) -> None:
        """Let go of all connections."""
        await self._absent.close()
        await self._fleet.close()

    @property
    def replicas(self) -> Sequence[Replica]:
        """Those that serve now."""
        return tuple(self._fleet.replicas)

    @property
    def gone(self) -> str | None:
        """Why nobody can be asked, where a call has waited for it in vain; None while somebody can."""
        return self._fleet.gone

    async def add(self, url: str) -> None:
        """One more replica, from now on."""
        replica = await _replica(url, self._key, self._patience)
        _check_same(self._facts, self.speller.prompter, replica)
        self._fleet.add(replica)

    def drain(self, url: str) -> None:
        """Give a replica nothing new; it is forgotten when it is through with what it has."""
        self._fleet.drain(url)

    async def health(self) -> dict[str, Health]:
        """How each replica is, those that have never answered too."""
        self._absent.look()
        return {url: Health(up=False) for url in self._absent.urls} | await self._fleet.health()

    async def abort(self, id: str) -> None:
        """Wherever it was. Nobody waits for that: a server also notices, after some seconds, that its caller has gone,
        and so it does of a second attempt."""
        for replica in self.replicas:
            replica.let_go(attempt_id(id, 1))

    def prompt_tokens(self, path: Path) -> int:
        return self.speller.prompt_tokens(path)

    def sheet_tokens(self, sheet: Sheet) -> int:
        return self.speller.sheet_tokens(sheet)

    async def generate(self, request: Request) -> Completion:
        began = time.perf_counter()
        self._check_grammar(request)
        draft = Draft(request, self.speller.prompt_parts(request), self.speller.prompter)
        tokens = min(self._usual, request.max_tokens)
        errand = Errand(_conversation(request.path), draft.links, tokens, request.halt)
        stop_ids = self.speller.prompter.turn_ends
        try:
            while draft.finish is None:
                async with self._placed(errand, draft.attempts + 1) as replica:
                    if replica is None:
                        draft.finish = "halted"
                    else:
                        await replica.decode(draft, stop_ids)
        except BackendError as error:
            raise BackendError(str(error), draft.usage(time.perf_counter() - began)) from error
        self._usual += (draft.made - self._usual) / 16
        return draft.completion(time.perf_counter() - began)

    def _check_grammar(self, request: Request) -> None:
        """Refuse what a grammar cannot do."""
        sampling = request.sampling
        if not sampling.held:
            return
        if request.until or request.path.steps:
            raise UsageError("a grammar holds whole samples: choose a strategy that does not search over steps")
        if sampling.thinks and not self._facts.server.get("reasoning_parser"):
            raise UsageError(
                f"the servers of {self.info.name} do not know where thinking ends: start them with --reasoning-parser"
            )

    async def read(self, reading: Reading) -> Verdicts:
        began = time.perf_counter()
        sheet = self.speller.sheet(reading.sheet)
        errand = Errand(digest(repr(reading.sheet.before)), chain(sheet.parts), 0.0, reading.halt)
        for attempt in range(1, ATTEMPTS + 1):
            async with self._placed(errand, attempt) as replica:
                if replica is None:
                    break
                pieces, read, cached = await self._reader(
                    replica, reading, sheet, errand.links, f"{reading.id}{attempt:02};"
                )
                usage = Usage.of(prompt=read, cached=cached, completion=0, seconds=time.perf_counter() - began)
                try:
                    return Verdicts(pieces=pieces, usage=usage)
                except ValidationError as error:
                    raise BackendError(f"{self.info.name} said of a step what is no number", usage) from error
        return Verdicts(pieces=None, usage=Usage.none())

    @asynccontextmanager
    async def _placed(self, errand: Errand, attempt: int) -> AsyncIterator[Replica | None]:
        """A replica, once it is the call's turn there; None where a halt came first. A failure is remembered, and is
        one of the call's only at its last attempt."""
        self._absent.look()
        replica = await self._fleet.place(errand)
        if replica is None:
            yield None
            return
        try:
            await replica.turn(errand.links, errand.halt)
            yield replica if errand.halt.reason is None else None
            replica.breaker.succeeded()
        except Failure as failure:
            replica.breaker.failed()
            errand.failed.add(replica)
            if attempt >= ATTEMPTS:
                raise BackendError(f"{failure} (tried {attempt} times)", Usage.none()) from failure
        finally:
            self._fleet.leave(replica)

    async def _reader(
        self, replica: Replica, reading: Reading, sheet: Spelled, links: Chain, rid: str
    ) -> tuple[tuple[Looks, ...] | None, int, int]:
        """What a replica says of a sheet, how much it had to read and how much of that was cached."""
        try:
            if self.speller.classes:
                return await self._classes(replica, sheet, links, rid, reading.halt)
            asked = self.speller.asked(reading.sheet)
            body = readout(sheet.ids, asked, sheet.first)
            reply = await replica.ask("/generate", body, rid, links, reading.halt)
            told = reply["meta_info"]
            if told["finish_reason"]["type"] == "abort":
                return _aborted(told, reading.halt)
            by_place = looks(reply, sheet.first)
            pieces = tuple(tuple(by_place[place] for place in places) for places in sheet.places)
            return pieces, told["prompt_tokens"], told["cached_tokens"]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Failure(f"{replica.url} sent nonsense", started=True) from error

    async def _classes(
        self, replica: Replica, sheet: Spelled, links: Chain, rid: str, halt: Halt
    ) -> tuple[tuple[Looks, ...] | None, int, int]:
        """A classifier is read at a text's last token only: the whole sheet first, whose beginnings are then cached but
        for their last tokens, which are read once more."""
        *others, last = (place for places in sheet.places for place in places)
        read = {last: await self._class(replica, sheet, links, last, f"{rid}00000;", halt)}
        if halt.reason is None:
            calls = [
                self._class(replica, sheet, links, place, f"{rid}{i:05};", halt) for i, place in enumerate(others, 1)
            ]
            read.update(zip(others, await asyncio.gather(*calls), strict=True))
        fresh = sum(tokens for _, tokens in read.values())
        told = {place: logits for place, (logits, _) in read.items() if logits is not None}
        if len(told) <= len(others):
            return None, fresh, 0
        pieces = tuple(tuple(told[place] for place in each) for each in sheet.places)
        prompt = max(fresh, len(sheet.ids))
        return pieces, prompt, prompt - fresh

    async def _class(
        self, replica: Replica, sheet: Spelled, links: Chain, place: int, rid: str, halt: Halt
    ) -> tuple[tuple[float, ...] | None, int]:
        """The logits at a place, or None where a halt came first, and how many tokens were read for them. SGLang 0.5
        does not say how much of a text was cached that it classifies: it is what the replica is known to hold."""
        held = 0 if replica.facts.get("disable_radix_cache") else replica.warmth.known(links)
        page = replica.facts.get("page_size") or 1
        known = min(held, place) // page * page
        body = {"input_ids": list(sheet.ids[: place + 1])}
        reply = await replica.ask("/classify", body, rid, links, halt)
        told = reply["meta_info"]
        if told["finish_reason"]["type"] == "abort":
            _aborted(told, halt)
            return None, 0
        cached = int(told["cached_tokens"] or 0) if "cached_tokens" in told else known
        return tuple(reply["embedding"]), told["prompt_tokens"] - cached


async def _asked(url: str, key: str | None, patience: float) -> Replica | BackendError:
    """A replica, or why it is none yet."""
    try:
        return await _replica(url, key, patience)
    except BackendError as failure:
        return failure


async def _replica(url: str, key: str | None, patience: float) -> Replica:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is no address of a server; it begins with http:// or https://")
    if url.rstrip("/").endswith("/v1"):
        raise UsageError(f"{url} is the address of the OpenAI endpoints; leave out /v1: the server's own are asked")
    wire = Wire(url.rstrip("/"), key)
    try:
        return Replica(wire, await ask(wire), patience)
    finally:
        await wire.close()


def _check_same(facts: Facts, prompter: Prompter, replica: Replica) -> None:
    """Refuse a replica of another model, or one that spells otherwise: before it is sent the first token id."""
    mine, theirs = ((basename(each), each.get("weight_version")) for each in (facts.server, replica.facts))
    if mine != theirs:
        raise UsageError(f"{replica.url} serves {theirs[0]}, and the others {mine[0]}; replicas serve the same model")
    check_alike(prompter, facts.folder, replica.url, replica.facts["spelt"])


def _aborted(told: Mapping[str, Any], halt: Halt) -> tuple[None, int, int]:
    """Nothing was read where we had it aborted; else the server did."""
    if halt.reason is None:
        raise Failure(f"a reading was aborted: {told['finish_reason'].get('message')}", started=False)
    return None, 0, 0


def _conversation(path: Path) -> str:
    """What a path shares with the later turns of its conversation: all up to the first question."""
    messages = [part for part in path.start if isinstance(part, Message)]
    first = next((i for i, message in enumerate(messages) if message.role == "user"), 0)
    return digest(repr(path.start[: first + 1] if messages else path.start[:64]))
