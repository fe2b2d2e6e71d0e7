"""Test every claim of `claims.toml` at once.

    python -m evals.claims RUN_DIR…

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

from evals.records import Cell
from evals.report import Section, read_sections
from evals.script import Script
from evals.statistics import Estimate, holm, mean_by_problem, p_value
from tts.errors import UsageError

FILE = File(__file__).parent / "claims.toml"


class Claim(BaseModel):
    """Ours at so many samples, against a control at equal total compute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    suite: str
    hypothesis: Literal["better", "not worse"]
    ours: str
    control: str
    samples: int
    margin: float


class Claims(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problems: int
    sampling_seeds: int
    training_seeds: int
    significance: float
    claim: tuple[Claim, ...]


class Verdict(NamedTuple):
    """What the rows say of one claim."""

    claim: Claim
    difference: Estimate
    problems: int
    runs: int
    p: float


def read_claims(file: File = FILE) -> Claims:
    """The claims as they were committed."""
    return Claims.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))


def verdict(claim: Claim, sections: Sequence[Section]) -> Verdict:
    """Test one claim on all runs of its suite, before any adjustment."""
    values: dict[str, list[float]] = defaultdict(list)
    runs = 0
    for section in sections:
        cell = Cell(method=claim.ours, unit="samples", amount=claim.samples)
        pair = section.paired(cell, claim.control) if section.settings.suite == claim.suite else None
        if pair is None:
            continue
        runs += 1
        for problem in pair[0].keys() & pair[1].keys():
            values[problem].append(float(np.mean(pair[0][problem]) - np.mean(pair[1][problem])))
    if not values:
        raise UsageError(
            f"no run holds {claim.ours} at {claim.samples} samples and {claim.control} at equal compute; if the "
            f"control's curve ends before, a pool of more samples reaches there"
        )
    ordered = {problem: values[problem] for problem in sorted(values)}
    threshold = 0.0 if claim.hypothesis == "better" else -claim.margin
    p = p_value([float(np.mean(each)) for each in ordered.values()], threshold)
    return Verdict(claim, mean_by_problem(ordered), len(ordered), runs, p)


def lacking(claims: Claims, found: Verdict, sections: Sequence[Section]) -> str:
    """What the rows lack of the committed design; nothing where they are what was promised."""
    own = [section for section in sections if section.settings.suite == found.claim.suite]
    seeds = min(len({row.seed for row in section.rows}) for section in own)
    wants = (
        (", ".join(sorted({section.settings.split for section in own})), "test", "split"),
        (found.problems, claims.problems, "problems"),
        (seeds, claims.sampling_seeds, "sampling seeds"),
        (found.runs, claims.training_seeds, "models"),
    )
    return ", ".join(f"{what} {is_} instead of {promised}" for is_, promised, what in wants if is_ != promised)


def main(folders: Sequence[File]) -> None:
    """Print a line per claim, Holm-adjusted over all of them. A claim that cannot be tested counts as one with p = 1;
    rows that are not what was promised decide nothing."""
    claims, sections = read_claims(), read_sections(folders)
    found: dict[str, Verdict] = {}
    for claim in claims.claim:
        try:
            found[claim.name] = verdict(claim, sections)
        except UsageError as error:
            print(f"not tested     {claim.name}: {error}")
    adjusted = holm({claim.name: found[claim.name].p if claim.name in found else 1.0 for claim in claims.claim})
    for name, each in found.items():
        claim, difference, p = each.claim, each.difference, adjusted[name]
        short = lacking(claims, each, sections)
        holds = "undecided" if short else "holds" if p < claims.significance else "does not hold"
        points = f"{100 * difference.mean:+.2f} ({100 * difference.low:+.2f} to {100 * difference.high:+.2f})"
        said = f"{claim.ours} at {claim.samples} samples {claim.hypothesis} than {claim.control} at equal compute"
        size = f"{each.problems} problems, {each.runs} models"
        print(
            f"{holds:<13}  {claim.name}: {said}: {points} points, Holm p {p:.4f}; {size}"
            + (f"; {short}" if short else "")
        )


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("folders", type=File, nargs="+", metavar="RUN_DIR")
    script.run(main)
