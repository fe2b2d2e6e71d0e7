"""`tts doctor`: whether SGLang servers are fit for this work, and what is to be changed where they are not."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import click
from rich.console import Console
from rich.text import Text

from service.display import working
from service.examination import (
    BAD,
    COLOURS,
    GOOD,
    HELD,
    LIMIT,
    LOG,
    OPENING,
    PROBLEM,
    SPELLING,
    TRIED,
    Case,
    Check,
    Finding,
    Outcome,
    Patient,
    Status,
    known,
    ok,
    reachable,
)
from service.options import ask, profile_of, spelled_out, verifier_of
from service.progress import progress
from tts.backends.sglang import SGLangBackend
from tts.backends.sglang.likeness import ForeignTokenizer
from tts.backends.sglang.wire import Failure
from tts.errors import BackendError, TTSError, UsageError, counted
from tts.strategy import Verifier

T = TypeVar("T")


class Server(NamedTuple):
    """One of those to be examined: what it serves as, where, and what its profile says of it."""

    role: str
    url: str
    settings: Mapping[str, Any]


def finding(patient: Patient, check: str, outcome: Outcome) -> Finding:
    """An outcome, and whose it is."""
    return Finding(role=patient.role, server=patient.url, check=check, **outcome._asdict())


async def tried(patient: Patient, check: Check) -> Finding:
    """The check's outcome, whatever the server does."""
    try:
        async with asyncio.timeout(LIMIT):
            outcome = await check.tried(patient)
    except TimeoutError:
        outcome = Outcome(check.failing, f"not through within {LIMIT:.0f} s", check.way_out)
    except (Failure, TTSError) as error:
        outcome = complaint(error, check.failing, check.way_out)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        outcome = Outcome(check.failing, f"answered what cannot be read: {error!r}", check.way_out)
    return finding(patient, check.name, outcome)


def complaint(error: Exception, status: Status = "problem", way_out: str = LOG) -> Outcome:
    """An error as an outcome; after a semicolon it says what helps."""
    seen, _, helps = str(error).partition("; ")
    return Outcome(status, seen, helps or way_out)


def alike(patients: Sequence[Patient]) -> Outcome:
    """Whether all serve the same."""
    first, *others = patients
    for each in others:
        if each.backend.info.fingerprint != first.backend.info.fingerprint:
            seen = f"{each.url} serves {_served(each)}, and {first.url} {_served(first)}, or with another tokenizer"
            return Outcome("problem", seen, "serve the same model with the same weights, or make two deployments of it")
    versions = sorted({str(each.facts.get("version")) for each in patients})
    if len(versions) > 1:
        return Outcome("warning", f"SGLang {' and '.join(versions)}", "serve with the same SGLang everywhere")
    return ok(f"{_served(first)} on {counted(len(patients), 'server')}")


def _served(patient: Patient) -> str:
    return f"{patient.backend.info.name} (weights {patient.facts.get('weight_version')})"


async def admitted(server: Server, case: Case) -> Patient:
    """A server that says what it is. Raises `BackendError` or `UsageError` where it does not."""
    role, url, settings = server
    try:
        async with asyncio.timeout(OPENING):
            patient = Patient(role, url, await SGLangBackend.open([url], **settings), case)
    except TimeoutError as error:
        raise BackendError(f"{url} does not say what it serves within {OPENING:.0f} s; is it ready?") from error
    except (KeyError, TypeError, ValueError) as error:
        raise BackendError(f"{url} does not say what it serves ({error!r}); is it an SGLang server?") from error
    if role == "policy" and not patient.facts.get("is_generation", True):
        raise UsageError(f"{url} judges texts and writes none; it is a verifier: --verifier prm@sglang:{url}")
    return patient


async def examine(servers: Sequence[Server], case: Case) -> list[Finding]:
    """Everything found about servers, each a role and an address. Raises an error of theirs where none can be asked."""
    with working(f"asking {counted(len(servers), 'server')} what they serve"):
        opened = await asyncio.gather(*(admitted(each, case) for each in servers), return_exceptions=True)
    patients = [each for each in opened if isinstance(each, Patient)]
    try:
        return [*_refused(servers, opened), *_together(patients), *await _examined(patients)]
    finally:
        for patient in patients:
            await patient.leave()


def _refused(servers: Sequence[Server], opened: Sequence[Patient | BaseException]) -> list[Finding]:
    pairs = zip(servers, opened, strict=True)
    errors = [(server.role, server.url, each) for server, each in pairs if isinstance(each, BaseException)]
    nobody = len(errors) == len(servers) and not any(isinstance(each, ForeignTokenizer) for _, _, each in errors)
    for _, _, error in errors:
        if nobody or not isinstance(error, TTSError):
            raise error
    return [
        Finding(role=role, server=url, check=_failed(error), **complaint(error)._asdict())  # type: ignore[arg-type]
        for role, url, error in errors
    ]


def _failed(error: BaseException) -> str:
    """The check that a server did not pass which was not admitted."""
    return "tokenizer" if isinstance(error, ForeignTokenizer) else "reachable"


def _together(patients: Sequence[Patient]) -> list[Finding]:
    """Of the replicas of a role, what they have in common."""
    groups = {role: [each for each in patients if each.role == role] for role in TRIED}
    return [
        Finding(role=role, server="all replicas", check="same model", **alike(group)._asdict())
        for role, group in groups.items()
        if len(group) > 1
    ]


async def _examined(patients: Sequence[Patient]) -> list[Finding]:
    """What each says of itself, and what it does; how fast it is before it has anything else to do."""
    for patient in patients:
        assert patient.prompt  # a problem that cannot be spelled is refused before anything is asked
    first = await asyncio.gather(*(tried(each, Check("reachable", reachable)) for each in patients))
    told = [finding(each, held.check, held.outcome(known(each.facts))) for each in patients for held in HELD[each.role]]
    spelt = await asyncio.gather(*(tried(each, SPELLING) for each in patients))
    checks = [
        tried(each, check)
        for each, alike in zip(patients, spelt, strict=True)
        for check in TRIED[each.role]
        if alike.status != "problem" or not check.sends_ids
    ]
    found = [*first, *told, *spelt, *await _with_progress(checks)]
    return [each for patient in patients for each in found if (each.role, each.server) == (patient.role, patient.url)]


async def _with_progress(checks: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    with progress("checks", len(checks)) as observe:
        done = 0

        async def counted_off(check: Coroutine[Any, Any, T]) -> T:
            nonlocal done
            outcome = await check
            done += 1
            observe(done, done)
            return outcome

        return await asyncio.gather(*map(counted_off, checks))


def doctor(backend: str, options: Mapping[str, Any]) -> int:
    """Examine a deployment and print what was found. Returns the exit code."""
    verifier = verifier_asked(backend, options)
    reader = getattr(verifier, "model", "")
    if verifier is not None and (verifier.reads is None or not reader):
        raise UsageError(f"{verifier.name} is read by no server; name a verifier that is: --verifier prm@sglang:URL")
    servers = [*servers_of("policy", backend), *(servers_of("verifier", reader) if verifier else ())]
    findings = asyncio.run(examine(servers, case_of(verifier, options)))
    show(findings, options["as_json"])
    return int(any(each.status == "problem" for each in findings))


def verifier_asked(backend: str, options: Mapping[str, Any]) -> Verifier | None:
    """The verifier that was named, else that of the profile, if SGLang servers read for it."""
    if options["verifier"]:
        return verifier_of(options["verifier"], options["verifier_params"])
    found = profile_of(backend)
    own = verifier_of(found[0].verifier, options["verifier_params"]) if found and found[0].verifier else None
    served = own is not None and spelled_out(getattr(own, "model", ""))[0] == "sglang"
    return own if served else None


def case_of(verifier: Verifier | None, options: Mapping[str, Any]) -> Case:
    """The caller's problem with its solutions, or ours; a verifier needs all three of one kind."""
    given = [options[name] for name in ("problem", "good", "bad")]
    if verifier is not None and any(given) and not all(given):
        raise UsageError("--problem, --good and --bad belong together; name a problem, a good and a bad solution of it")
    problem, good, bad = (mine or usual for mine, usual in zip(given, (PROBLEM, GOOD, BAD), strict=True))
    return Case(ask(problem, "text", "", options["step_end"]), good, bad, verifier)


def servers_of(role: str, backend: str) -> list[Server]:
    """The servers that a backend names."""
    scheme, urls, settings = spelled_out(backend)
    listed = list(dict.fromkeys(url.rstrip("/") for url in urls.split(",") if url))
    if scheme != "sglang" or not listed:
        raise UsageError(f"only SGLang servers are examined, and {backend!r} names none; give sglang:http://HOST:PORT")
    return [Server(role, url, settings) for url in listed]


def show(findings: Sequence[Finding], as_json: bool) -> None:
    """One line each, server by server; or one JSON list."""
    if as_json:
        click.echo(json.dumps([each.model_dump() for each in findings], ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    for (role, server), group in groupby(findings, key=lambda each: (each.role, each.server)):
        console.print(Text(f"{role} {server}", style="bold"))
        for each in group:
            console.print(_line(each))
    counts = Counter(each.status for each in findings)
    bad = ", ".join(counted(counts[status], status) for status in ("problem", "warning"))
    console.print(f"{bad}, {counts['ok']} ok")


def _line(finding: Finding) -> Text:
    way_out = f" → {finding.way_out}" if finding.way_out else ""
    seen = " ".join(finding.seen.split())
    return Text.assemble(
        (f"  {finding.status:<9}", COLOURS[finding.status]), (f"{finding.check:<20}", "dim"), seen, (way_out, "bold")
    )
