"""The batch alone: rows that come and go between two tokens, and how one token is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the local backend's extra is not installed")

from tts.backends import weights  # noqa: E402
from tts.backends.base import Request  # noqa: E402
from tts.backends.decode import Batch, Row  # noqa: E402
from tts.backends.draw import draw  # noqa: E402
from tts.backends.keyvalues import HEADROOM  # noqa: E402
from tts.halt import Halt  # noqa: E402
from tts.types import Completion, Sampling  # noqa: E402
from tts.types import Path as Search  # noqa: E402

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return weights.load_model(folder, weights.read_config(folder), "cpu")


def spelled(row: Row) -> str:
    return "".join(chr(i) for i in row.ids)


def batch_of(model: Any, stop_ids: frozenset[int] = frozenset()) -> Batch:
    return Batch(model, stop_ids, spelled)


def row(*prompt: int, most: int = 10, sampling: Sampling = GREEDY, **options: Any) -> Row:
    values = {"seed": 1, "halt": Halt(), **options}
    path = Search(start=prompt)
    request = Request(id="x;", path=path, prompt_tokens=len(prompt), max_tokens=most, sampling=sampling, **values)
    return Row(request, prompt, 0.0)


def decode(batch: Batch, *rows: Row) -> list[Row]:
    batch.step(list(rows))
    while batch.rows:
        batch.step([])
    return list(rows)


def plain(model: Any, row: Row) -> tuple[list[int], float, float]:
    """The greedy ids after a row's prompt, the log-probability of the row's ids and their self-certainty, by one
    plain pass over the whole text."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*row.prompt, *row.ids]])).logits[0, len(row.prompt) - 1 : -1].double()
    logprobs = torch.log_softmax(logits, dim=-1)
    certainty = -logprobs.mean(dim=-1) - torch.tensor(float(logits.shape[-1])).log()
    return logits.argmax(-1).tolist(), float(logprobs[range(len(row.ids)), row.ids].sum()), float(certainty.mean())


def test_rows_that_join_and_leave_between_any_two_tokens_compute_what_each_would_alone(every_folder: Path) -> None:
    model = weights.load_model(every_folder, weights.read_config(every_folder), "cpu")
    batch = batch_of(model)
    arrivals = {
        0: [row(1, 2, 3, most=30), row(*range(40), most=4)],
        3: [row(9, most=HEADROOM + 20), row(1, 2, 3, most=2), row(9, most=25)],
        5: [row(*range(100, 200), most=12)],
        20: [row(*range(7), most=HEADROOM), row(4, 4, most=1)],
    }
    for moment in range(120):
        batch.step(arrivals.get(moment, []))
    assert not batch.rows
    for each in (each for rows in arrivals.values() for each in rows):
        greedy, logprob, certainty = plain(model, each)
        assert each.ids == greedy
        assert each.made == len(each.ids) == each.request.max_tokens
        assert each.logprob == pytest.approx(logprob, abs=1e-4 * each.made)
        assert each.certainty / each.made == pytest.approx(certainty, abs=1e-4)


def test_a_sampled_row_draws_the_same_alone_and_in_a_crowd(model: Any) -> None:
    def crowd() -> Iterator[Row]:
        for seed in range(12):
            yield row(*range(seed + 1), most=5 + 3 * seed, sampling=Sampling(temperature=1.0, top_p=0.95), seed=seed)

    together = decode(batch_of(model), *crowd())
    alone = [decode(batch_of(model), each)[0] for each in crowd()]
    assert [each.ids for each in together] == [each.ids for each in alone]
    assert [each.logprob for each in together] == pytest.approx([each.logprob for each in alone], abs=1e-3)


def test_rows_of_one_prompt_and_several_seeds_go_different_ways(model: Any) -> None:
    rows = decode(batch_of(model), *[row(1, 2, sampling=Sampling(temperature=1.0), seed=seed) for seed in range(8)])
    assert len({tuple(each.ids) for each in rows}) == 8


def watched(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what the model is given to read from here on."""
    widths, forward = [], model.model.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        widths.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", counting)
    return widths


def test_every_distinct_prompt_is_prefilled_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = watched(model, monkeypatch)
    rows = decode(batch_of(model), row(1, 2, 3, most=2), row(4, 5, most=2), row(1, 2, 3, most=2), row(1, 2, 3, most=2))
    assert widths == [(1, 3), (1, 2), (2, 1)]
    assert [each.cached for each in rows] == [0, 0, 3, 3]


def test_a_prompt_is_remembered_for_its_job_and_for_no_other(model: Any) -> None:
    batch = batch_of(model)
    first, later, elsewhere = row(1, 2, 3), row(1, 2, 3, seed=2), row(1, 2, 3)
    elsewhere.request = replace(elsewhere.request, id="y;")
    for each in (first, later, elsewhere):
        decode(batch, each)
    assert [each.cached for each in (first, later, elsewhere)] == [0, 3, 0]
    assert first.ids == later.ids == elsewhere.ids == plain(model, first)[0]


def test_prompts_are_forgotten_when_they_fill_the_room_for_them(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tts.backends.keyvalues.REMEMBERED", 1)
    batch = batch_of(model)
    again = [decode(batch, row(*ids, most=1))[0] for ids in ((1, 2), (1, 2), (3, 4), (1, 2))]
    assert [each.cached for each in again] == [0, 2, 0, 0]


def test_a_row_that_goes_on_where_a_step_ended_reads_one_token(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(model)
    step = decode(batch, row(1, 2, 3, most=5))[0]
    widths = watched(model, monkeypatch)
    whole = [decode(batch, row(*step.prompt, *step.ids, most=4, seed=seed))[0] for seed in (1, 2)]
    assert set(widths) == {(1, 1)}
    assert [each.cached for each in whole] == [7, 7]
    far = decode(batch, row(*whole[0].prompt, *whole[0].ids, most=3))[0]
    assert far.cached == 11
    for each in (*whole, far):
        assert each.ids == plain(model, each)[0]


def test_a_forced_text_is_read_behind_what_is_known(model: Any) -> None:
    batch = batch_of(model)
    step = decode(batch, row(1, 2, 3, most=5))[0]
    forced = decode(batch, row(*step.prompt, *step.ids, 40, 41, 42))[0]
    assert forced.cached == 7
    assert forced.ids == plain(model, forced)[0]


def test_steps_and_fresh_prompts_share_a_batch(model: Any) -> None:
    batch = batch_of(model)
    step = decode(batch, row(*range(30), most=6))[0]
    rows = decode(batch, row(*step.prompt, *step.ids, most=9), row(7, most=12), row(*step.prompt, *step.ids, most=3))
    for each in rows:
        assert each.ids == plain(model, each)[0]


def test_columns_that_only_a_row_long_gone_had_reached_are_given_back(model: Any) -> None:
    batch, stayed = batch_of(model), row(1, 2, 3, most=200)

    def width() -> int:
        return batch._kv.end - batch._kv.first

    batch.step([row(*range(200), most=2), stayed])
    assert width() == 200
    batch.step([])
    batch.step([])
    assert width() == len(stayed.prompt) + len(stayed.ids) - 1
    for _ in range(20 + HEADROOM):  # a batch that never empties does not grow either
        batch.step([row(5, 6, most=3)])
    assert width() == len(stayed.prompt) + len(stayed.ids) - 1
    _, _, slots, _, columns, _ = batch._kv._tensor.shape
    assert slots <= 6
    assert columns <= width() + 2 * HEADROOM
    assert stayed.ids == plain(model, stayed)[0]


def test_a_halt_is_noticed_before_the_next_prompt_is_read(model: Any) -> None:
    halt = Halt()

    def set_it(so_far: Completion) -> bool:
        halt.set("stopped")
        return False

    batch, first, second = batch_of(model), row(1, 2, halt=halt, watch=set_it), row(3, 4, halt=halt)
    batch.step([first, second])
    assert [(each.finish, each.made) for each in (first, second)] == [("halted", 1), ("halted", 0)]
    assert not batch.rows


def test_a_row_that_nobody_waits_for_leaves_at_the_next_step_and_takes_no_other_along(model: Any) -> None:
    batch, gone, stays = batch_of(model), row(1, 2), row(3, 4)
    batch.step([gone, stays])
    gone.abandoned = True
    batch.step([])
    assert batch.rows == [stays]
    assert (gone.made, stays.made) == (1, 2)


def test_an_end_of_text_token_at_the_very_end_of_the_grant_is_still_the_end(model: Any) -> None:
    (free,) = decode(batch_of(model), row(1, 2, most=6))
    assert free.finish == "length"
    last = free.ids[-1]
    most = free.ids.index(last) + 1
    (ended,) = decode(batch_of(model, frozenset({last})), row(1, 2, most=most))
    assert (ended.finish, ended.made, ended.ids) == ("stop", most, free.ids[: most - 1])


def test_a_string_that_comes_up_with_the_last_token_of_the_grant_ends_the_row_by_its_own_reason(model: Any) -> None:
    (free,) = decode(batch_of(model), row(1, 2, most=6))
    end = spelled(free)[-2:]
    most = spelled(free).index(end) + 2
    until, stop, watched, length = decode(
        batch_of(model),
        row(1, 2, most=most, until=(end,)),
        row(1, 2, most=most, sampling=GREEDY.model_copy(update={"stop": (end,)})),
        row(1, 2, most=most, watch=lambda so_far: so_far.text.endswith(end)),
        row(1, 2, most=most, watch=lambda so_far: False),
    )
    assert [each.finish for each in (until, stop, watched, length)] == ["until", "stop", "watched", "length"]
    assert until.ids == stop.ids == watched.ids == length.ids == free.ids[:most]


def test_a_watch_sees_every_token_as_it_comes(model: Any) -> None:
    seen: list[Completion] = []

    def watch(so_far: Completion) -> bool:
        seen.append(so_far)
        return False

    (watched,) = decode(batch_of(model), row(1, 2, most=5, watch=watch))
    assert [completion.token_ids for completion in seen] == [tuple(watched.ids[: i + 1]) for i in range(5)]
    assert {completion.finish for completion in seen} == {"watched"}
    assert seen[-1].logprob == watched.logprob


def test_the_log_probability_is_the_models_own_whatever_the_draw_was_restricted_to(model: Any) -> None:
    restricted = Sampling(temperature=2.0, top_p=0.5, banned_ids=tuple(range(100)))
    (drawn,) = decode(batch_of(model), row(1, 2, sampling=restricted))
    assert min(drawn.ids) >= 100
    assert drawn.logprob == pytest.approx(plain(model, drawn)[1], abs=1e-3)


def drawn(probabilities: list[float], uniform: float, **sampling: Any) -> int:
    logits = torch.tensor([probabilities, probabilities[::-1]]).log()
    ours, other = Sampling(**{"temperature": 1.0, **sampling}), Sampling(temperature=0.5)
    return int(draw(logits, [ours, other], [uniform, 0.5])[0])


@pytest.mark.parametrize(
    ("uniform", "expected"), [(0.0, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 4), (0.9999999, 4)]
)
def test_a_draw_inverts_the_cumulative_distribution(uniform: float, expected: int) -> None:
    assert drawn([0.0, 0.5, 0.3, 0.0, 0.2, 0.0], uniform) == expected


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.1, {1}), (0.45, {1}), (0.55, {1, 3}), (0.85, {1, 2, 3}), (1.0, {0, 1, 2, 3})]
)
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(top_p: float, kept: set[int]) -> None:
    assert {drawn([0.1, 0.5, 0.1 + 0.05, 0.25], i / 100, top_p=top_p) for i in range(100)} == kept


def test_a_low_temperature_sharpens_and_none_at_all_takes_the_likeliest() -> None:
    assert {drawn([0.3, 0.4, 0.3], i / 100, temperature=0.02) for i in range(1, 100)} == {1}
    assert {drawn([0.3, 0.4, 0.3], i / 100, temperature=0.0) for i in range(100)} == {1}
    assert {drawn([0.3, 0.4, 0.3], i / 100, temperature=0.0, banned_ids=(1,)) for i in range(100)} <= {0, 2}


@given(
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12).filter(lambda weights: sum(weights[1:]) > 0.01),
    st.floats(0.0, 1.0, exclude_max=True),
    st.floats(0.01, 1.0),
)
def test_what_is_banned_or_impossible_is_never_drawn(weights: list[float], uniform: float, top_p: float) -> None:
    token = drawn(weights, uniform, top_p=top_p, banned_ids=(0,))
    assert token != 0
    assert weights[token] > 0.0


def test_twins_are_computed_once_and_part_where_they_draw_differently(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = Sampling(temperature=1.0)
    widths = watched(model, monkeypatch)
    batch = batch_of(model)
    rows = decode(batch, *[row(1, 2, 3, most=12, sampling=hot, seed=seed) for seed in range(40)])
    assert widths[1][0] == len({each.ids[0] for each in rows}) < len(rows)
    assert [width for width, _ in widths[1:]] == [len({tuple(each.ids[:n]) for each in rows}) for n in range(1, 12)]
    for each in rows:
        _, logprob, certainty = plain(model, each)
        assert each.logprob == pytest.approx(logprob, abs=1e-3)
        assert each.certainty / each.made == pytest.approx(certainty, abs=1e-4)
        alone = decode(batch_of(model), row(1, 2, 3, most=12, sampling=hot, seed=each.request.seed))[0]
        assert alone.ids == each.ids


def test_twins_of_different_grants_end_where_theirs_ends(model: Any) -> None:
    rows = decode(batch_of(model), *[row(1, 2, most=most) for most in (3, 9, 5)])
    assert [each.made for each in rows] == [3, 9, 5]
    for each in rows:
        assert each.ids == plain(model, each)[0]


def test_a_twin_that_is_let_go_takes_no_other_along(model: Any) -> None:
    batch, gone, stays = batch_of(model), row(1, 2), row(1, 2)
    batch.step([gone, stays])
    gone.abandoned = True
    batch.step([])
    assert batch.rows == [stays]
    assert (gone.made, stays.made) == (1, 2)
