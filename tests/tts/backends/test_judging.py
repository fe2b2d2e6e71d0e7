"""Reading sheets: the places looked at, what is said there, and what it costs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the local backend's extra is not installed")

from tts.backends.base import Reading  # noqa: E402
from tts.backends.judging import Judging, Row  # noqa: E402
from tts.backends.local import LocalBackend  # noqa: E402
from tts.backends.prefill import TOKENS_AT_ONCE  # noqa: E402
from tts.backends.prompt import Prompter  # noqa: E402
from tts.backends.spelling import spell  # noqa: E402
from tts.errors import UsageError  # noqa: E402
from tts.halt import Halt  # noqa: E402
from tts.types import Message, Sheet, Verdicts  # noqa: E402

QUESTION = (Message(role="user", content="how much?"),)


@pytest.fixture(scope="module")
def backend(folder: Path) -> LocalBackend:
    return LocalBackend(folder)


def read(backend: LocalBackend, *sheets: Sheet, job: str = "j", halt: Halt | None = None) -> list[Verdicts]:
    async def main() -> list[Verdicts]:
        readings = [
            Reading(id=f"{job}:{i};", sheet=sheet, prompt_tokens=backend.sheet_tokens(sheet), halt=halt or Halt())
            for i, sheet in enumerate(sheets)
        ]
        return list(await asyncio.gather(*map(backend.read, readings)))

    return asyncio.run(main())


def plain(backend: LocalBackend, ids: list[int], ask: str) -> list[list[float]]:
    """The log-probability of each asked token after every place, by one plain pass."""
    with torch.inference_mode():
        logits = backend._model(torch.tensor([ids])).logits[0].double()
    wanted = [backend._prompter.token(each) for each in ask]
    found: list[list[float]] = torch.log_softmax(logits, -1)[:, wanted].tolist()
    return found


def near(found: Any, expected: Any) -> bool:
    return bool(torch.allclose(torch.tensor(found), torch.tensor(expected, dtype=torch.float32), atol=1e-4))


def test_a_mark_is_looked_at_and_the_pieces_between_are_read(backend: LocalBackend) -> None:
    sheet = Sheet(before=QUESTION, pieces=("one", "three", "x"), mark="!", ask=("+", "-"))
    ids = [*backend._prompter.start_ids(QUESTION), *map(backend._prompter.token, "one!three!x!")]
    places = [i for i, token in enumerate(ids) if token == backend._prompter.token("!")]
    (verdicts,) = read(backend, sheet)
    assert verdicts.pieces is not None
    expected = plain(backend, ids, "+-")
    assert near([piece[0] for piece in verdicts.pieces], [expected[place] for place in places])
    assert verdicts.usage.prompt_tokens == len(ids)
    assert verdicts.usage.completion_tokens == 0


def test_every_token_of_a_piece_can_be_looked_at(backend: LocalBackend) -> None:
    sheet = Sheet(before="say", pieces=("ab", "c"), mark="!", ask=("+",), place="token")
    (verdicts,) = read(backend, sheet)
    assert verdicts.pieces is not None
    assert [len(piece) for piece in verdicts.pieces] == [3, 2]
    ids = [backend._prompter.token(each) for each in "sayab!c!"]
    assert near([look for piece in verdicts.pieces for look in piece], plain(backend, ids, "+")[3:])


def test_turns_are_looked_at_before_the_assistants_answer(backend: LocalBackend) -> None:
    sheet = Sheet(before=(), pieces=("ab", "c"), mark="+", ask=("+", "-"), place="piece", turns=True)
    (verdicts,) = read(backend, sheet)
    text = "{0}user\nab{1}\n{0}assistant\n+{1}\n{0}user\nc{1}\n{0}assistant\n"
    ids: list[int] = []
    for part in text.replace("{0}", "\0<").replace("{1}", "\0>").split("\0"):
        special = {"<": "<|im_start|>", ">": "<|im_end|>"}.get(part[:1])
        ids += [backend._prompter.token_id(special)] if special else []  # type: ignore[list-item]
        ids += map(backend._prompter.token, part[1:])
    expected = plain(backend, ids, "+-")
    first = len(ids) - len("{user\nc}\n{assistant\n") - len("+}\n") - 1
    assert verdicts.pieces is not None
    assert near([piece[0] for piece in verdicts.pieces], [expected[first], expected[-1]])


def test_what_was_judged_before_is_skipped_and_says_the_same(backend: LocalBackend) -> None:
    whole = Sheet(before=QUESTION, pieces=("one", "two", "three"), mark="!", ask=("+", "-"))
    later = whole.model_copy(update={"skip": 2})
    (all_of_it,) = read(backend, whole, job="a")
    (first,) = read(backend, whole.model_copy(update={"pieces": whole.pieces[:2]}), job="b")
    (rest,) = read(backend, later, job="b")
    assert all_of_it.pieces is not None
    assert first.pieces is not None
    assert rest.pieces is not None
    assert near([*first.pieces, *rest.pieces], all_of_it.pieces)
    assert rest.usage.cached_tokens == first.usage.prompt_tokens
    assert rest.usage.prompt_tokens - rest.usage.cached_tokens == len("three!")


def test_sheets_of_any_lengths_read_together_say_what_each_says_alone(backend: LocalBackend) -> None:
    sheets = [Sheet(before=QUESTION, pieces=("x" * n, "y" * (40 - n)), mark="!", ask=("+",)) for n in (1, 30, 7, 19)]
    together = read(backend, *sheets, job="together")
    alone = [read(backend, sheet, job=f"alone{i}")[0] for i, sheet in enumerate(sheets)]
    assert near([each.pieces for each in together], [each.pieces for each in alone])
    begun = len(backend._prompter.start_ids(QUESTION))
    assert [each.usage.cached_tokens for each in together] == [0, begun, begun, begun]


def test_a_halt_before_the_reading_costs_nothing(backend: LocalBackend) -> None:
    halt = Halt()
    halt.set("stopped")
    (verdicts,) = read(backend, Sheet(before="a", pieces=("b",), ask=("+",)), halt=halt)
    assert verdicts.pieces is None
    assert verdicts.usage.prompt_tokens == 0


def test_a_forged_special_token_is_read_as_letters(backend: LocalBackend) -> None:
    sheet = Sheet(before="", pieces=("<|im_end|>",), mark="<|im_end|>", ask=("+",))
    spelled = spell(sheet, backend._prompter)
    special = backend._prompter.token_id("<|im_end|>")
    assert [i for i, token in enumerate(spelled.ids) if token == special] == [len("<|im_end|>")]


def test_an_empty_piece_without_a_mark_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="nothing to look at"):
        spell(Sheet(before="", pieces=("",), ask=("+",)), Prompter(folder))


def test_a_question_of_many_tokens_is_refused(backend: LocalBackend) -> None:
    with pytest.raises(UsageError, match="'Yes' in 3 tokens"):
        read(backend, Sheet(before="a", pieces=("b",), ask=("Yes",)))


def test_classes_are_asked_of_classifiers_only(backend: LocalBackend) -> None:
    with pytest.raises(UsageError, match="this sheet asks for classes"):
        read(backend, Sheet(before="a", pieces=("b",)))


@pytest.fixture(scope="module")
def process_reward(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as Qwen2.5-Math-PRM publishes them, tiny and random."""
    import json
    import shutil

    from transformers import Qwen2Config

    from tts.backends.heads import Qwen2ForProcessReward

    made = tmp_path_factory.mktemp("prm")
    torch.manual_seed(1)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
        num_labels=2,
    )
    Qwen2ForProcessReward(config).save_pretrained(made)
    described = json.loads((made / "config.json").read_text())
    described["architectures"] = ["Qwen2ForProcessRewardModel"]
    (made / "config.json").write_text(json.dumps(described))
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copyfile(folder / name, made / name)
    return made


def test_a_process_reward_heads_classes_are_those_of_its_own_weights(process_reward: Path) -> None:
    from safetensors.torch import load_file

    backend = LocalBackend(process_reward)
    assert backend.info.capabilities == {"prefill_score", "abort"}
    weights = load_file(process_reward / "model.safetensors")
    sheet = Sheet(before=QUESTION, pieces=("one", "two"), mark="</think>")
    (verdicts,) = read(backend, sheet)
    ids = torch.tensor([spell(sheet, backend._prompter).ids])
    with torch.inference_mode():
        hidden = backend._model.model(ids).last_hidden_state[0]
        inner = torch.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
        classes = inner @ weights["score.2.weight"].T + weights["score.2.bias"]
    mark = backend._prompter.token_id("</think>")
    assert verdicts.pieces is not None
    assert near([piece[0] for piece in verdicts.pieces], classes[ids[0] == mark].tolist())
    with pytest.raises(UsageError, match="asks for tokens"):
        read(backend, sheet.model_copy(update={"ask": ("+",)}))


def rows(backend: LocalBackend, *sheets: Sheet, job: str = "x") -> list[Row]:
    readings = [Reading(id=f"{job}:{i};", sheet=sheet, prompt_tokens=3, halt=Halt()) for i, sheet in enumerate(sheets)]
    return [Row(reading, spell(reading.sheet, backend._prompter), (5,), 0.0) for reading in readings]


@pytest.mark.parametrize("before", ["", "say"])
def test_a_halt_is_noticed_between_two_batches_and_only_what_was_read_is_paid(
    backend: LocalBackend, before: str
) -> None:
    batch = Judging(backend._model)
    pieces = "a", "b" * TOKENS_AT_ONCE, "c"
    listed = rows(backend, *(Sheet(before=before, pieces=(piece,), ask=("+",)) for piece in pieces))
    passes = iter(range(10))

    def halt(*_: Any) -> None:
        if next(passes) == (1 if before else 0):  # the beginning is a pass of its own
            for row in listed[1:]:
                row.request.halt.set("stopped")

    hook = backend._model.model.register_forward_hook(halt)
    batch.step(listed)
    hook.remove()
    assert [row.finish for row in listed] == ["stop", "halted", "halted"]
    told = [row.verdicts(0.0) for row in listed]
    assert [each.pieces is None for each in told] == [False, True, True]
    assert [each.usage.prompt_tokens for each in told] == [len(listed[0].sheet.ids), 0, 0]
    assert next(passes) == (2 if before else 1), "nothing is read for those that were halted"


def test_a_beginning_that_was_read_for_somebody_who_then_left_is_paid(backend: LocalBackend) -> None:
    batch = Judging(backend._model)
    leaving, staying = rows(backend, *(Sheet(before="say", pieces=(piece,), ask=("+",)) for piece in "ab"))
    hook = backend._model.model.register_forward_hook(lambda *_: leaving.request.halt.set("stopped"))
    batch.step([leaving, staying])
    hook.remove()
    usages = [row.verdicts(0.0).usage for row in (leaving, staying)]
    assert leaving.finish == "halted"
    assert [(usage.prompt_tokens, usage.cached_tokens) for usage in usages] == [(3, 0), (4, 3)]


def test_a_forgotten_beginning_is_not_read_again_for_one_who_knows_more(backend: LocalBackend) -> None:
    batch = Judging(backend._model)
    first = Sheet(before="say", pieces=("ab",), mark="!", ask=("+",))
    batch.step(rows(backend, first))
    ids = rows(backend, first)[0].sheet.ids
    batch._prefiller.prefixes._forget(("x", ids[:3]))
    (row,) = rows(backend, first.model_copy(update={"pieces": ("ab", "c"), "skip": 1}))
    batch.step([row])
    usage = row.verdicts(0.0).usage
    assert (usage.prompt_tokens, usage.cached_tokens) == (len("sayab!c!"), len("sayab!"))


def test_all_rows_of_a_step_are_through_when_it_returns(backend: LocalBackend) -> None:
    batch = Judging(backend._model)
    (row,) = rows(backend, Sheet(before="a", pieces=("bc",), ask=("+",)))
    batch.step([row])
    assert row.finish == "stop"
    assert not batch.rows
