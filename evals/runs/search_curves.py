"""What searches are worth beside a weighted vote of independent samples, by verifier, difficulty and number of paths.

    tts eval chain --split test --limit 250 --samples 4 16 --out runs/search \\
      -s self_consistency self_consistency:weights=weighted@prm beam@prm rebase:temperature=5@prm beam@oracle …
    python -m evals.runs.search_curves runs/search --control self_consistency:weights=weighted

prints a table per verifier: accuracy in %, and points against the control under the same verifier at equal total FLOPs,
paired by problem, for all problems and by difficulty, with 95 % bootstrap intervals; then what each search held in the
KV cache and how long it waited at its barriers. Where a control's curve does not reach a search's compute, there is a
dash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path as File

from evals.page import amount, percent, signed
from evals.records import Row
from evals.report import Point, Section, read_sections
from evals.script import Script
from tts.errors import UsageError


def tables(section: Section, control: str) -> Iterator[str]:
    """Lines of Markdown, for every verifier under which the control was run."""
    names = dict.fromkeys(method.partition("@")[2] for method in section.methods)
    found = [name for name in names if _named(control, name) in section.methods]
    if not found:
        raise UsageError(
            f"{control} is no method of {section.title}; name one with --control, without its @VERIFIER: "
            f"{', '.join(dict.fromkeys(method.partition('@')[0] for method in section.methods))}"
        )
    for name in found:
        own = [method for method in section.methods if method.partition("@")[2] == name]
        plain = [method for method in section.methods if "@" not in method and method not in own]
        yield from _table(section, f"@{name}" if name else "as run", _named(control, name), [*plain, *own])


def _named(method: str, verifier: str) -> str:
    return f"{method}@{verifier}" if verifier else method


def _table(section: Section, title: str, control: str, methods: Sequence[str]) -> Iterator[str]:
    rows = [row for row in section.rows if row.cell.method in methods]
    groups = list(section.groups)
    whole = _part(section, rows, control)
    parts = [_part(section, (row for row in rows if row.group == group), control) for group in groups]
    found = [{point.cell: _accuracy(point) for point in part.points} for part in parts]
    columns = ["coverage", "compute", "token-steps", "KV before", "KV kept", "idle"]
    yield f"\n| {title} | budget | all | {' | '.join(groups)} | {' | '.join(columns)} |"
    yield f"|---|{'---|' * (2 + len(groups) + len(columns))}"
    for point in whole.points:
        cell = point.cell
        name, budget = cell.method.partition("@")[0], f"{cell.amount:g} {cell.unit}"
        by_group = [part.get(cell, "–") for part in found]  # an unfinished run may have none of a group yet
        yield f"| {' | '.join([name, budget, _accuracy(point), *by_group, *_costs(point)])} |"


def _part(section: Section, rows: Iterable[Row], control: str) -> Section:
    return Section(section.settings, rows, [], control)


def _accuracy(point: Point) -> str:
    mean, low, high = (100 * each for each in point.accuracy)
    if point.difference is None:
        return f"{mean:.1f} ({low:.1f} to {high:.1f})"
    return f"{mean:.1f}, {signed(point.difference)}"


def _costs(point: Point) -> list[str]:
    kv, steps = point.kv, f"{point.kv_token_steps / 1000:,.0f} k"
    held = [amount(kv.before), amount(kv.after), percent(kv.idle)] if kv else ["–"] * 3
    return [percent(point.coverage), amount(point.compute), steps, *held]


def main(folders: Sequence[File], control: str) -> None:
    """Print the tables of every model's run."""
    for section in read_sections(folders):
        print(f"\n{section.title}")
        print("\n".join(tables(section, control)))


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("folders", type=File, nargs="+", metavar="RUN_DIR", help="what tts eval wrote with --out")
    script.add_argument("--control", default="self_consistency:weights=weighted", help="the method to compare with")
    script.run(main)
