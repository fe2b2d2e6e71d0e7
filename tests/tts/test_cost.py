from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tts.backends.fake import FAKE
from tts.cost import Price, Tariff, flops, read_prices
from tts.errors import UsageError
from tts.types import Usage


def test_flops_are_two_per_parameter_and_token_and_four_per_pair_layer_and_width() -> None:
    model = FAKE.model_copy(update={"parameters": 100, "layers": 3, "attention_width": 7})
    # three prompt tokens see 1 + 2 + 3 positions, two generated ones 4 + 5
    assert flops(model, prompt=3, cached=0, completion=2) == 2 * 100 * 5 + 4 * 3 * 7 * 15
    # with two prompt tokens cached, only the third and the generated ones are computed
    assert flops(model, prompt=3, cached=2, completion=2) == 2 * 100 * 3 + 4 * 3 * 7 * 12


def test_a_cached_token_costs_its_own_price_or_that_of_a_prompt_token() -> None:
    assert Price(prompt=2.0, completion=8.0).usd(10, 4, 5) == pytest.approx((20 + 40) / 1e6)
    assert Price(prompt=2.0, completion=8.0, cached=0.5).usd(10, 4, 5) == pytest.approx((12 + 2 + 40) / 1e6)


def test_a_call_never_costs_more_than_its_ceiling() -> None:
    tariff = Tariff(FAKE, Price(prompt=2.0, completion=8.0, cached=0.1))
    usage = Usage.of(prompt=50, cached=20, completion=7, seconds=0.0)
    assert tariff.spend(usage).within(tariff.ceiling(50, 7))


def test_a_cache_that_makes_things_dearer_is_refused() -> None:
    with pytest.raises(ValidationError):
        Price(prompt=1.0, completion=1.0, cached=2.0)


def test_a_price_table_is_read_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('["my model"]\nprompt = 1\ncompletion = 2\n')
    assert read_prices(file) == {"my model": Price(prompt=1, completion=2)}


@pytest.mark.parametrize("content", ["[m]\nprompt = -1\ncompletion = 1", "[m]\nprompt = 1", "nonsense", "m = 3"])
def test_a_bad_price_table_gives_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"^cannot read the price table [^\n]+$"):
        read_prices(file)


def test_a_missing_price_table_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the price table"):
        read_prices(tmp_path / "none.toml")
