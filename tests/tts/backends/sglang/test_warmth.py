from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tts.backends.sglang.warmth import Warmth, chain

START, STEP, OTHER = tuple(range(100, 140)), tuple(range(20)), tuple(range(30, 50))


def test_a_text_shares_the_prefixes_that_were_put_together_alike() -> None:
    whole, branch = chain([START, STEP]), chain([START, OTHER])
    assert whole[0] == branch[0]
    assert whole[1] != branch[1]
    assert [link.length for link in whole] == [40, 60]


def test_what_was_read_is_known_up_to_where_texts_part() -> None:
    warmth = Warmth(1_000)
    warmth.add(chain([START, STEP]))
    assert warmth.known(chain([START, STEP])) == 60
    assert warmth.known(chain([START, OTHER])) == 40
    assert warmth.known(chain([OTHER])) == 0


def test_one_leads_and_the_others_follow_when_it_has_read() -> None:
    async def run() -> None:
        warmth, links = Warmth(1_000), chain([START])
        assert warmth.leader(links) is None
        led = warmth.lead(links)
        leader = warmth.leader(chain([START, STEP]))
        assert leader is not None
        assert not leader.done()
        warmth.add(links)
        warmth.follow(led)
        assert leader.done()
        assert warmth.leader(chain([START, STEP])) is None

    asyncio.run(run())


def test_when_the_leader_fails_the_next_one_leads() -> None:
    async def run() -> None:
        warmth, links = Warmth(1_000), chain([START])
        warmth.follow(warmth.lead(links))
        assert warmth.leader(links) is None
        assert warmth.lead(links)

    asyncio.run(run())


def test_a_few_tokens_are_read_again_rather_than_waited_for() -> None:
    async def run() -> None:
        warmth = Warmth(1_000)
        warmth.add(chain([START]))
        warmth.lead(chain([START, STEP[:5]]))
        assert warmth.leader(chain([START, STEP[:5]])) is None

    asyncio.run(run())


def test_a_restart_forgets_everything() -> None:
    warmth = Warmth(1_000)
    warmth.add(chain([START]))
    warmth.clear()
    assert warmth.known(chain([START])) == 0


@given(st.lists(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=4), max_size=30))
def test_no_more_is_believed_to_be_held_than_fits(texts: list[list[list[int]]]) -> None:
    warmth = Warmth(40)
    for text in texts:
        warmth.add(chain(text))
        assert warmth._tokens == sum(warmth._held.values()) <= 40
    for text in texts:
        warmth.forget(chain(text))
    assert warmth._tokens == 0
