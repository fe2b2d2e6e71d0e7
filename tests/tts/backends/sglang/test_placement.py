from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tts.backends.sglang.placement import Speed, Standing, choose, rank
from tts.backends.sglang.replica import speed_of

NAMES = [f"http://replica-{i}:30000" for i in range(4)]


def idle(cold: float, **running: int) -> list[Standing]:
    return [Standing(name, running.get(f"r{i}", 0), 64, cold, Speed()) for i, name in enumerate(NAMES)]


def test_a_long_prompt_with_short_continuations_stays_together() -> None:
    assert len(choose("a", idle(4_000), 16, 200)) == 1


def test_a_short_prompt_with_long_continuations_is_spread() -> None:
    assert len(choose("a", idle(200), 16, 8_000)) == 4


def test_the_same_conversation_goes_to_the_same_replica_whoever_decides() -> None:
    assert choose("a", idle(4_000), 16, 200) == choose("a", idle(4_000)[::-1], 16, 200)


def test_conversations_are_divided_among_idle_replicas() -> None:
    chosen = {choose(f"{i}", idle(4_000), 1, 200)[0].name for i in range(40)}
    assert chosen == set(NAMES)


def test_when_a_replica_goes_only_its_own_conversations_move() -> None:
    for i in range(40):
        before = choose(f"{i}", idle(4_000), 1, 200)[0].name
        after = choose(f"{i}", idle(4_000)[1:], 1, 200)[0].name
        assert after == before or before == NAMES[0]


def test_a_warm_replica_is_preferred_to_the_one_the_hash_names() -> None:
    first = max(NAMES, key=lambda name: rank("a", name))
    warm = next(name for name in NAMES if name != first)
    standings = [each._replace(cold=0) if each.name == warm else each for each in idle(8_000)]
    assert [each.name for each in choose("a", standings, 1, 200)] == [warm]


def test_a_busy_replica_is_passed_over_for_an_idle_one() -> None:
    for i in range(20):
        assert choose(f"{i}", idle(100, r0=60, r1=60, r2=60), 1, 200)[0].name == NAMES[3]


def test_a_full_replica_gets_nothing() -> None:
    full = [each._replace(room=0) for each in idle(100)]
    assert choose("a", full, 4, 200) == []


@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64), st.floats(0, 9_000)), min_size=1, max_size=8),
    st.integers(1, 64),
    st.floats(0, 10_000),
)
def test_whoever_is_chosen_has_room_and_is_chosen_once(
    replicas: list[tuple[int, int, float]], streams: int, tokens: float
) -> None:
    standings = [Standing(f"r{i}", running, room, cold, Speed()) for i, (running, room, cold) in enumerate(replicas)]
    chosen = choose("a", standings, streams, tokens)
    assert len({each.name for each in chosen}) == len(chosen) <= streams
    assert all(each.room > 0 for each in chosen)
    assert bool(chosen) == any(each.room > 0 for each in standings)


def test_a_servers_own_sums_give_its_speed() -> None:
    """Steps of 5 ms and 0.1 ms more for each stream, in batches of 1 to 32."""
    batches = list(range(1, 33)) * 8
    took = [5_000 + 100 * streams for streams in batches]
    moments = [
        len(batches),
        sum(batches),
        sum(took),
        sum(b * b for b in batches),
        sum(b * t for b, t in zip(batches, took, strict=True)),
        0,
    ]
    load = {"total_prefill_busy_us": 2_000_000, "total_prefill_uncached_tokens": 50_000, "decode_moments": moments}
    speed = speed_of(load, Speed())
    assert abs(speed.step - 0.005) < 1e-6
    assert abs(speed.stream - 0.0001) < 1e-7
    assert speed.prefill == 25_000
    assert speed.told
    few = {"decode_moments": [each // 8 for each in moments]}
    assert not speed_of(few, Speed()).told, "the first steps are slower than all later ones"


def test_a_server_that_has_done_nothing_yet_has_the_usual_speed() -> None:
    assert speed_of({"decode_moments": None}, Speed()) == Speed()
