from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from evals.lab.settings import MODELS
from evals.suites import SUITES
from service.commands import cli
from service.tree import SearchTree
from strategies import Beam, Rebase
from tests.strategies.scripted import ByText, lettered, searched
from tts.backends.base import Request
from tts.journal import Record


def drawn(records: list[Record]) -> list[str]:
    """The lines of the tree, without its branches."""
    out = StringIO()
    Console(width=200, file=out).print(SearchTree(records))
    return [line.strip("│├└─ ") for line in out.getvalue().splitlines()]


def test_a_tree_shows_steps_with_scores_and_what_was_given_up() -> None:
    table = {"a": 0.9, "b": 0.8, "c": 0.3, "d": 0.1}
    _, records = searched(Beam(n=4, m=2), lettered("abcd", 2), scorer=ByText(table=table, low=0.5, high=0.5))
    assert drawn(records) == [
        "problem",
        "0.90 a  2",
        "a \\boxed{0} ✓  2",
        "b \\boxed{1} ✓  2",
        "0.80 b  2",
        "c \\boxed{2} ✓  2",
        "d \\boxed{3} ✓  2",
        "✂ 2 pruned, scores 0.10 to 0.30",
    ]


def test_paths_that_say_the_same_are_one_branch() -> None:
    def same(request: Request) -> str:
        return ("first\n\n", "then\n\n", "so \\boxed{42}")[len(request.path.steps)]

    _, records = searched(Rebase(n=6), same)
    (problem, first, then, last) = drawn(records)
    assert problem == "problem"
    assert first.endswith(" first  2 ×6")
    assert then.endswith(" then  2 ×6")
    assert last == "so \\boxed{42} ✓  2 ×6"


def test_where_only_some_of_those_that_say_the_same_go_on_nothing_is_called_given_up() -> None:
    def twins(request: Request) -> str:
        return "so \\boxed{42}" if request.path.steps else "either\n\n"

    _, records = searched(Beam(n=4, m=2), twins)
    assert not any("pruned" in line for line in drawn(records))


def test_a_journal_holds_the_tree(tmp_path: Path) -> None:
    file = str(tmp_path / "job.jsonl")
    fake = ("--backend", "fake:tests.handlers:quick", "--answer", "maths", "-p", "n=2", "--tokens", "900")
    solved = CliRunner().invoke(cli, ["solve", "6*7?", *fake, "--journal", file, "--show", "tree"])
    replayed = CliRunner().invoke(cli, ["replay", file, "--show", "tree"])
    assert solved.exit_code == replayed.exit_code == 0, replayed.stderr
    assert replayed.stdout.startswith("problem\n└── so the answer is ")
    assert replayed.stdout == solved.stdout


def test_an_empty_tree_is_its_root() -> None:
    assert drawn([]) == ["problem"]


def test_the_command_line_draws_the_tree_of_a_real_search() -> None:
    pytest.importorskip("torch", reason="the local backend's extra is not installed")
    asked = SUITES["chain"].items("dev", 1)[0].problem.messages[0].content
    verifier = {"model": f"local:{MODELS / 'chain-2m-prm'}", "form": "lab", "how": "prod"}
    options = {
        **{"--backend": f"local:{MODELS / 'chain-2m'}", "--answer": "chain", "--instruction": "", "--step-end": "\\n"},
        **{"--strategy": "ets", "--param": "n=4", "--verifier": "prm", "--tokens": "2000", "--show": "tree"},
    }
    given = [word for option in options.items() for word in option]
    given += [word for each in verifier.items() for word in ("--verifier-param", "=".join(each))]
    result = CliRunner().invoke(cli, ["solve", asked, *given], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    problem, first, *_ = result.stdout.splitlines()
    assert problem == "problem"
    assert re.fullmatch(r"├── [01]\.\d\d [a-z]+:  \d+( ×\d)?|└── [01]\.\d\d [a-z]+:  \d+( ×\d)?", first)
    assert " ✓ " in result.stdout
    assert "KV cache: " in result.stdout
