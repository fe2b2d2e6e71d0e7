"""`--backend NAME[:MODE]`: the models of a `tts.toml`, from the command line."""

from __future__ import annotations

import json
from pathlib import Path as File

import pytest
from click.testing import CliRunner, Result

from evals.records import ROWS, Cell, Row
from service.commands import cli
from service.options import prices_of, strategy_of, verifier_of
from tests.handlers import quick
from tts.backends.fake import FAKE, FakeBackend
from tts.lines import read_lines
from tts.profile import read_profiles

PROFILES = """
[models.quick]
backend = "fake:tests.handlers:quick"
strategy = "self_consistency:n=6"
budget = { tokens = 120 }
price = { prompt = 1.0, completion = 2.0 }

[models.quick.modes.plain]
max_tokens = 20

[models.quick.modes.thinking]
thinks = true

[models.methodical]
backend = "fake:tests.handlers:quick"
strategy = "best_of_n:n=3"
verifier = "oracle"
budget = { tokens = 150 }

[models.methodical.modes.plain]
max_tokens = 20

[models.reader]
backend = "fake:tests.handlers:slow"
price = { prompt = 3.0, completion = 4.0 }

[models.templated]
backend = "local:"
chat_template = "nowhere.jinja"

[models.locked]
backend = "sglang:http://127.0.0.1:9"
api_key_env = "NO_SUCH_KEY"

[models.far]
backend = "fake:tests.handlers:quick"
tokenizer = "somewhere"
"""


@pytest.fixture(autouse=True)
def _configured(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(PROFILES)
    monkeypatch.setenv("TTS_CONFIG", str(file))


def solve(*more: str) -> Result:
    return CliRunner().invoke(cli, ["solve", "12?", "--answer", "maths", "--json", *more], catch_exceptions=False)


def test_a_profile_brings_its_strategy_budget_and_price() -> None:
    told = json.loads(solve("--backend", "quick").stdout)
    assert told["samples"]["finished"] == 6
    assert told["bill"]["usd"] > 0
    assert told["answer"] in ("12", "7")


def test_what_is_given_goes_before_the_profile() -> None:
    told = json.loads(solve("--backend", "quick", "--strategy", "single", "--tokens", "50").stdout)
    assert told["samples"]["finished"] == 1


def test_more_parameters_than_those_of_the_profile_go_before_them() -> None:
    told = json.loads(solve("--backend", "quick", "-p", "weights=borda", "-p", "n=2").stdout)
    assert told["samples"]["finished"] == 2
    assert told["chosen"].startswith("borda")


def test_in_a_mode_that_thinks_what_was_only_thought_is_no_answer() -> None:
    told = json.loads(solve("--backend", "quick:thinking").stdout)
    assert told["chosen"] == "forced at the end"


def test_a_search_over_steps_of_free_thinking_is_refused() -> None:
    refused = solve("--backend", "quick:thinking", "--strategy", "beam", "--verifier", "prm@fake:tests.handlers:quick")
    assert refused.exit_code == 2
    assert "nobody says where a step of a thought ends" in refused.stderr


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("quick:fast", "unknown mode 'fast'"),
        ("quik", "unknown backend 'quik'; did you mean 'quick'"),
        ("templated", "cannot read the profile's chat_template nowhere.jinja: "),
        ("locked", "the profile's api_key_env names NO_SUCH_KEY, and the environment has none; set it"),
        ("http://a:30000", "is an address; a model that SGLang serves there is sglang:http://a:30000"),
        ("far", "the profile's tokenizer means nothing to a fake backend"),
    ],
)
def test_what_a_profile_cannot_do_is_said(backend: str, said: str) -> None:
    refused = solve("--backend", backend)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_file_that_is_named_and_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTS_CONFIG", "nowhere.toml")
    refused = solve("--backend", "quick")
    assert refused.exit_code == 2
    assert "nowhere.toml" in refused.stderr


def test_suites_are_asked_through_a_profile_too(tmp_path: File) -> None:
    arguments = [
        "eval",
        "chain",
        "--limit",
        "2",
        "--backend",
        "quick",
        "--tokens",
        "60",
        "--out",
        str(tmp_path / "run"),
    ]
    ended = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output


def eval_rows(tmp_path: File, *more: str) -> list[Row]:
    arguments = ["eval", "chain", "--limit", "2", "--out", str(tmp_path / "run"), *more]
    ended = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return read_lines(tmp_path / "run" / ROWS, Row)


def test_suites_are_tried_with_the_profiles_strategy_verifier_and_budget(tmp_path: File) -> None:
    cells = {row.cell for row in eval_rows(tmp_path, "--backend", "methodical")}
    assert cells == {Cell(method="best_of_n:n=3@oracle", unit="tokens", amount=150)}


def test_what_is_given_for_a_suite_goes_before_the_profile(tmp_path: File) -> None:
    given = ("--strategy", "single", "--samples", "1", "--verifier", "confidence")
    cells = {row.cell for row in eval_rows(tmp_path, "--backend", "methodical", *given)}
    assert cells == {Cell(method="single", unit="samples", amount=1)}


def test_a_readers_profile_says_what_it_costs() -> None:
    """The policy's and the verifier's, each by its own name; the table goes before both."""
    policy, reader = (FakeBackend(quick, FAKE.model_copy(update={"name": name})) for name in ("policy", "judge"))
    prices = prices_of(None, [policy, reader], "quick", {"reader": reader})
    assert {name: price.prompt for name, price in prices.items()} == {"policy": 1.0, "judge": 3.0}


@pytest.mark.parametrize("page", ["profiles.md", "deployment.md"])
def test_the_profiles_in_the_docs_can_be_read_and_what_they_name_is_there(page: str, tmp_path: File) -> None:
    text = File("docs", page).read_text(encoding="utf-8")
    block = next(each for each in text.split("```toml\n")[1:] if each.startswith("[models."))
    (tmp_path / "tts.toml").write_text(block.partition("```")[0])
    profiles = read_profiles(tmp_path / "tts.toml")
    for profile in profiles.values():
        strategy = strategy_of(profile.strategy or "single")
        verifier = verifier_of(profile.verifier or "confidence", ())
        assert getattr(verifier, "model", "") in ("", *profiles)
        largest = getattr(strategy, "n", 1) * max(mode.max_tokens or 0 for mode in profile.modes.values())
        assert profile.budget is None or profile.budget.tokens is None or profile.budget.tokens >= largest
