"""A small policy that searches against a large one, at equal total FLOPs.

    tts eval chain --split test --limit 250 --samples 4 16 64 --out runs/small \\
      --backend local:evals/lab/models/chain-500k -s self_consistency rebase:temperature=5@prm-off
    tts eval chain --split test --limit 250 --samples 1 2 4 8 16 32 --out runs/large -s self_consistency
    python -m evals.runs.model_sizes runs/small runs/large --control self_consistency

prints, for everything that the small policy did, its accuracy in % and how many points it is ahead of the large
policy's control at the same FLOPs, all models counted, paired by problem, for all problems and by difficulty, with 95 %
bootstrap intervals. Where the control's curve does not reach there is a dash.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as File

from evals.page import signed
from evals.report import Section, Values, read_sections, right_by_problem
from evals.script import Script
from evals.statistics import mean_by_problem, paired_difference
from tts.errors import UsageError


def table(small: Section, large: Section, control: str) -> Iterator[str]:
    """Lines of Markdown."""
    if control not in large.methods:
        raise UsageError(f"{control} is no method of {large.title}; there are {', '.join(large.methods)}")
    parts = {"all": {row.problem for row in small.rows}}
    parts |= {group: {row.problem for row in small.rows if row.group == group} for group in small.groups}
    yield f"\n| {small.settings.model.name} | amount | GFLOPs | {' | '.join(parts)} |"
    yield f"|---|{'---|' * (2 + len(parts))}"
    for point in small.points:
        flops = small.flops(point)
        theirs = large.values_at(control, flops)
        ours = right_by_problem(row for row in small.rows if row.cell == point.cell)
        cells = [_compared(_of(ours, each), _of(theirs, each) if theirs else None) for each in parts.values()]
        yield f"| {point.cell.method} | {point.cell.amount:g} | {flops / 1e9:.1f} | {' | '.join(cells)} |"


def _of(values: Values, problems: set[str]) -> Values:
    return {problem: each for problem, each in values.items() if problem in problems}


def _compared(ours: Values, theirs: Values | None) -> str:
    difference = paired_difference(ours, theirs) if theirs else None
    return f"{100 * mean_by_problem(ours).mean:.1f}, {signed(difference)}"


def main(small: File, large: File, control: str) -> None:
    """Print the table."""
    (ours,), (theirs,) = read_sections([small]), read_sections([large])
    if (ours.settings.suite, ours.settings.split) != (theirs.settings.suite, theirs.settings.split):
        raise UsageError(f"{small} and {large} hold runs of different problems: {ours.title} and {theirs.title}")
    print("\n".join(table(ours, theirs, control)))


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("small", type=File, help="what tts eval wrote of the small policy")
    script.add_argument("large", type=File, help="and of the large one, on the same problems")
    script.add_argument("--control", default="self_consistency", help="a method of the large policy")
    script.run(main)
