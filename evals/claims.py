"""Test every claim of a family of `claims.toml` at once.

    python -m evals.claims RUN_DIR… --family choosing

reads rows of `tts eval` and of `evals.runs.lab_rewards`. A claim about several training seeds reads several runs, one
per model; a problem is one observation, however many seeds it was tried with.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path as File
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from evals.records import Cell, Unit
from evals.report import Section, Values, read_sections, values_by_problem
from evals.script import Script
from evals.statistics import Estimate, holm, mean_by_problem, p_value, ratio_by_problem
from tts.errors import UsageError

FILE = File(__file__).parent / "claims.toml"


class Claim(BaseModel):
    """Ours at some amount of the family's unit, against a control at equal total compute, or at the same amount."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hypothesis: Literal["better", "not worse", "smaller"]
    ours: str
    control: str
    amount: float
    margin: float = 0.0
    """How much accuracy may be lost, as a share."""
    ratio: float = 1.0
    """Of ours to the control's mean resident tokens: the most there may be."""

    def said(self, unit: Unit) -> str:
        """The claim in words."""
        at = f"{self.amount:g} {unit}"
        if self.hypothesis == "smaller":
            return f"{self.ours} holds at most {self.ratio:.3g} of the tokens of {self.control} at {at}"
        return f"{self.ours} at {at} {self.hypothesis} than {self.control} at equal compute"


class Family(BaseModel):
    """Claims that are tested together on one run of a suite's test split, as it was promised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    suite: str
    unit: Unit
    problems: int
    sampling_seeds: int
    models: int
    claim: tuple[Claim, ...]


class Claims(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    significance: float
    family: tuple[Family, ...]


class Verdict(NamedTuple):
    """What the rows say of one claim: a difference in accuracy, or a ratio of resident tokens."""

    claim: Claim
    found: Estimate
    problems: int
    runs: int
    p: float

    def __str__(self) -> str:
        if self.claim.hypothesis == "smaller":
            return f"{self.found.mean:.3f} ({self.found.low:.3f} to {self.found.high:.3f})"
        points = (f"{100 * each:+.2f}" for each in self.found)
        return "{} ({} to {}) points".format(*points)


Pairs = dict[str, tuple[list[float], list[float]]]
"""Ours and the control's values by problem, one of each per run."""


def read_claims(file: File = FILE) -> Claims:
    """The claims as they were committed."""
    return Claims.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))


def verdict(claim: Claim, unit: Unit, sections: Sequence[Section]) -> Verdict:
    """Test one claim on all runs of its suite, before any adjustment."""
    pairs: Pairs = defaultdict(lambda: ([], []))
    runs = 0
    for section in sections:
        compared = _compared(claim, unit, section)
        if compared is None:
            continue
        runs += 1
        for problem in compared[0].keys() & compared[1].keys():
            for values, each in zip(pairs[problem], compared, strict=True):
                values.append(float(np.mean(each[problem])))
    if not pairs:
        raise UsageError(_missing(claim, unit, sections))
    both = [(float(np.mean(ours)), float(np.mean(theirs))) for _, (ours, theirs) in sorted(pairs.items())]
    if claim.hypothesis == "smaller":
        p = p_value([claim.ratio * theirs - ours for ours, theirs in both], 0.0)
        return Verdict(claim, ratio_by_problem(both), len(both), runs, p)
    differences = [ours - theirs for ours, theirs in both]
    p = p_value(differences, 0.0 if claim.hypothesis == "better" else -claim.margin)
    found = mean_by_problem({str(i): [each] for i, each in enumerate(differences)})
    return Verdict(claim, found, len(both), runs, p)


def _missing(claim: Claim, unit: Unit, sections: Sequence[Section]) -> str:
    """Why a claim has nothing to go by."""
    ours = Cell(method=claim.ours, unit=unit, amount=claim.amount)
    cells = {row.cell for section in sections for row in section.rows}
    if ours not in cells:
        return f"no run holds {ours}"
    if claim.hypothesis == "smaller" or not any(cell.method == claim.control for cell in cells):
        return f"no run that holds {ours} holds {claim.control} beside it"
    return f"the curve of {claim.control} does not reach the compute of {ours}; run it at more budgets"


def _compared(claim: Claim, unit: Unit, section: Section) -> tuple[Values, Values] | None:
    """Ours and the control's values by problem: the mean tokens resident after a selection, at the same amount, or
    whether it was solved, at equal compute. None where a run does not have both."""
    cells = [Cell(method=method, unit=unit, amount=claim.amount) for method in (claim.ours, claim.control)]
    if claim.hypothesis != "smaller":
        return section.paired(cells[0], claim.control)
    searched = [row for row in section.rows if row.selections]
    ours, theirs = (
        values_by_problem((row for row in searched if row.cell == cell), lambda row: row.kept / row.selections)
        for cell in cells
    )
    return (ours, theirs) if ours.keys() & theirs.keys() else None


def lacking(family: Family, found: Verdict, sections: Sequence[Section]) -> str:
    """What the rows lack of the committed design; nothing where they are what was promised."""
    seeds = min(len({row.seed for row in section.rows}) for section in sections)
    wants = (
        (", ".join(sorted({section.settings.split for section in sections})), "test", "split"),
        (found.problems, family.problems, "problems"),
        (seeds, family.sampling_seeds, "sampling seeds"),
        (found.runs, family.models, "models"),
    )
    return ", ".join(f"{what} {is_} instead of {promised}" for is_, promised, what in wants if is_ != promised)


def main(folders: Sequence[File], family: str) -> None:
    """Print a line per claim, Holm-adjusted over its family. A claim that cannot be tested counts as one with p = 1;
    rows that are not what was promised decide nothing."""
    claims = read_claims()
    named = {each.name: each for each in claims.family}
    if family not in named:
        raise UsageError(f"no family of claims is called {family!r}; there are {', '.join(named)}")
    _judge(named[family], claims.significance, read_sections(folders))


def _judge(family: Family, significance: float, sections: Sequence[Section]) -> None:
    own = [section for section in sections if section.settings.suite == family.suite]
    found: dict[str, Verdict] = {}
    for claim in family.claim:
        try:
            found[claim.name] = verdict(claim, family.unit, own)
        except UsageError as error:
            print(f"not tested     {claim.name}: {error}")
    adjusted = holm({claim.name: found[claim.name].p if claim.name in found else 1.0 for claim in family.claim})
    for name, each in found.items():
        p, short = adjusted[name], lacking(family, each, own)
        holds = "undecided" if short else "holds" if p < significance else "does not hold"
        size = f"{each.problems} problems, {each.runs} models{f'; {short}' if short else ''}"
        print(f"{holds:<13}  {name}: {each.claim.said(family.unit)}: {each}, Holm p {p:.4f}; {size}")


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("folders", type=File, nargs="+", metavar="RUN_DIR")
    script.add_argument("--family", required=True, help="which claims; each was declared with a run of its own")
    script.run(main)
