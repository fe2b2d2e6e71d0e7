"""What reward models are worth, on scores made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import pytest

pytest.importorskip("torch", reason="the local backend's extra is not installed")

from evals.claims import Claim, Claims, Family, lacking, read_claims, verdict
from evals.claims import main as judge_claims
from evals.lab.reward import RewardModel
from evals.records import ROWS, SAMPLES, Cell, Row, Sample, Settings, claim_folder
from evals.report import Section, read_sections
from evals.runs.lab_rewards import (
    Judged,
    best_threshold,
    checked,
    confidence,
    first_error_f1,
    first_false,
    lucky,
    main,
    read_pool,
    rows,
    step_auc,
)
from evals.runs.lab_rewards import judged as score_pool
from evals.suites import SUITES, Item
from tts.backends.fake import FAKE
from tts.cost import flops
from tts.errors import UsageError
from tts.lines import Lines
from tts.types import Completion, Sampling, Usage

SETTINGS = Settings(suite="chain", split="dev", data=None, model=FAKE, sampling=Sampling(), code="1")


def judged(*solutions: tuple[list[float], list[bool]]) -> Judged:
    return Judged([[scores for scores, _ in solutions]], [[truth for _, truth in solutions]])


def test_a_step_auc_counts_pairs_up_to_the_first_false_step() -> None:
    assert step_auc(judged(([0.9, 0.8, 0.1, 0.95], [True, True, False, False]))) == 1.0
    assert step_auc(judged(([0.9, 0.1], [True, False]), ([0.2, 0.5], [True, False]))) == pytest.approx(0.75)
    assert step_auc(judged(([0.5, 0.5], [True, False]))) == 0.5


def test_a_first_error_is_found_only_where_it_is() -> None:
    right, wrong = ([0.9, 0.9], [True, True]), ([0.9, 0.2, 0.9], [True, False, True])
    assert first_error_f1(judged(right, wrong), 0.5) == 1.0
    assert first_error_f1(judged(right, wrong), 0.95) == 0.0
    late = ([0.9, 0.6, 0.2], [True, False, True])
    assert first_error_f1(judged(right, wrong, late), 0.5) == pytest.approx(2 * 1.0 * 0.5 / 1.5)
    assert first_error_f1(judged(late), 0.5) == 0.0
    assert 0.6 < best_threshold(judged(right, wrong, late)) < 0.9
    assert first_false([True, True]) == 2


def sample(item: Item, number: int, text: str, right: bool) -> Sample:
    usage = Usage.of(prompt=50, cached=0, completion=20 + number, seconds=0.1)
    completion = Completion(text=text, token_ids=None, logprob=-1.0, self_certainty=None, finish="stop", usage=usage)
    answer = item.problem.kind.extract(text, True)
    return Sample(
        problem=item.problem.id, seed=0, number=number, group="easy", answer=answer, right=right, completion=completion
    )


def pooled(folder: Path) -> Path:
    """Two problems from further down the suite, three samples each: the right answer once, a wrong one twice."""
    claim_folder(folder, SETTINGS)
    with Lines(folder / SAMPLES, Sample) as out:
        for item in SUITES["chain"].items("dev", 7)[5:]:
            for number, (text, right) in enumerate(
                [(f"={item.reference}", True), ("=1,2", False), ("a:\n=1,2", False)]
            ):
                out.append(sample(item, number, text, right))
    return folder


def test_a_recorded_pool_finds_its_problems_again(tmp_path: Path) -> None:
    settings, pool = read_pool(pooled(tmp_path))
    assert settings == SETTINGS
    assert [len(samples) for _, _, samples in pool] == [3, 3]
    assert all(samples[0].answer == item.reference for item, _, samples in pool)
    assert lucky(pool, checked(pool)) == 0.0


def test_a_pool_of_problems_that_the_suite_no_longer_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pooled(tmp_path)
    monkeypatch.setattr("evals.suites.chain.BINS", {"easy": (3, 4)})
    with pytest.raises(UsageError, match="no longer has"):
        read_pool(folder)


class Counting:
    """A reward model that says how many solutions to the prompt it read before, and each step's length."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def score(self, prompt: str, solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        self.prompts.append(prompt)
        return [[place + len(step) / 100 for step in steps] for place, steps in enumerate(solutions)]


def test_all_seeds_of_a_problem_are_scored_at_once_and_each_gets_its_own(tmp_path: Path) -> None:
    _, pool = read_pool(pooled(tmp_path))
    pool = [(item, seed, samples) for seed in (0, 1) for item, _, samples in pool]
    model = Counting()
    found = score_pool(pool, checked(pool), cast(RewardModel, model), 2)
    assert model.prompts == [item.problem.messages[0].content + "\n" for item, _, _ in pool[:2]]
    first, second = pool[0][2][0].completion.text, pool[0][2][1].completion.text
    for place, base in ((0, 0), (1, 0), (2, 2), (3, 2)):
        scores = found.scores[place]
        assert [len(each) for each in scores] == [1, 1]
        assert [int(each[0]) for each in scores] == [base, base + 1]
    assert found.scores[0] == [[len(first) / 100], [1 + len(second) / 100]]
    assert [len(each) for each in found.truth] == [2] * 4


def test_scores_turn_a_vote_and_are_paid_for(tmp_path: Path) -> None:
    _, pool = read_pool(pooled(tmp_path))
    pool = [(item, seed, [samples[1], samples[0], samples[2]]) for item, seed, samples in pool]
    plain = list(rows(pool, FAKE, 0, "majority", None, False))
    scores = [[0.3, 0.9, 0.3]] * 2
    weighted = list(rows(pool, FAKE, 1000, "weighted", scores, False))
    best = list(rows(pool, FAKE, 1000, "best", scores, True))
    assert [(row.cell.amount, row.right) for row in plain] == [(1, False), (2, False)] * 2
    assert [(row.cell.amount, row.right) for row in weighted] == [(1, False), (2, True)] * 2
    assert [row.right for row in best] == [False, True] * 2
    read_less = rows(pool, FAKE, 1000, "weighted", [[0.9]] * 2, False)
    assert [row.cell.amount for row in read_less] == [1, 1]
    two = flops(FAKE, 50, 0, 21) + flops(FAKE, 50, 50, 20)
    assert plain[1].flops == two
    reader = FAKE.model_copy(update={"parameters": 1000})
    assert weighted[1].flops == two + flops(reader, 50 + 21, 0, 0) + flops(reader, 50 + 20, 50, 0)
    assert (plain[1].verifier_tokens, weighted[1].verifier_tokens) == (0, 50 + 21 + 20)


def test_a_solution_that_comes_twice_is_read_once(tmp_path: Path) -> None:
    _, ((item, _, samples), *_) = read_pool(pooled(tmp_path))
    row = list(rows([(item, 0, [samples[0]] * 2)], FAKE, 1000, "best", [[0.5, 0.5]], True))[-1]
    assert (row.tokens, row.verifier_tokens) == (40, 50 + 20)


def test_confidence_is_the_geometric_mean_of_the_probabilities(tmp_path: Path) -> None:
    _, ((_, _, samples), *_) = read_pool(pooled(tmp_path))
    assert [confidence(each) for each in samples] == pytest.approx([math.exp(-1 / n) for n in (20, 21, 22)])


def test_a_right_answer_after_a_false_step_is_lucky(tmp_path: Path) -> None:
    _, pool = read_pool(pooled(tmp_path))
    assert lucky(pool, [[[True], [False], [False]], [[False], [True], [True]]]) == 0.5


def test_a_pool_that_was_interrupted_is_refused(tmp_path: Path) -> None:
    folder = pooled(tmp_path)
    lines = (folder / SAMPLES).read_bytes().splitlines(keepends=True)
    (folder / SAMPLES).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UsageError, match=r"1 of 2 pools in .* lack samples; run the same tts eval again"):
        read_pool(folder)


def test_scores_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    folder = pooled(tmp_path / "pool")

    def scored(pool: Path, out: str = "out", most: int = 8, thresholds: Path | None = None) -> None:
        main(pool, tmp_path / out, ["prm"], ["mean"], most, thresholds)

    with pytest.raises(UsageError, match="fake has no reward model 'prm'"):
        scored(folder)
    with pytest.raises(UsageError, match="--most must be at least 1"):
        scored(folder, most=0)
    with pytest.raises(UsageError, match=r"out holds no finished scores"):
        scored(folder, thresholds=tmp_path / "out")
    claim_folder(tmp_path / "other", SETTINGS.model_copy(update={"suite": "countdown"}))
    with pytest.raises(UsageError, match="there are reward models of chain only"):
        scored(tmp_path / "other")
    claim_folder(tmp_path / "empty", SETTINGS)
    with pytest.raises(UsageError, match=r"cannot read .*samples"):
        scored(tmp_path / "empty")


def test_a_claim_is_tested_by_problem_at_equal_compute(tmp_path: Path) -> None:
    _, pool = read_pool(pooled(tmp_path))
    made = [*rows(pool, FAKE, 0, "majority", None, False), *rows(pool, FAKE, 0, "ours", [[0.0, 1.0, 1.0]] * 2, False)]
    section = Section(SETTINGS, made, [], None)
    claim = Claim(name="x", hypothesis="better", ours="ours", control="majority", amount=2)
    found = verdict(claim, "samples", [section, section])
    assert (found.found.mean, found.problems, found.runs) == (-1.0, 2, 2)
    assert found.p == 1.0
    forgiving = claim.model_copy(update={"hypothesis": "not worse", "margin": 1.5})
    assert verdict(forgiving, "samples", [section]).p < 0.05
    with pytest.raises(UsageError, match="no run that holds ours at 2 samples holds nothing beside"):
        verdict(claim.model_copy(update={"control": "nothing"}), "samples", [section])


def test_a_claim_about_the_cache_compares_mean_resident_tokens_at_the_same_number(tmp_path: Path) -> None:
    _, pool = read_pool(pooled(tmp_path))
    (plain, *_) = rows(pool, FAKE, 0, "majority", None, False)

    def held(method: str, problem: str, kept: int, amount: float = 2) -> Row:
        cell = Cell(method=method, unit="samples", amount=amount)
        return plain.model_copy(update={"cell": cell, "problem": problem, "selections": 2, "kept": kept})

    sizes = [(60, 100), (80, 200), (50, 100)]
    made = [held("ours", str(i), ours) for i, (ours, _) in enumerate(sizes)]
    made += [held("theirs", str(i), theirs) for i, (_, theirs) in enumerate(sizes)]
    made += [held("ours", "0", 999, amount=4), held("theirs", "0", 1, amount=4)]
    section = Section(SETTINGS, made, [], None)
    claim = Claim(name="x", hypothesis="smaller", ours="ours", control="theirs", amount=2, ratio=0.7)
    found = verdict(claim, "samples", [section])
    assert found.problems == 3
    assert found.found.mean == pytest.approx(190 / 400)
    assert found.found.low <= 190 / 400 <= found.found.high
    assert found.p < 0.05, "in every one of them it is less than 0.7 times as many"
    assert verdict(claim.model_copy(update={"ratio": 0.4}), "samples", [section]).p == 1.0
    with pytest.raises(UsageError, match="no run holds ours at 3 samples"):
        verdict(claim.model_copy(update={"amount": 3}), "samples", [section])


DESIGN = {"name": "these", "suite": "chain", "unit": "samples", "sampling_seeds": 1, "models": 1}


def judged_claims(
    folder: Path, split: Literal["dev", "test"], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """What is printed about three claims, of which one is about nobody, on two problems, one seed and one model."""
    _, pool = read_pool(pooled(folder / "pool"))
    claim_folder(folder / "rows", SETTINGS.model_copy(update={"split": split}))
    with Lines(folder / "rows" / ROWS, Row) as out, Lines(folder / "rows" / SAMPLES, Sample):
        for label, scores in (("majority", None), ("ours", [[0.0, 1.0, 1.0]] * 2)):
            for row in rows(pool, FAKE, 0, label, scores, False):
                out.append(row)
    worse = {"name": "w", "hypothesis": "not worse", "margin": 0.02, "amount": 2}
    claims = [
        {**worse, "ours": "ours", "control": "majority"},
        {**worse, "name": "v", "ours": "majority", "control": "ours"},
        {**worse, "name": "u", "ours": "nobody", "control": "ours"},
    ]
    family = {**DESIGN, "problems": 2, "claim": claims}
    monkeypatch.setattr(
        "evals.claims.read_claims", lambda: Claims.model_validate({"significance": 0.05, "family": [family]})
    )
    judge_claims([folder / "rows"], "these")
    return capsys.readouterr().out.splitlines()


def test_all_claims_are_judged_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody, one, other = judged_claims(tmp_path, "test", monkeypatch, capsys)
    assert nobody.startswith("not tested     u: no run holds nobody at 2 samples")
    assert one.startswith("does not hold  w: ours at 2 samples not worse than majority")
    assert other.startswith("holds          v: majority")
    assert "+100.00" in other


def test_a_family_nobody_declared_is_named_beside_those_that_are() -> None:
    with pytest.raises(UsageError, match="'guesses'; there are choosing"):
        judge_claims([], "guesses")


def test_rows_that_are_not_what_was_promised_decide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, one, other = judged_claims(tmp_path, "dev", monkeypatch, capsys)
    assert all(line.startswith("undecided") and line.endswith("split dev instead of test") for line in (one, other))
    section = read_sections([tmp_path / "rows"])
    family = Family.model_validate({**DESIGN, "problems": 3, "sampling_seeds": 2, "models": 2, "claim": ()})
    claim = Claim(name="x", hypothesis="better", ours="ours", control="majority", amount=2)
    assert lacking(family, verdict(claim, "samples", section), section) == (
        "split dev instead of test, problems 2 instead of 3, sampling seeds 1 instead of 2, models 1 instead of 2"
    )


def test_the_claims_on_file_can_be_read_and_have_names_of_their_own() -> None:
    families = read_claims().family
    assert len({family.name for family in families}) == len(families) > 1
    for family in families:
        assert len({claim.name for claim in family.claim}) == len(family.claim) > 0
