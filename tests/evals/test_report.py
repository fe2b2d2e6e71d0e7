from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evals.plots import draw, write
from evals.records import ROWS, SAMPLES, SETTINGS, Cell, Row, Sample, Settings, Unit, claim_folder
from evals.report import Section, as_object, read_sections
from tts.backends.fake import FAKE
from tts.errors import UsageError
from tts.lines import Lines
from tts.types import Completion, Sampling, Usage

pytest.importorskip("jinja2", reason="the harness's extra is not installed")

from evals.page import amount, page, signed
from evals.runs.model_sizes import table
from evals.runs.search_curves import tables

SETTINGS_ = Settings(suite="chain", split="dev", data=None, model=FAKE, sampling=Sampling(), code="1")
TOKEN = 2.0 * FAKE.parameters


def row(
    method: str, amount: float, problem: str, right: bool, compute: float, unit: Unit = "tokens", **fields: object
) -> Row:
    values: dict[str, object] = {
        "cell": Cell(method=method, unit=unit, amount=amount),
        "seed": 0,
        "problem": problem,
        "group": "",
        "right": right,
        "covered": right,
        "answer": "42",
        "error": None,
        "stop": "done",
        "tokens": 10,
        "prompt_tokens": 5,
        "cached_tokens": 0,
        "verifier_tokens": 0,
        "seconds": 1.0,
        "usd": None,
        "flops": compute * TOKEN,
        "kv_token_steps": 50,
        "finished": 1,
        "truncated": 0,
        "failed": 0,
        **fields,
    }
    return Row.model_validate(values)


def sample(problem: str, number: int, right: bool, answer: str | None = None) -> Sample:
    usage = Usage.of(prompt=5, cached=0, completion=3, seconds=0.1)
    completion = Completion(text="x", token_ids=None, logprob=None, self_certainty=None, finish="stop", usage=usage)
    answer = answer or ("42" if right else "7")
    return Sample(problem=problem, seed=0, number=number, group="", answer=answer, right=right, completion=completion)


def section(rows: list[Row], samples: list[Sample] | None = None, baseline: str | None = None) -> Section:
    return Section(SETTINGS_, rows, samples or [], baseline)


def test_a_point_is_the_mean_over_problems_and_its_compute_counts_all_flops() -> None:
    rows = [
        row("a", 100, "p", True, 30.0, tokens=12),
        row("a", 100, "q", False, 50.0, tokens=20, covered=True),
        row("a", 100, "r", False, 40.0, tokens=10, error="overloaded", usd=None),
    ]
    (point,) = section(rows).points
    assert (point.accuracy.mean, point.coverage) == pytest.approx((1 / 3, 2 / 3))
    assert point.gap == pytest.approx(1 / 3)
    assert (point.compute, point.tokens) == pytest.approx((40.0, 14.0))
    assert (point.problems, point.seeds, point.errors) == (3, 1, 1)
    assert point.usd is None


def test_a_difference_is_taken_where_the_baseline_spends_as_much() -> None:
    rows = [row("base", 1, p, right, 10.0) for p, right in (("p", False), ("q", False))]
    rows += [row("base", 2, p, right, 40.0) for p, right in (("p", True), ("q", False))]
    rows += [row("ours", 1, p, True, 20.0) for p in ("p", "q")]  # half-way between 10 and 40, in logarithms
    rows += [row("ours", 2, p, True, 50.0) for p in ("p", "q")]  # more than the baseline ever spent
    found = {
        point.cell.amount: point.difference
        for point in section(rows, baseline="base").points
        if point.cell.method == "ours"
    }
    assert found[1] is not None
    assert found[1].mean == pytest.approx((1 - 0.5 + 1 - 0) / 2)
    assert found[2] is None


def test_the_later_row_of_a_problem_counts_once() -> None:
    again = [row("a", 1, "p", False, 10.0, error="overloaded"), row("a", 1, "p", True, 10.0)]
    (point,) = section(again).points
    assert (point.accuracy.mean, point.errors) == (1.0, 0)


def test_the_pool_counts_only_what_every_problem_has() -> None:
    samples = [sample("p", i, i == 1) for i in range(4)] + [sample("q", i, False) for i in (0, 1, 3)]
    pool = section([row("a", 1, "p", True, 1.0)], samples).pool
    assert [point.k for point in pool] == [1, 2]  # q lacks its third: taking the fourth instead would favour short ones
    assert [point.passed.mean for point in pool] == [pytest.approx(0.25), pytest.approx(0.5)]
    assert pool[1].majority.mean == 0.0  # 7 came first in both


def test_regret_reaches_to_the_dearest_method() -> None:
    rows = [row("cheap", 1, "p", True, 10.0), row("dear", 1, "p", True, 100.0)]
    found = section(rows)
    assert found.regret("cheap") == pytest.approx(0.05)
    assert found.regret("dear") == pytest.approx(0.5)


def record(folder: Path, rows: list[Row], samples: list[Sample], settings: Settings = SETTINGS_) -> Path:
    claim_folder(folder, settings)
    with Lines(folder / ROWS, Row) as out, Lines(folder / SAMPLES, Sample) as pool:
        for each in rows:
            out.append(each)
        for one in samples:
            pool.append(one)
    return folder


def test_folders_with_the_same_settings_are_one_section_and_others_stand_beside_it(tmp_path: Path) -> None:
    one = record(tmp_path / "1", [row("a", 1, "p", True, 1.0)], [])
    two = record(tmp_path / "2", [row("a", 1, "p", False, 1.0, seed=1), row("b", 1, "p", True, 1.0)], [])
    other = SETTINGS_.model_copy(update={"model": FAKE.model_copy(update={"name": "large"})})
    three = record(tmp_path / "3", [row("a", 1, "p", True, 1.0)], [], other)
    merged, alone = read_sections([one, two, three])
    assert [point.accuracy.mean for point in merged.points] == [0.5, 1.0]
    assert (merged.methods, merged.points[0].seeds) == (["a", "b"], 2)
    assert alone.title == "chain (dev), large"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        read_sections([tmp_path])
    (tmp_path / SETTINGS).write_text("{}")
    with pytest.raises(UsageError, match="no run of this version"):
        read_sections([tmp_path])
    empty = record(tmp_path / "empty", [], [])
    with pytest.raises(UsageError, match="no rows yet"):
        read_sections([empty])
    full = record(tmp_path / "full", [row("a", 1, "p", True, 1.0)], [])
    with pytest.raises(UsageError, match="no method 'b' to compare with; there are a"):
        read_sections([full], "b")


def full_section() -> Section:
    rows = [
        row(m, b, f"p{i}", i % 3 > 0, b * (i + 1), group=f"g{i % 2}")
        for m in ("a<b", "c")
        for b in (10, 20)
        for i in range(6)
    ]
    rows.append(row("c", 20, "p9", False, 30.0, error="<script>overloaded"))
    return section(rows, [sample(f"p{i}", k, (i + k) % 2 == 0) for i in range(6) for k in range(8)])


def test_the_page_holds_everything_and_needs_nothing_beside_it() -> None:
    html = page([full_section(), full_section()])
    assert html.count("<svg") == 2
    for words in (
        "a&lt;b",
        "10 tokens",
        "pass@k",
        "By difficulty",
        "Normalised regret",
        "Saturation",
        "&lt;script&gt;overloaded",
        "a&lt;b at 10 tokens (6 of 7 problems and seeds)",
    ):
        assert words in html
    assert "<script" not in html
    outside = re.findall(r"(?:src|href)=[\"'](?!#)[^\"']*", html.replace('xlink:href="#', '"#'))
    assert not outside


def test_curves_are_written_as_png_and_svg_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(draw(full_section()), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_groups_stand_from_easy_to_hard_and_cells_of_other_problems_are_named() -> None:
    bins = {"hard": False, "easy": True}
    assert list(section([row("a", 1, name, bins[name], 1.0, group=name) for name in bins], []).groups) == [
        "easy",
        "hard",
    ]
    assert {str(cell): share for cell, share in full_section().unfinished.items()} == {
        "a<b at 10 tokens": "6 of 7",
        "a<b at 20 tokens": "6 of 7",
        "c at 10 tokens": "6 of 7",
    }
    assert not section([row("a", 1, "p", True, 1.0), row("b", 1, "p", True, 1.0)], []).unfinished


def test_many_methods_keep_their_names_beside_the_curves() -> None:
    rows = [row(f"m{i}", b, "p", True, float(b)) for i in range(12) for b in (1, 2)]
    axes = draw(section(rows, [])).axes[0]
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(styles) == 12


def test_the_figures_are_json() -> None:
    (told,) = json.loads(json.dumps(as_object([full_section()])))
    assert {point["cell"]["method"] for point in told["points"]} == {"a<b", "c"}
    assert [p["k"] for p in told["pool"]] == [1, 2, 4, 8]
    assert told["errors"] == [{"problem": "p9", "cell": "c at 20 tokens", "error": "<script>overloaded"}]


def test_numbers_are_spelled_with_the_digits_that_mean_something() -> None:
    assert [amount(x) for x in (None, 12345.6, 99.94, 0.012345)] == ["–", "12,346", "99.9", "0.0123"]
    assert signed(None) == "–"


def test_what_searches_hold_in_the_cache_is_a_mean_over_their_selections() -> None:
    searched: dict[str, Any] = {"selections": 4, "resident": 400, "kept": 200, "idle": 0.5}
    rows = [
        row("plain", 100, "p", True, 10),
        row("beam", 100, "p", True, 10, **searched),
        row("beam", 100, "q", True, 10, **{**searched, "selections": 2, "idle": 0.1}),
        row("beam", 100, "r", False, 10),
    ]
    plain, beam = Section(SETTINGS_, rows, [], None).points
    assert plain.kv is None
    assert beam.kv is not None
    assert tuple(beam.kv) == pytest.approx((150.0, 75.0, 0.3))
    sections = [Section(SETTINGS_, rows, [], None)]
    points = as_object(sections)[0]["points"]
    assert json.loads(json.dumps(points))[1]["kv"]["after"] == pytest.approx(75.0)
    assert "<td>150</td><td>75</td><td>30.0%</td>" in page(sections)


def test_a_searchs_table_compares_under_one_verifier_by_difficulty() -> None:
    rows = [
        row(method, 4, problem, right, 10, "samples", group=group)
        for method, right in (("vote@prm", False), ("beam@prm", True), ("beam@oracle", True))
        for problem, group in (("p", "easy"), ("q", "hard"))
    ]
    lines = list(tables(Section(SETTINGS_, rows[:-3] + rows[4:5], [], None), "vote"))
    heading, _, vote, beam = lines[:4]
    assert heading.startswith("\n| @prm | budget | all |")
    assert vote.startswith("| vote | 4 samples | 0.0 (0.0 to 0.0) | 0.0 (0.0 to 0.0) | 0.0 (0.0 to 0.0) |")
    assert beam.startswith("| beam | 4 samples | 100.0, +100.0 (+100.0 to +100.0) | 100.0, ")
    assert "–" in beam, "a group of which there is no row yet"
    assert not any("oracle" in line for line in lines), "the control was not run by it"
    with pytest.raises(UsageError, match=r"nobody is no method .* without its @VERIFIER: vote, beam"):
        list(tables(Section(SETTINGS_, rows, [], None), "nobody"))


def test_a_small_models_run_is_compared_at_the_flops_of_a_large_one() -> None:
    small = [row("beam", 4, problem, right, 30, group="easy") for problem, right in (("p", True), ("q", False))]
    large = [row("vote", n, problem, n > 1, 10 * n, group="easy") for n in (1, 9) for problem in "pq"]
    heading, _, beam = table(Section(SETTINGS_, small, [], None), Section(SETTINGS_, large, [], None), "vote")
    assert heading == "\n| fake | amount | GFLOPs | all | easy |"
    (cell,) = set(re.findall(r"50\.0, [-+0-9.]+ \([^)]*\)", beam))
    assert cell.startswith("50.0, +0.0 (-50.0 to +50.0)"), "halfway between one and nine, in the logarithm"
    with pytest.raises(UsageError, match="nobody is no method of"):
        list(table(Section(SETTINGS_, small, [], None), Section(SETTINGS_, large, [], None), "nobody"))
