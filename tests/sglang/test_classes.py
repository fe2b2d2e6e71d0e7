"""Reward models with a head of their own, served: what the local engine says of the same weights is what they say."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path as File

import pytest

pytest.importorskip("torch", reason="the local backend's extra is not installed")
import transformers

from evals.sglang_cpu import Server
from strategies import BestOfN
from tests.sglang.conftest import connected, serving
from tests.verifiers.test_weights import PROBLEM, saved
from tts.backends.base import Backend, Reader, Reading, Request
from tts.backends.fake import FakeBackend, Reply
from tts.backends.heads import Qwen2ForProcessReward
from tts.backends.local import LocalBackend
from tts.backends.sglang import SGLangBackend
from tts.halt import Halt
from tts.journal import MemoryJournal, Settled
from tts.solve import solve
from tts.strategy import Verifier
from tts.types import Budget, Message, Sheet, Verdicts
from verifiers import OutcomeReward, ProcessReward
from verifiers.process_reward import FORMS

STEPS = ("So it is two.", "Or it is three, or four: who knows?", "The last one then.", "\\boxed{4}")
NUMBERS = count()
CHUNK = 64
"""Tokens that the process reward model's server reads at once: most sheets here are longer."""
PAGE = 16
"""Tokens that the outcome reward model's server caches at once."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, File]:
    """A process reward model, as the checkpoints of Qwen2.5-Math-PRM name themselves, and an outcome reward model."""
    classifier = transformers.LlamaForSequenceClassification
    made = {
        "process": saved(tmp_path_factory.mktemp("process"), "Qwen2", 2, Qwen2ForProcessReward),
        "outcome": saved(tmp_path_factory.mktemp("outcome"), "Llama", 1, classifier),
    }
    for folder in made.values():
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    described = json.loads((made["process"] / "config.json").read_text())
    described["architectures"] = ["Qwen2ForProcessRewardModel"]
    (made["process"] / "config.json").write_text(json.dumps(described))
    return made


@pytest.fixture(scope="module")
def classifiers(folders: dict[str, File]) -> Iterator[dict[str, Server]]:
    """Started together, because each takes a while."""
    wanted = {
        "process": Server(folders["process"], "--is-embedding", "--chunked-prefill-size", str(CHUNK)),
        "outcome": Server(folders["outcome"], "--page-size", str(PAGE)),
    }
    with serving(wanted) as started:
        yield started


def sheet(steps: Sequence[str] = STEPS, skip: int = 0, question: str = "How much is it?") -> Sheet:
    return FORMS["qwen"].sheet((Message(role="user", content=question),), tuple(steps), skip)


def reading(backend: Reader, asked: Sheet, halt: Halt | None = None) -> Reading:
    """One of an id of its own."""
    tokens = backend.sheet_tokens(asked)
    return Reading(id=f"classes:{next(NUMBERS):06};", sheet=asked, prompt_tokens=tokens, halt=halt or Halt())


def here(folder: File, asked: Sheet) -> Verdicts:
    backend = LocalBackend(folder)
    return asyncio.run(backend.read(reading(backend, asked)))


def there(server: Server, *asked: Sheet) -> list[Verdicts]:
    """What a server says of sheets, one after the other."""

    async def read(backend: SGLangBackend) -> list[Verdicts]:
        return [await backend.read(reading(backend, each)) for each in asked]

    return connected([server.url], read)


def logits(verdicts: Verdicts) -> list[float]:
    """All that was said, place by place and class by class."""
    assert verdicts.pieces is not None
    return [value for looks in verdicts.pieces for look in looks for value in look]


def computed(server: Server) -> int:
    """The tokens that a server has read and not taken from its cache."""
    return server.counted("sglang:realtime_tokens_total", mode="prefill_compute")


@pytest.mark.parametrize("skip", [0, 2], ids=["all steps", "later steps"])
def test_the_logits_after_each_step_are_the_local_engines(
    skip: int, classifiers: dict[str, Server], folders: dict[str, File]
) -> None:
    asked = sheet(skip=skip)
    (served,), local = there(classifiers["process"], asked), here(folders["process"], asked)
    assert local.usage.prompt_tokens > 2 * CHUNK
    assert len(served.pieces or ()) == len(STEPS) - skip
    assert logits(served) == pytest.approx(logits(local), abs=1e-3)
    firsts = logits(served)[::2]
    assert max(firsts) - min(firsts) > 0.1, "the places can be told apart"


def test_a_sheet_that_goes_on_by_a_step_reads_that_step_and_bills_what_was_read(
    classifiers: dict[str, Server], folders: dict[str, File]
) -> None:
    server, question = classifiers["process"], "How much is it, if it goes on?"
    sheets = [sheet(STEPS[:n], skip=n - 1, question=question) for n in range(1, len(STEPS) + 1)]
    before = computed(server)
    served = there(server, *sheets)
    fresh = [each.usage.prompt_tokens - each.usage.cached_tokens for each in served]
    lengths = [each.usage.prompt_tokens for each in served]
    assert fresh[1:] == [longer - shorter for shorter, longer in pairwise(lengths)]
    assert sum(fresh[1:]) < 120 < served[-1].usage.cached_tokens
    read = computed(server) - before
    assert read <= sum(fresh) == lengths[-1], "all begin like sheets that others have had read"
    whole = here(folders["process"], sheet(question=question))
    assert [value for each in served for value in logits(each)] == pytest.approx(logits(whole), abs=1e-3)


def test_many_places_of_one_sheet_cost_one_more_token_each(classifiers: dict[str, Server]) -> None:
    server, text = classifiers["process"], "x" * 80
    asked = Sheet(before=f"{next(NUMBERS)}{text}", pieces=STEPS, mark="<extra_0>")
    before = computed(server)
    first, again = there(server, asked, asked)
    assert logits(again) == pytest.approx(logits(first), abs=1e-4)
    billed = [each.usage.prompt_tokens - each.usage.cached_tokens for each in (first, again)]
    assert billed == [first.usage.prompt_tokens, len(STEPS)]
    assert sum(billed) == computed(server) - before


def test_an_outcome_reward_models_logit_is_the_local_engines(
    classifiers: dict[str, Server], folders: dict[str, File]
) -> None:
    for end in ("", "<|im_end|>"):
        asked = Sheet(before=PROBLEM.messages, pieces=("\n\n".join(STEPS),), mark=end)
        (served,) = there(classifiers["outcome"], asked)
        assert len(logits(served)) == 1
        assert logits(served) == pytest.approx(logits(here(folders["outcome"], asked)), abs=1e-3)


def test_what_is_cached_is_counted_in_whole_pages(classifiers: dict[str, Server]) -> None:
    server = classifiers["outcome"]
    asked = Sheet(before=f"{next(NUMBERS):09} pages", pieces=("x" * 57,))
    before = computed(server)
    first, again = there(server, asked, asked)
    assert (again.usage.prompt_tokens, again.usage.cached_tokens) == (72, 4 * PAGE)
    read = [each.usage.prompt_tokens - each.usage.cached_tokens for each in (first, again)]
    assert sum(read) == computed(server) - before


def test_a_halted_reading_says_nothing_and_is_no_fault_of_the_server(classifiers: dict[str, Server]) -> None:
    async def last_of_many(backend: SGLangBackend) -> tuple[Verdicts, list[Verdicts]]:
        halt = Halt()
        asked = [reading(backend, sheet(question=f"{next(NUMBERS)} {'?' * 99}")) for _ in range(100)]
        queue = [asyncio.create_task(backend.read(each)) for each in asked]
        late = asyncio.create_task(backend.read(reading(backend, sheet(question="!" * 99), halt)))
        await asyncio.sleep(0.2)
        halt.set("cancelled")
        told, failures = await late, backend.replicas[0].breaker._failures
        assert failures == 0
        return told, await asyncio.gather(*queue)

    late, others = connected([classifiers["process"].url], last_of_many)
    assert late.pieces is None
    assert late.usage.prompt_tokens == 0
    assert all(each.pieces for each in others)


def stepping(request: Request) -> Reply:
    """Some steps, and an answer."""
    draw = random.Random(request.seed)
    steps = [f"It is {draw.randint(1, 99)}." for _ in range(draw.randint(0, 4))]
    return Reply("\n\n".join((*steps, f"\\boxed{{{draw.randint(1, 9)}}}")))


async def best(backend: Backend, verifier: Verifier) -> tuple[str, list[float]]:
    """The sample chosen, and all that was said of all samples."""
    journal, models = MemoryJournal(), {"policy": FakeBackend(stepping), "verifier": backend}
    result = await solve(PROBLEM, BestOfN(n=8), models, budget=Budget(tokens=9_000), scorer=verifier, journal=journal)
    assert result.answer is not None
    assert result.usage["verifier"].prompt_tokens > result.usage["verifier"].cached_tokens > 0
    settled = sorted((each for each in journal.records if isinstance(each, Settled)), key=lambda each: each.key)
    return result.answer.path.text, [value for each in settled if each.verdicts for value in logits(each.verdicts)]


@pytest.mark.parametrize(
    ("name", "verifier"),
    [("process", ProcessReward(form="qwen")), ("outcome", OutcomeReward())],
    ids=["process", "outcome"],
)
def test_the_best_of_many_is_the_one_that_the_local_engine_chooses(
    name: str, verifier: Verifier, classifiers: dict[str, Server], folders: dict[str, File]
) -> None:
    chosen, said = connected([classifiers[name].url], lambda backend: best(backend, verifier))
    expected, wanted = asyncio.run(best(LocalBackend(folders[name]), verifier))
    assert chosen == expected
    assert len(set(wanted)) > 4
    assert said == pytest.approx(wanted, abs=1e-3)
