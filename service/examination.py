"""What `tts doctor` looks at: settings that a server reports, and trials of what it does. A new one is a line."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any, ClassVar, Literal, NamedTuple

from tts.backends.prompt import Prompter
from tts.backends.sglang import SGLangBackend
from tts.backends.sglang.about import SAME
from tts.backends.sglang.replica import Replica, capacity_of
from tts.backends.sglang.wire import Wire, readout, said
from tts.errors import UsageError, counted
from tts.journal import Record, Settled
from tts.run import Run
from tts.solve import solve
from tts.strategy import Strategy, Verifier
from tts.types import Answer, Budget, Need, Noun, Path, Problem, Verdicts

Status = Literal["ok", "warning", "problem"]
Facts = Mapping[str, Any]

PROBLEM = "What is 12 * 17?"
GOOD = "12 * 17 = 12 * 10 + 12 * 7.\n\n12 * 10 = 120 and 12 * 7 = 84.\n\n120 + 84 = 204."
BAD = "12 * 17 = 12 * 10 + 12 * 7.\n\n12 * 10 = 120 and 12 * 7 = 84.\n\n120 + 84 = 194."
AWKWARD = ("  spaces, a\ttab", "naïve café — 数学 🙂 e\u0301", "\n\n\n  lines  \n", "x=1+1\n=2", "don't ; 3.14 , ok .")
"""Texts that tokenizers disagree about; one that a model has no letters for is left out."""
LIMIT, OPENING = 15.0, 20.0
"""Seconds that a check, and getting to know a server, may take."""
SLOW = 0.5
"""Seconds after which an answer that needs no model is late."""
TOKENS, LONG = 48, 1024
"""Tokens of a sample, and of the generation that is aborted."""
ABORTING = 2.0
"""Seconds within which an aborted generation has to end."""
ROUNDING = 0.25
"""Log-probabilities that differ by less may come from kernels that round differently: the step of bfloat16 logits."""
SHORTEST = 256
"""Tokens of KV cache for each request below which they are more than a server can hold, whatever they are."""
NEGLIGIBLE = 0.01
"""The chance of all answers together below which a model does not answer what it is asked."""
LONGEST_PAGE = 16
COLOURS: Mapping[Status, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
LOG = "see the server's log"
FOLDER = "use the tokenizer that the server uses: its --tokenizer-path and the folder read here hold different ones"
BETWEEN = "let /v1/loads and /abort_request through, whatever lies between"
WORKERS = "name the workers behind a router themselves: sglang:URL,URL"


class Outcome(NamedTuple):
    """How a check came out: what was seen and, where that is not well, the way out."""

    status: Status
    seen: str
    way_out: str = ""


def ok(seen: str) -> Outcome:
    """All is well."""
    return Outcome("ok", seen)


class Finding(Noun):
    """The outcome of one check of one server, or of all in a role."""

    role: str
    server: str
    check: str
    status: Status
    seen: str
    way_out: str


@dataclass(frozen=True)
class Case:
    """What servers are tried with: a problem, a good and a bad solution of it, and the verifier that is to know."""

    problem: Problem
    good: str
    bad: str
    verifier: Verifier | None = None


@dataclass(eq=False)
class Patient:
    """One server under examination."""

    role: str
    url: str
    backend: SGLangBackend
    case: Case

    @property
    def replica(self) -> Replica:
        return self.backend.replicas[0]

    @property
    def facts(self) -> Facts:
        return self.replica.facts

    @property
    def prompter(self) -> Prompter:
        return self.backend.speller.prompter

    @cached_property
    def engines(self) -> Sequence[Wire]:
        """The server, or those behind it if it is a router."""
        wire = self.replica.wire
        return [wire.to(url) for url in self.facts.get("workers") or ()] or [wire]

    async def leave(self) -> None:
        """Let go of all connections."""
        for wire in self.engines:
            await wire.close()
        await self.backend.aclose()

    @cached_property
    def prompt(self) -> tuple[int, ...]:
        """The problem's ids."""
        try:
            return self.prompter.start_ids(self.case.problem.messages)
        except UsageError as error:
            raise UsageError(f"{self.backend.info.name}: {error}; or name a problem for it: --problem TEXT") from error

    @property
    def room(self) -> int:
        """How many tokens fit after the prompt."""
        return self.backend.info.context - len(self.prompt) - 1

    @cached_property
    def sample(self) -> asyncio.Task[Any]:
        """A continuation of the prompt that several checks look at, drawn once; to be shielded from their time-outs."""
        return asyncio.create_task(self.greedy(self.prompt, min(TOKENS, self.room)))

    async def greedy(self, ids: Sequence[int], tokens: int, stop: Sequence[str] = ()) -> Any:
        """The likeliest so many tokens after `ids`, also where the model would end."""
        return await self.post("/generate", {**_generation(ids, tokens, stop), "return_logprob": True})

    async def prefilled(self, ids: Sequence[int]) -> list[float]:
        """The log-probabilities of `ids` after the prompt, read and not generated."""
        body = readout((*self.prompt, *ids), ids[-1:], len(self.prompt) - 1)
        told = (await self.post("/generate", body))["meta_info"]
        return [row[0] for row in told["input_token_logprobs"][-len(ids) :]]

    async def post(self, path: str, body: Any) -> Any:
        """An answer, to a question that goes through a router only if it is one for a model."""
        wire = self.replica.wire if path == "/generate" else self.engines[0]
        return await wire.post(path, body, LIMIT)

    def spelled(self, *texts: str) -> dict[str, list[int]]:
        """The ids of those texts that the model has letters for."""
        found: dict[str, list[int]] = {}
        for text in texts:
            try:
                found[text] = self.prompter.encode(text)
            except UsageError:
                continue
        return found


def _generation(ids: Sequence[int], tokens: int, stop: Sequence[str] = ()) -> dict[str, Any]:
    sampling = {
        "max_new_tokens": tokens,
        "temperature": 0.0,
        "stop": list(stop),
        "ignore_eos": True,
        "no_stop_trim": True,
        "skip_special_tokens": False,
        "stream_interval": 1,
    }
    return {"input_ids": list(ids), "sampling_params": sampling}


class Setting(NamedTuple):
    """Something that should hold of what a server says of itself: what is said where it does, and where not."""

    check: str
    holds: Callable[[Facts], Any]
    yes: str
    no: str
    otherwise: Status
    way_out: str

    def outcome(self, facts: Facts) -> Outcome:
        if self.holds(facts):
            return Outcome("ok", self.yes.format_map(facts))
        return Outcome(self.otherwise, self.no.format_map(facts), self.way_out)


SETTINGS = (
    Setting(
        "version", lambda f: str(f["version"]).startswith("0.5."), "SGLang {version}",
        "SGLang {version}: only 0.5 is known here", "warning", "serve with SGLang 0.5",
    ),
    Setting(
        "address", lambda f: not f["workers"], "the server itself",
        "a router, which places calls its own way; settings are those of the first of {workers}", "warning", WORKERS,
    ),
    Setting(
        "metrics", lambda f: f["enable_metrics"], "on",
        "off: nobody can count what was served", "warning", "--enable-metrics",
    ),
    Setting(
        "cache report", lambda f: f["enable_cache_report"], "on",
        "off: chat clients are not told what was cached", "warning", "--enable-cache-report",
    ),
    Setting(
        "prefix cache", lambda f: not f["disable_radix_cache"], "on",
        "off: every step reads its whole path again", "problem", "start without --disable-radix-cache",
    ),
    Setting(
        "page size", lambda f: (f["page_size"] or 1) <= LONGEST_PAGE, "{page_size}",
        "{page_size}: every branch may read so many tokens again", "warning", "--page-size 1",
    ),
    Setting(
        "room", lambda f: f["fitting"] >= 2, "{fitting} of full context side by side: {capacity}",
        "fewer than 2 of full context fit side by side: {capacity}", "warning",
        "a higher --mem-fraction-static or --max-running-requests, or a lower --context-length",
    ),
    Setting(
        "schedule", lambda f: f["schedule_policy"] in ("fcfs", "lpm"), "{schedule_policy}",
        "{schedule_policy}: what was asked first may come last", "warning", "--schedule-policy fcfs",
    ),
    Setting(
        "tokenizers", lambda f: (f["tokenizer_worker_num"] or 1) == 1, "1 worker",
        "{tokenizer_worker_num} workers: aborts are broadcast", "warning", "--tokenizer-worker-num 1",
    ),
)  # fmt: skip
"""Of policies and verifiers."""

POLICY_SETTINGS = (
    *SETTINGS,
    Setting(
        "original log-probs", lambda f: f["original_logprobs"], "log-probabilities are the model's own",
        "log-probabilities are those after the temperature: confidence is refused", "problem",
        "start with SGLANG_RETURN_ORIGINAL_LOGPROB=1 in the environment",
    ),
    Setting(
        "streams", lambda f: f["incremental_streaming_output"], "incremental",
        "each piece repeats all before it: quadratic in a text's length", "warning", "--incremental-streaming-output",
    ),
    Setting(
        "requests at once", lambda f: f["each"] >= SHORTEST, "{at_once}, with {each} tokens of KV cache each",
        "{at_once}, with {each} tokens of KV cache each: a full cache retracts requests and reads them again",
        "warning", "--max-running-requests N, the tokens of KV cache divided by a path's mean length",
    ),
    Setting(
        "determinism", lambda f: f["enable_deterministic_inference"], "on: seeds of requests hold",
        "off: seeds of requests are ignored", "ok", "--enable-deterministic-inference, if they are wanted",
    ),
)  # fmt: skip


def known(facts: Facts) -> Facts:
    """The facts, None for those that a server does not name, and what follows from them."""
    total, context, at_once = facts["max_total_num_tokens"], facts["max_req_input_len"], capacity_of(facts)
    return defaultdict(
        lambda: None,
        {
            **facts,
            "at_once": at_once,
            "each": total // max(1, at_once),
            "fitting": min(at_once, total // max(1, context)),
            "capacity": f"{total:,} tokens of KV cache, {context:,} of context, {at_once:,} requests at once",
        },
    )


async def reachable(patient: Patient) -> Outcome:
    """Whether it is well by its own account, which takes a token and a second, and how fast it answers."""
    await patient.replica.wire.text("/health", LIMIT)
    began = time.monotonic()
    await patient.engines[0].get("/model_info", LIMIT)
    took = time.monotonic() - began
    seen = f"{patient.backend.info.name} is well, and answers in {took * 1e3:,.0f} ms"
    return ok(seen) if took < SLOW else Outcome("warning", seen, "ask from nearer by, or when it has less to do")


async def loads(patient: Patient) -> Outcome:
    """Whether it says how busy it is: calls are placed by that."""
    told = await asyncio.gather(*(engine.get("/v1/loads?include=core", LIMIT) for engine in patient.engines))
    each = [load for answer in told for load in answer["loads"]]
    running, waiting = (sum(load[f"num_{what}_reqs"] for load in each) for what in ("running", "waiting"))
    return ok(f"{running} running, {waiting} waiting")


async def tokenizer(patient: Patient) -> Outcome:
    """A problem that is spelled differently is another model's; an awkward text may only be read less well."""
    question = patient.case.problem.messages[-1].content
    ours = patient.spelled(question, *AWKWARD)
    theirs = (await patient.post("/v1/tokenize", {"prompt": [*ours], "add_special_tokens": False}))["tokens"]
    wrong = [text for (text, ids), other in zip(ours.items(), theirs, strict=True) if ids != other]
    if not wrong:
        return ok(f"{counted(len(ours), 'text')} spelled alike")
    seen = f"{wrong[0]!r} is spelled differently here and there"
    if question in wrong:
        return Outcome("problem", f"{seen}; nothing that sends token ids was tried", FOLDER)
    return Outcome("warning", seen, FOLDER)


async def template(patient: Patient) -> Outcome:
    """A chat template of the server's own is no harm: it is sent token ids. But one of the two is not the model's."""
    messages = [message.model_dump() for message in patient.case.problem.messages]
    theirs = (await patient.post("/v1/tokenize", {"messages": messages}))["tokens"]
    if tuple(theirs) == patient.prompt:
        return ok(f"makes the same {counted(len(theirs), 'token')} of the problem")
    seen = f"makes {counted(len(theirs), 'token')} of the problem and ours {len(patient.prompt)}; ours are sent"
    return Outcome("warning", seen, "start without --chat-template, or put that template beside the tokenizer")


async def decoding(patient: Patient) -> Outcome:
    """Also of a special token that somebody spells: it has to be text."""
    added = json.loads(patient.backend.tokenizer.read_text(encoding="utf-8")).get("added_tokens", ())
    special = [token["content"] for token in added][:1]
    ours = patient.spelled(patient.case.problem.messages[-1].content, *AWKWARD, *special)
    theirs = (await patient.post("/v1/detokenize", {"tokens": [*ours.values()]}))["text"]
    for ids, there in zip(ours.values(), theirs, strict=True):
        if (here := patient.prompter.decode(ids)) != there:
            return Outcome("warning", f"what here reads {here!r} is {there!r} there", FOLDER)
    forged = "".join(f", {each} as text" for each in special if each in ours)
    return ok(f"{counted(len(ours), 'text')} read alike{forged}")


async def log_probabilities(patient: Patient) -> Outcome:
    """Whether a token is as likely when it is generated as when it is read."""
    told = (await asyncio.shield(patient.sample))["meta_info"]["output_token_logprobs"]
    read = await patient.prefilled([row[1] for row in told])
    gap = max(abs(row[0] - other) for row, other in zip(told, read, strict=True))
    seen = f"of {counted(len(read), 'token')}, generated and read again, differ by at most {gap:.2g}"
    if gap < SAME:
        return ok(seen)
    way_out = "confidence is no more exact than that; --dtype float32 or another --attention-backend is"
    return Outcome("warning" if gap < ROUNDING else "problem", seen, way_out)


async def continuation(patient: Patient) -> Outcome:
    """Whether a text that was broken off in the middle goes on as it would have."""
    ids = (await asyncio.shield(patient.sample))["output_ids"]
    begun, rest = ids[: len(ids) // 2], ids[len(ids) // 2 :]
    other = (await patient.greedy((*patient.prompt, *begun), len(rest)))["output_ids"]
    same = next((i for i, (a, b) in enumerate(zip(rest, other, strict=True)) if a != b), None)
    if same is None:
        return ok(f"from token {len(begun)}, the same {len(rest)} as without a break")
    mine, theirs = [(await patient.prefilled([*begun, *each[: same + 1]]))[-1] for each in (rest, other)]
    seen = f"from token {len(begun)}, another token after {same} than without a break"
    if abs(mine - theirs) < ROUNDING:
        return ok(f"{seen}, which is as likely")
    return Outcome(
        "problem", f"{seen}, {abs(mine - theirs):.2g} apart", "another --attention-backend or --kv-cache-dtype"
    )


async def abort(patient: Patient) -> Outcome:
    """Whether a generation ends when it is told to: all budgets in seconds rest on it."""
    wire, tokens, first, made, began = patient.replica.wire, min(LONG, patient.room), 0, 0, 0.0
    rid = f"doctor-{secrets.token_hex(8)};"
    async for event in wire.stream("/generate", {**_generation(patient.prompt, tokens), "rid": rid, "stream": True}):
        made = said([event], deltas=False).made
        if not first:
            first, began = made, time.monotonic()
            await asyncio.gather(*(each.post("/abort_request", {"rid": rid}, LIMIT) for each in patient.engines))
    took = time.monotonic() - began
    seen = f"ended {took:.2f} s after its abort, with {counted(made - first, 'token')} more of {tokens - first:,}"
    if took < ABORTING and made - first < tokens / 4:
        return ok(seen)
    return Outcome("problem", seen, BETWEEN)


async def cached_tokens(patient: Patient) -> Outcome:
    """Whether a prompt that was read before is read no more, and said to be."""
    page = patient.facts.get("page_size") or 1
    ids = (patient.prompt * (1 + 4 * page // len(patient.prompt)))[: patient.backend.info.context - 1]
    _, again = [(await patient.greedy(ids, 1))["meta_info"] for _ in range(2)]
    seen = f"{again['cached_tokens']} of {len(ids)} of a prompt that was there before"
    if again["cached_tokens"] >= len(ids) - page - 1:
        return ok(seen)
    way_out = "start without --disable-radix-cache; instead of --dp-size, serve replicas with an address each"
    return Outcome("problem", seen, way_out)


async def stop_strings(patient: Patient) -> Outcome:
    """Whether a text ends after a stop string, with it."""
    whole = (await asyncio.shield(patient.sample))["text"]
    stop = whole[len(whole) // 2 :][:2]
    told = await patient.greedy(patient.prompt, min(TOKENS, patient.room), [stop])
    if told["meta_info"]["finish_reason"].get("matched") != stop:
        return Outcome("problem", f"it does not stop at {stop!r}", "serve with SGLang 0.5")
    if stop not in told["text"]:
        return Outcome("problem", f"{stop!r} is cut off, so steps lose their ends", "serve with SGLang 0.5")
    return ok(f"{stop!r} stops and stays in the text")


async def telling_apart(patient: Patient) -> Outcome:
    """The verifier does what it does in a job: one that cannot read says so here."""
    pair = (patient.case.good, patient.case.bad)
    good, bad = await asyncio.gather(*(_weighed(patient, each) for each in pair))
    if good.score is None or bad.score is None:
        return Outcome("problem", f"no score: {'; '.join(good.notes) or 'nothing was read'}", LOG)
    seen = f"{good.score:.3g} for a good solution and {bad.score:.3g} for a bad one"
    if good.mass is not None and good.mass < NEGLIGIBLE:
        seen += f", and of a good one it says what it is asked about with a chance of {good.mass:.1g}"
        return Outcome("warning", seen, "serve a model that was trained for this form, or choose its own form=…")
    if good.score > bad.score:
        return ok(seen)
    way_out = "choose another --verifier-param form=…, or name a pair such as it was trained on: --problem --good --bad"
    return Outcome("warning", seen, way_out)


class Weighing(Strategy):
    """Scores one solution that is there already."""

    name: ClassVar[str] = "weighing"
    when: ClassVar[str] = "To try a verifier."
    text: str

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"scores"})

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        (path,) = await run.score([Path.of(problem).append(self.text)])
        yield Answer(text=self.text, path=path, extracted=True, support=0.0, chosen=self.name)


class Weight(NamedTuple):
    """What a verifier says of a solution; `mass` is the chance, at the median of the places looked at, that its model
    says any of the tokens that it is asked about. None where it is asked about classes, or nothing was read."""

    score: float | None
    mass: float | None
    notes: Sequence[str]


async def _weighed(patient: Patient, text: str) -> Weight:
    verifier, read = patient.case.verifier, list[Verdicts]()
    assert verifier is not None
    assert verifier.reads is not None

    def observe(record: Record) -> None:
        if isinstance(record, Settled) and record.verdicts is not None:
            read.append(record.verdicts)

    models = {"policy": patient.backend, verifier.reads: patient.backend}
    result = await solve(
        patient.case.problem,
        Weighing(text=text),
        models,
        budget=Budget(seconds=LIMIT / 2),
        scorer=verifier,
        observe=observe,
    )
    score = result.answer.path.score if result.answer else None
    mass = None if patient.backend.speller.classes else _mass(read)
    return Weight(score.value if score else None, mass, result.notes)


def _mass(read: Sequence[Verdicts]) -> float | None:
    places = [sum(map(math.exp, look)) for verdicts in read for looks in verdicts.pieces or () for look in looks]
    return median(places) if places else None


class Check(NamedTuple):
    """Something that is tried on a server; how bad it is where it cannot be tried, and what to do then. One that
    `sends_ids` is not tried on a server that spells otherwise: they may be ids that it has no token for, and end it."""

    name: str
    tried: Callable[[Patient], Awaitable[Outcome]]
    failing: Status = "problem"
    way_out: str = LOG
    sends_ids: bool = True


SPELLING = Check("tokenizer", tokenizer, "warning", "serve with SGLang 0.5", sends_ids=False)
"""Comes before the others."""
CHECKS = (
    Check("load report", loads, way_out=BETWEEN, sends_ids=False),
    Check("decoding", decoding, "warning", "serve with SGLang 0.5"),
)
TRIED: Mapping[str, Sequence[Check]] = {
    "policy": (
        *CHECKS,
        Check("chat template", template, "warning", "none, if the model has no chat template", sends_ids=False),
        Check("log-probabilities", log_probabilities),
        Check("continuation", continuation),
        Check("abort", abort, way_out=BETWEEN),
        Check("cached tokens", cached_tokens),
        Check("stop strings", stop_strings),
    ),
    "verifier": (*CHECKS, Check("good and bad", telling_apart)),
}
HELD: Mapping[str, Sequence[Setting]] = {"policy": POLICY_SETTINGS, "verifier": SETTINGS}
