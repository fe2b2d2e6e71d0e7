"""`tts bank` and `tts whatif` as users meet them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from service.commands import cli

pytest.importorskip("pyarrow", reason="the harness's extra is not installed")

FAKE = ("--backend", "fake:tests.handlers:quick")


def tts(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "problems.jsonl"
    lines = [{"id": i, "problem": f"Tom has 3 boxes of 4 pencils ({i}).", "answer": 12 if i else 13} for i in range(4)]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


@pytest.fixture(scope="module")
def bank(problems: Path) -> Path:
    out = problems.parent / "bank"
    result = tts("bank", "fill", "gsm8k", "--data", problems, *FAKE, "--samples", 8, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_a_bank_says_what_it_holds(bank: Path) -> None:
    facts = json.loads(tts("bank", "show", bank, "--json").stdout)
    assert (facts["problems"], facts["samples"], facts["per problem"]) == (4, 32, "8 to 8")
    assert facts["source"].startswith("gsm8k test problems.jsonl, SHA-256 ")
    assert "samples       32" in tts("bank", "show", bank).stdout


def test_strategies_are_rehearsed_into_a_table_figures_a_plot_and_advice(
    bank: Path, problems: Path, tmp_path: Path
) -> None:
    run = ("whatif", bank, "--data", problems, "--samples", 1, 8, "--resamples", 40)
    result = tts(*run, "--target-accuracy", 0.5, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for words in ("* best_of_n", "p95 s", "oracle", "160 jobs rehearsed", "cheapest that reaches accuracy 50.0%"):
        assert words in result.stdout
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"whatif.json", "whatif.png", "whatif.svg"}
    figures = json.loads(tts(*run, "--json").stdout)
    assert [point["cell"]["amount"] for point in figures["banks"][0]["points"]] == [1, 8, 1, 8]
    assert (
        "nothing here reaches accuracy 99.0% and 95 % within 3 s"
        in tts(*run, "--target-accuracy", 0.99, "--max-p95-seconds", 3).stdout
    )
    usual = json.loads(tts("whatif", bank, "--data", problems, "--resamples", 8, "--json").stdout)
    assert [point["cell"]["amount"] for point in usual["banks"][0]["points"]] == [1, 2, 4, 8] * 2
    both = json.loads(tts("whatif", bank, bank, *run[2:], "--json", "--target-accuracy", 0.5).stdout)
    assert len(both["banks"]) == 2
    assert both["cheapest"]["bank"] == 0


def test_banks_are_merged_and_what_is_in_both_counts_once(bank: Path, problems: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    fill = ("bank", "fill", "gsm8k", "--data", problems, *FAKE, "--out", other)
    assert tts(*fill, "--samples", 8, "--seed", 1).exit_code == 0
    assert tts(*fill, "--samples", 4).exit_code == 0
    merged = tts("bank", "merge", bank, other, "--out", tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
    assert "per problem   16 to 16" in merged.stdout
    assert "merged is there already" in tts("bank", "merge", bank, other, "--out", tmp_path / "merged").stderr
    warm = tmp_path / "warm"
    assert tts(*fill[:-1], warm, "--temperature", 0.1, "--samples", 1).exit_code == 0
    refused = tts("bank", "merge", bank, warm, "--out", tmp_path / "mixed")
    assert (refused.exit_code, "another sampling" in refused.stderr) == (2, True)
    assert not (tmp_path / "mixed").exists()


def test_a_bank_stands_in_for_the_model(bank: Path) -> None:
    problem = "Tom has 3 boxes of 4 pencils (1)."
    solve = ("solve", problem, "--answer", "maths", "--backend", f"bank:{bank}", "--tokens", 4096, "--json")
    result = tts(*solve, "-p", "n=8")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (result.exit_code, told["samples"]["finished"]) == (0, 8)
    assert "this job asks for more" in tts(*solve, "-p", "n=9").stderr
    assert "was recorded with temperature=0.8" in tts(*solve, "--temperature", 0.7).stderr
    assert "leave out --journal" in tts(*solve, "--journal", bank / "x.jsonl").stderr
    assert "nowhere is no bank" in tts("solve", "x", "--backend", "bank:nowhere").stderr


def test_failures_leave_a_gap_that_is_named(problems: Path, tmp_path: Path) -> None:
    fill = ("bank", "fill", "gsm8k", "--data", problems, "--samples", 8, "--out", tmp_path / "bank", "--backend")
    result = tts(*fill, "fake:tests.handlers:half_broken")
    assert result.exit_code == 4
    assert "samples still missing: " in result.stderr
    assert tts(*fill, "fake:tests.handlers:quick").exit_code == 0


def test_what_was_recorded_of_unfinished_problems_takes_room_too(bank: Path, tmp_path: Path) -> None:
    def bytes_a_token() -> tuple[object, str]:
        show = ("bank", "show", young)
        return json.loads(tts(*show, "--json").stdout)["bytes a token"], tts(*show).stdout

    young = tmp_path / "young"
    shutil.copytree(bank, young)
    whole, _ = bytes_a_token()
    (young / "complete.jsonl").write_text("")
    assert isinstance(whole, float)
    assert bytes_a_token()[0] == pytest.approx(whole, rel=0.2)
    shutil.rmtree(young / "samples")
    figure, text = bytes_a_token()
    assert figure is None
    assert "bytes a token -\n" in text


def test_a_plan_that_a_bank_does_not_hold_is_refused_before_anything_runs(
    bank: Path, problems: Path, tmp_path: Path
) -> None:
    more, other, out = tmp_path / "more.jsonl", tmp_path / "other.jsonl", tmp_path / "out"
    lines = problems.read_text().splitlines()
    more.write_text("\n".join([*lines[:3], json.dumps({"id": 9, "problem": "New?", "answer": 1}), *lines[3:]]))
    other.write_text(json.dumps({"id": 0, "problem": "Another?", "answer": 1}))

    def run(data: Path, *arguments: object) -> Result:
        return tts("eval", "gsm8k", "--data", data, "--backend", f"bank:{bank}", "--out", out, *arguments)

    holds, fill = (
        f"asked for, {bank} (gsm8k, test) holds",
        "fill it up with tts bank fill gsm8k --data problems.jsonl --limit",
    )
    for data, complaint in (
        (
            more,
            f"of the 5 problems {holds} 4 complete; ask for fewer with --limit 3, or {fill} 5 --samples 8 --out {bank}",
        ),
        (other, f"of the 1 problem {holds} 0 complete; name a bank of these problems\n"),
    ):
        result = run(data, "--tokens", 100)
        assert (result.exit_code, complaint in result.stderr) == (2, True)
    result = run(problems, "--samples", 8, 10)
    assert (result.exit_code, "lacks 8 samples of 4 problems" in result.stderr) == (2, True)
    assert not out.exists()
    result = run(more, "--limit", 1, "--samples", 8)
    assert result.exit_code == 0, result.output
    assert "1 problem, 1 seed. " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("bank", "show", "."), "is no bank"),
        (("bank", "fill", "chian"), "unknown suite 'chian'; did you mean 'chain'?"),
        (("whatif", "{bank}"), "was filled from problems.jsonl, SHA-256"),
        (("whatif", "{bank}", "--data", "nowhere.jsonl"), "cannot read the problems in nowhere.jsonl"),
        (("whatif", "{bank}", "--data", "{problems}", "--samples", "9"), "lacks 4 samples of 4 problems"),
        (("whatif", "{bank}", "--data", "{problems}", "--tokens", "4096", "-s", "best_of_n:n=11"), "up to 3 more"),
        (("whatif", "{bank}", "--data", "{problems}", "-s", "best_of_m"), "unknown strategy 'best_of_m'"),
        (("whatif", "{bank}", "--data", "{problems}", "--usd", "1"), "needs a price for fake"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    arguments: tuple[str, ...], complaint: str, bank: Path, problems: Path
) -> None:
    result = tts(*(each.format(bank=bank, problems=problems) for each in arguments))
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_what_recorded_samples_cannot_answer_is_refused_with_the_reason(bank: Path, problems: Path) -> None:
    run = ("whatif", bank, "--data", problems, "--samples", 2, "--resamples", 4)
    continued = tts(*run, "--strategy", "rebase")
    assert (continued.exit_code, "holds whole samples; run it live" in continued.stderr) == (2, True)
    read = tts(*run, "--strategy", "best_of_n@prm:model=local:x")
    assert (read.exit_code, "answers for the policy only" in read.stderr) == (2, True)
    assert "recorded:by=NAME" in read.stderr


def test_a_bank_that_lost_a_file_is_refused(bank: Path, problems: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(bank, copied)
    for file in (copied / "samples").iterdir():
        file.unlink()
    assert json.loads(tts("bank", "show", copied, "--json").stdout)["lost"] == 32
    refused = tts("whatif", copied, "--data", problems, "--samples", 2)
    assert (refused.exit_code, "has lost 32 samples of 4 problems" in refused.stderr) == (2, True)
