from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evals.records import ROWS, Row
from service.commands import cli
from tts.lines import read_lines

pytest.importorskip("datasets", reason="the harness's extra is not installed")

FAKE = ("--backend", "fake:tests.handlers:quick")


def tts(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


@pytest.fixture
def problems(tmp_path: Path) -> str:
    file = tmp_path / "problems.jsonl"
    lines = [{"id": i, "problem": f"Tom has 3 boxes of 4 pencils ({i}).", "answer": 12 if i else 13} for i in range(4)]
    file.write_text("\n".join(map(json.dumps, lines)))
    return str(file)


def test_a_run_ends_with_a_table_a_page_and_curves_and_can_be_reported_again(problems: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = ("eval", "gsm8k", "--data", problems, *FAKE, "--tokens", "20", "80", "--seeds", "2", "--out", str(out))
    result = tts(*run, "--strategy", "single", "self_consistency:weights=weighted", "best_of_n:n=3@confidence")
    assert result.exit_code == 0, result.output
    for words in (
        "self_consistency:weights=w",
        "best_of_n:n=3@conf",
        "80 tokens",
        "75.0%",
        "points vs single",
    ):
        assert words in result.stdout
    assert {path.name for path in out.iterdir()} >= {
        "rows.jsonl",
        "samples.jsonl",
        "report.html",
        "curves.png",
        "curves.svg",
    }
    assert len(read_lines(out / ROWS, Row)) == 4 * 2 * 3 * 2
    before = (out / ROWS).read_bytes()
    assert (
        tts(*run, "--strategy", "single", "self_consistency:weights=weighted", "best_of_n:n=3@confidence").exit_code
        == 0
    )
    assert (out / ROWS).read_bytes() == before
    again = tts(
        "report", str(out), "--baseline", "best_of_n:n=3@confidence", "--out", str(tmp_path / "merged"), "--json"
    )
    assert json.loads(again.stdout)[0]["baseline"] == "best_of_n:n=3@confidence"
    assert (tmp_path / "merged" / "report.html").is_file()


def test_a_budget_decides_how_many_samples_there_are_unless_their_number_is_given(
    problems: str, tmp_path: Path
) -> None:
    run = (
        "eval",
        "gsm8k",
        "--data",
        problems,
        *FAKE,
        "--tokens",
        "100",
        "1000",
        "--max-tokens",
        "8",
        "--out",
        str(tmp_path / "o"),
    )
    assert tts(*run, "-s", "self_consistency", "best_of_n:n=2").exit_code == 0
    drawn = {(row.cell.method, row.cell.amount): row.finished for row in read_lines(tmp_path / "o" / ROWS, Row)}
    assert drawn["best_of_n:n=2", 100] == drawn["best_of_n:n=2", 1000] == 2
    assert drawn["self_consistency", 1000] > drawn["self_consistency", 100] > 2


def test_another_verifier_makes_another_method_where_a_strategy_asks_one(tmp_path: Path) -> None:
    """Else the rows of the first verifier would be taken for those of the second."""
    run: tuple[str, ...] = ("eval", "chain", *FAKE, "--limit", "2", "--tokens", "80", "--out", str(tmp_path))
    run += ("-s", "best_of_n:n=2", "self_consistency:n=2", "best_of_n:n=3@confidence")
    assert tts(*run).exit_code == 0
    again = tts(*run, "--verifier", "oracle", "--baseline", "best_of_n:n=2")
    assert "points vs best_of_n:n=2@oracle" in again.stdout
    methods = Counter(row.cell.method for row in read_lines(tmp_path / ROWS, Row))
    known = dict.fromkeys(("best_of_n:n=2", "self_consistency:n=2", "best_of_n:n=3@confidence"), 2)
    assert methods == {**known, "best_of_n:n=2@oracle": 2}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("chian",), "unknown suite 'chian'; did you mean 'chain'?"),
        (("gsm8k", "--strategy", "best_of_m"), "unknown strategy 'best_of_m'; did you mean 'best_of_n'?"),
        (("gsm8k", "--strategy", "best_of_n:m=3"), "unknown parameter of best_of_n 'm'"),
        (("gsm8k", "--strategy", "best_of_n@oracle"), "unknown verifier 'oracle'"),
        (("gsm8k", "--data", "nowhere.jsonl"), "cannot read the problems in nowhere.jsonl"),
        (("gsm8k", "--split", "test", "--data", "some.jsonl"), "--data has no splits; leave out --split"),
        (("gsm8k", "--split", "train"), "suite gsm8k has no split 'train'; it has test"),
        (("gsm8k", "--tokens", "0"), "tokens: Input should be greater than 0"),
        (("gsm8k", "--tokens", "100", "--baseline", "x"), "no method 'x' to compare with"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(arguments: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    result = tts("eval", *arguments, *FAKE, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_and_a_folder_without_a_run_are_refused(problems: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = tts("eval", "gsm8k", "--data", problems, *FAKE, "--tokens", "20", "--out", str(tmp_path / "file"))
    assert (result.exit_code, "name another folder with --out" in result.stderr) == (2, True)
    assert "holds no run" in tts("report", str(tmp_path)).stderr


def test_problems_that_changed_are_not_mixed_with_the_old_ones(problems: str, tmp_path: Path) -> None:
    run = ("eval", "gsm8k", "--data", problems, *FAKE, "--tokens", "20", "--out", str(tmp_path / "out"))
    assert tts(*run).exit_code == 0
    Path(problems).write_text(Path(problems).read_text().replace("12", "11"))
    refused = tts(*run)
    assert (refused.exit_code, "data problems.jsonl, SHA-256 " in refused.stderr) == (2, True)


def test_failures_are_listed_and_when_all_fail_the_exit_code_says_so(problems: str, tmp_path: Path) -> None:
    run = ("eval", "gsm8k", "--data", problems, "--tokens", "50", "--out", str(tmp_path / "out"), "--backend")
    result = tts(*run, "fake:tests.handlers:broken")
    assert result.exit_code == 4
    assert result.stdout.count("connection refused") == 8
    result = tts(*run, "fake:tests.handlers:quick")
    assert result.exit_code == 0  # what failed was tried again
    assert "connection refused" not in result.stdout


def test_a_run_without_a_folder_of_its_own_is_named_after_suite_and_split(
    problems: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tts("eval", "gsm8k", "--data", problems, *FAKE, "--tokens", "80", "--strategy", "single").exit_code == 0
    assert (tmp_path / "runs" / "gsm8k-test" / ROWS).is_file()


def test_an_interrupted_run_says_that_it_can_go_on(problems: str, tmp_path: Path) -> None:
    code = "from service.cli import main; main()"
    command = [sys.executable, "-c", code, "eval", "gsm8k", "--data", problems, "--backend", "fake:tests.handlers:slow"]
    command += ["--tokens", "100", "--strategy", "best_of_n:n=6", "--concurrency", "1"]
    command += ["--out", str(tmp_path / "out")]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=root, env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / ROWS).is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "the same command goes on from there" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("suite", ["chain", "countdown"])
def test_a_model_that_says_something_else_is_wrong_and_nothing_worse(suite: str, tmp_path: Path) -> None:
    result = tts("eval", suite, *FAKE, "--limit", "3", "--tokens", "50", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0
    assert "0.0%" in result.stdout


def test_several_values_may_follow_an_option_once() -> None:
    result = tts("eval", "gsm8k", "--tokens", "many", *FAKE)
    assert result.exit_code == 2
    assert "'many' is not a valid integer" in result.output
