from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from service import commands
from service.commands import cli
from tts.backends.base import CHECKPOINT
from tts.journal import Ended, Held, Settled, parse

ROOT = Path(__file__).parents[2]
FAKE = ("--backend", "fake:tests.handlers:quick")
PROBLEM = "Tom has 3 boxes of 4 pencils. How many pencils?"


def tts(*arguments: str, text: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=text, catch_exceptions=False)


def solve(*arguments: str, **options: Any) -> Result:
    return tts("solve", PROBLEM, "--answer", "maths", *FAKE, *arguments, **options)


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    code = "from service.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, "solve", PROBLEM, "--answer", "maths", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
        **options,
    )


def test_json_is_one_object_with_answer_usage_and_bill() -> None:
    result = solve("--json", "--tokens", "4000", "--seconds", "60", "-p", "n=16", "--seed", "3")
    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (told["answer"], told["stop"], told["strategy"]) == ("12", "done", "best_of_n")
    assert set(told["usage"]) >= {"prompt_tokens", "cached_tokens", "completion_tokens", "verifier_tokens"}
    assert set(told["bill"]) >= {"tokens", "seconds", "usd", "flops"}
    assert told["samples"] == {"finished": 16, "truncated": 0, "failed": 0}
    assert told["bill"]["tokens"] == told["usage"]["completion_tokens"] == 16 * 5
    assert told["support"] > 0


def test_plain_output_shows_answer_votes_and_bill() -> None:
    result = solve("--tokens", "4000", "-s", "self_consistency")
    assert result.exit_code == 0
    for words in ("answer  12", "votes", "80 tokens generated", "16 samples finished, 0 truncated, 0 failed"):
        assert words in result.stdout


def test_without_a_budget_two_thousand_tokens_are_taken_and_said() -> None:
    result = solve("--backend", "fake:tests.handlers:mute", "--json")
    assert "no budget given: using --tokens 2000" in result.stderr
    assert json.loads(result.stdout)["bill"]["tokens"] <= 2_000


def test_a_problem_is_read_from_standard_input() -> None:
    result = tts("solve", "-", "--answer", "maths", *FAKE, "--json", text=PROBLEM)
    assert json.loads(result.stdout)["answer"] == "12"


def test_markup_in_an_answer_is_text() -> None:
    result = tts("solve", "[bold]x[/bold] [/nonsense]", *FAKE)
    assert result.exit_code == 0


def test_a_bill_without_a_price_names_the_model_that_lacks_one(tmp_path: Path) -> None:
    assert "no price known for fake;" in solve().stdout
    prices = tmp_path / "prices.toml"
    prices.write_text("[fake]\nprompt = 1.0\ncompletion = 2.0\n")
    told = json.loads(solve("--json", "--prices", str(prices)).stdout)
    assert told["bill"]["usd"] > 0
    assert told["bill"]["unpriced"] == []


def test_parameters_may_follow_a_strategys_name() -> None:
    told = json.loads(solve("-s", "best_of_n:n=3", "--json").stdout)
    assert told["samples"]["finished"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-s", "best_of_m"], "unknown strategy 'best_of_m'; did you mean 'best_of_n'?"),
        (["-p", "m=3"], "unknown parameter of best_of_n 'm'"),
        (["-s", "self_consistency", "-p", "wieghts=borda"], "did you mean 'weights'?"),
        (["-s", "best_of_n:m=3"], "unknown parameter of best_of_n 'm'"),
        (["-s", "best_of_n:3"], "NAME=VALUE"),
        (["--verifier", "prm:form=quen@fake:tests.handlers:quick"], "form: Input should be 'lab'"),
        (["--verifier", "prm:form=lab"], "prm needs a model; name it"),
        (["-p", "n"], "NAME=VALUE"),
        (["-p", "n=many"], "n: Input should be a valid integer"),
        (["-p", "n=0"], "n: Input should be greater than or equal to 1"),
        (["--tokens", "0"], "tokens: Input should be greater than 0"),
        (["--tokens", "-5"], "tokens: Input should be greater than 0"),
        (["--seconds", "0"], "seconds: Input should be greater than 0"),
        (["--seconds", "nan"], "seconds"),
        (["--temperature", "-1"], "temperature"),
        (["--max-tokens", "0"], "max_tokens"),
        (["--answer", "math"], "unknown answer kind 'math'; did you mean 'maths'?"),
        (["--answer", "{"], "not JSON"),
        (["--answer", '{"kind": "choice", "letters": "a"}'], "letters"),
        (["--answer", '{"letters": "AB"}'], "'kind'"),
        (["--verifier", "trust"], "unknown verifier 'trust'"),
        (["--backend", "locl"], "unknown backend 'locl'; did you mean 'local'?"),
        (["--backend", "fake"], "needs a handler"),
        (["--backend", "fake:tests.handlers:none"], "no handler"),
        (["--backend", "fake:no.such:thing"], "no handler"),
        (["--backend", "local:/no/such/folder"], "no model at /no/such/folder"),
        (["--usd", "1"], "needs a price for fake"),
        (["--prices", "/no/such/file"], "cannot read the price table"),
        (["--journal", "/no/such/folder/j.jsonl"], "cannot write the journal"),
        (["--answer", "text", "-s", "self_consistency"], "use best_of_n"),
    ],
)
def test_bad_usage_is_one_clear_line_and_exit_2(arguments: list[str], words: str) -> None:
    result = solve(*arguments)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("no budget given", "loading "))]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("tts: ")
    assert words in lines[0]
    assert result.stdout == ""


@pytest.mark.parametrize("text", ["", "  \n "])
def test_an_empty_problem_is_bad_usage(text: str) -> None:
    assert "the problem is empty" in tts("solve", "-", *FAKE, text=text).stderr
    assert tts("solve", text, *FAKE).exit_code == 2


def test_a_problem_that_is_not_utf8_is_bad_usage() -> None:
    result = tts("solve", "-", *FAKE, text=b"caf\xe9 au lait")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr
    assert "not UTF-8" in tts("solve", "caf\udce9", *FAKE).stderr


def test_a_prompt_longer_than_the_context_is_bad_usage() -> None:
    result = tts("solve", "word " * 1_000_001, *FAKE)
    assert result.exit_code == 2
    assert "shorten it by" in result.stderr


def test_a_budget_that_ends_without_an_answer_is_exit_3() -> None:
    result = solve("--backend", "fake:tests.handlers:mute", "--tokens", "40", "--json")
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert (told["answer"], told["stop"]) == (None, "budget")
    assert 0 < told["bill"]["tokens"] <= 40


def test_a_backend_that_always_fails_is_exit_4_with_the_bill() -> None:
    result = solve("--backend", "fake:tests.handlers:broken", "-p", "n=3", "--json")
    assert result.exit_code == 4
    assert "connection refused" in result.stderr
    assert json.loads(result.stdout)["samples"]["failed"] == 3


def test_failed_samples_are_shown_beside_the_answer() -> None:
    result = solve("--backend", "fake:tests.handlers:half_broken")
    assert result.exit_code == 0
    assert "calls of the policy failed: connection refused" in result.stdout


def test_prices_make_the_bill_name_dollars(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text("[fake]\nprompt = 1.0\ncompletion = 10.0\n")
    result = solve("--prices", str(tmp_path / "prices.toml"), "--usd", "0.01", "--json")
    told = json.loads(result.stdout)
    paid = (told["usage"]["prompt_tokens"] * 1.0 + told["usage"]["completion_tokens"] * 10.0) / 1e6
    assert told["bill"]["usd"] == pytest.approx(paid)


def test_strategies_are_listed_with_parameters_and_when_to_use_them() -> None:
    listed = tts("strategies").stdout
    for words in ("best_of_n", "--param n=16", "self_consistency", "weights=majority", "As the baseline"):
        assert words in listed
    assert "--verifier-param how=min " in listed
    assert "(last, min, prod, mean)" in listed
    schemas = json.loads(tts("strategies", "--json").stdout)
    assert schemas["self_consistency"]["parameters"]["properties"]["p"]["default"] == 0.5


def test_a_replay_prints_what_the_run_printed(tmp_path: Path) -> None:
    file = str(tmp_path / "j.jsonl")
    first = solve("--journal", file, "--json")
    before = Path(file).read_bytes()
    assert tts("replay", file, "--json").stdout == first.stdout
    assert Path(file).read_bytes() == before


def test_the_same_command_on_a_finished_journal_pays_nothing_again(tmp_path: Path) -> None:
    file = str(tmp_path / "j.jsonl")
    first = solve("--journal", file, "--json")
    before = Path(file).read_bytes()
    assert solve("--journal", file, "--json").stdout == first.stdout
    assert Path(file).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read the journal"), ("", "its first record is no header"), ("hello\n", "line 1 is not a journal")],
)
def test_what_is_no_journal_cannot_be_replayed(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "j.jsonl"
    if content is not None:
        file.write_text(content)
    result = tts("replay", str(file))
    assert result.exit_code == 2
    assert words in result.stderr


def test_an_unfinished_journal_is_not_replayed_but_resumed(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    solve("--journal", str(file))
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    result = tts("replay", str(file))
    assert result.exit_code == 2
    assert "run its command again" in result.stderr


def test_a_journal_of_another_command_is_refused(tmp_path: Path) -> None:
    file = str(tmp_path / "j.jsonl")
    solve("--journal", file)
    result = solve("--journal", file, "--seed", "1")
    assert result.exit_code == 2
    assert "its seed differs" in result.stderr


def test_a_killed_process_is_completed_by_the_same_command(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    arguments = (
        "--backend",
        "fake:tests.handlers:slow",
        "-p",
        "n=12",
        "--tokens",
        "7000",
        "--journal",
        str(file),
        "--json",
    )
    victim = process(*arguments)
    wait_for(lambda: file.exists() and file.read_text().count('"settle"') >= 3)
    victim.kill()
    victim.communicate()
    died, _ = parse(file.read_bytes(), file)
    paid = {record.key: record for record in died if isinstance(record, Settled)}
    flying = [record for record in died if isinstance(record, Held) and record.key not in paid]
    assert flying
    second = process(*arguments)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    told = json.loads(out)
    assert told["bill"]["lost"] == sum(min(CHECKPOINT, record.granted) for record in flying)
    assert told["bill"]["tokens"] <= 7_000
    assert told["answer"] == "12"
    records, _ = parse(file.read_bytes(), file)
    assert isinstance(records[-1], Ended)
    sent_again = [record.key for record in records[len(died) :] if isinstance(record, Held)]
    assert not paid.keys() & set(sent_again)


def test_ctrl_c_prints_the_best_answer_so_far_and_the_bill() -> None:
    arguments = ("--backend", "fake:tests.handlers:slow", "-p", "n=16", "--tokens", "16000", "--json")
    running = process(*arguments, start_new_session=True)
    assert running.stderr is not None
    time.sleep(2.5)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130, err
    told = json.loads(out)
    assert (told["answer"], told["stop"]) == ("12", "cancelled")
    assert 0 < told["samples"]["finished"] < 16
    assert told["bill"]["tokens"] > 0
    assert "Traceback" not in err


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_stray_package_with_one_of_our_names_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "verifiers").mkdir()
    (tmp_path / "verifiers" / "__init__.py").write_text("")
    code = "import sys; sys.path[:0] = [sys.argv.pop(1)]; from service.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "strategies"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert "the package 'verifiers' was found in" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_every_command_that_is_written_is_one_of_tts() -> None:
    names = [f"service.commands.{each.name}" for each in pkgutil.iter_modules(commands.__path__)]
    written = [each for name in names for each in vars(importlib.import_module(name)).values()]
    nested = [each for group in (cli, *cli.commands.values()) for each in getattr(group, "commands", {}).values()]
    assert {id(each) for each in written if isinstance(each, click.Command)} == {id(each) for each in nested}


def test_help_and_strategies_answer_without_loading_torch() -> None:
    code = "import sys; from service import commands; assert not {'torch', 'transformers', 'sympy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
