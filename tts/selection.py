"""Choosing among finished samples: votes where answers can be counted, the kind's own way where not.

A sample without an extractable answer casts no vote; one that was cut short votes only with an answer it had
already stated. Neither is ever an answer by default: only when nothing else is left is a finished sample
returned as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tts.answers import AnswerKind, Code
from tts.answers.text import consensus
from tts.run import Run
from tts.types import Answer, Path, Vote

MODEL_CONFIDENCE = "confidence"
"""The name of the one verifier that is not a judge: it asks the model how sure it was."""


PLAIN = "majority"
"""How an answer was chosen that most votes are for, whatever they are worth."""


@dataclass(frozen=True)
class Ballot:
    """A path and the answer it holds."""

    path: Path
    answer: str


Group = list[Ballot]
"""Ballots with equivalent answers, in the order in which they came; the first one speaks for all."""


def ballots(kind: AnswerKind, paths: Sequence[Path]) -> list[Ballot]:
    """The paths that hold an answer, with it."""
    extracted = ((path, kind.extract(path.text, path.finished)) for path in paths)
    return [Ballot(path, answer) for path, answer in extracted if answer is not None]


async def tally(kind: AnswerKind, cast: Sequence[Ballot], run: Run) -> list[Group]:
    """Ballots grouped by equivalence.

    Each answer is compared with the first member of each group, so no answer counts twice even where the
    equivalence is not transitive. A comparison that does not end in time says "different".
    """
    if isinstance(kind, Code) and run.runner is not None and cast:
        return await _by_behaviour(kind, cast, run)
    groups: dict[str, Group] = {}
    spelled: dict[str, str] = {}
    for ballot in cast:
        if ballot.answer not in spelled:
            spelled[ballot.answer] = await _representative(kind, ballot.answer, list(groups), run)
        groups.setdefault(spelled[ballot.answer], []).append(ballot)
    return list(groups.values())


async def _representative(kind: AnswerKind, answer: str, known: Sequence[str], run: Run) -> str:
    """The first of `known` that is equivalent to `answer`, else `answer` itself."""
    if kind.exact_match:
        return answer
    verdicts = [(other, kind.quick(other, answer)) for other in known]
    for other, verdict in verdicts:
        if verdict or (verdict is None and await run.compute(kind.same, other, answer, otherwise=False)):
            return other
    return answer


async def _by_behaviour(kind: Code, cast: Sequence[Ballot], run: Run) -> list[Group]:
    keys = await run.compute(kind.behaviours, [ballot.answer for ballot in cast], run.runner, seconds=60.0)
    groups: dict[str, Group] = {}
    for ballot, key in zip(cast, keys or [None] * len(cast), strict=True):
        if key is not None:
            groups.setdefault(key, []).append(ballot)
    return list(groups.values())


def elect(groups: Sequence[Group], weights: Sequence[float], chosen: str) -> Answer | None:
    """The group with the largest weight; among equals, the one whose first member came first. Where nothing has a
    score, the votes are plain ones and said to be."""
    if not groups:
        return None
    if not chosen.startswith(PLAIN) and not any(ballot.path.score for group in groups for ballot in group):
        weights, chosen = sizes(groups), f"{PLAIN}, for want of scores"
    winner = max(range(len(groups)), key=lambda i: weights[i])
    paths = [ballot.path for ballot in groups[winner]]
    total = sum(map(len, groups))
    return Answer(
        text=groups[winner][0].answer,
        path=paths[_highest(paths, values(paths))],
        extracted=True,
        support=weights[winner],
        chosen=f"{chosen}: {len(groups[winner])} of {total} votes",
        votes=votes(groups, weights),
    )


def votes(groups: Sequence[Group], weights: Sequence[float]) -> tuple[Vote, ...]:
    """The table of a vote, heaviest group first."""
    rows = [
        Vote(answer=group[0].answer, count=len(group), weight=weight)
        for group, weight in zip(groups, weights, strict=True)
    ]
    return tuple(sorted(rows, key=lambda vote: -vote.weight))


def values(paths: Sequence[Path]) -> list[float]:
    """The scores. Where a verifier failed, that says nothing of the path: it counts as an average one."""
    known = [path.score.value for path in paths if path.score]
    usual = sum(known) / len(known) if known else 1.0
    return [path.score.value if path.score else usual for path in paths]


def sizes(groups: Sequence[Group]) -> list[float]:
    """What each group weighs in a plain vote."""
    return [float(len(group)) for group in groups]


def weighed(groups: Sequence[Group]) -> list[float]:
    """The sum of scores of each group; where all of them are zero, each ballot is as good as another."""
    worth = iter(values([ballot.path for group in groups for ballot in group]))
    sums = [math.fsum(next(worth) for _ in group) for group in groups]
    return sums if any(sums) else sizes(groups)


def best(kind: AnswerKind, cast: Sequence[Ballot]) -> Answer | None:
    """The best single ballot: by score, except that free text without a judge is chosen by consensus."""
    if not cast:
        return None
    paths = [ballot.path for ballot in cast]
    worth, chosen = _preference(kind, paths)
    winner = _highest(paths, worth)
    return Answer(text=cast[winner].answer, path=paths[winner], extracted=True, support=worth[winner], chosen=chosen)


def unextracted(paths: Sequence[Path]) -> Answer | None:
    """The best finished sample as it stands, when no sample holds an answer that could be extracted."""
    finished = [path for path in paths if path.finished]
    if not finished:
        return None
    worth, chosen = _by_score(finished)
    winner = _highest(finished, worth)
    return Answer(
        text=finished[winner].text,
        path=finished[winner],
        extracted=False,
        support=worth[winner],
        chosen=f"{chosen}; no sample held an answer that could be extracted",
    )


def _preference(kind: AnswerKind, paths: Sequence[Path]) -> tuple[list[float], str]:
    judged = any(path.score is not None and path.score.by != MODEL_CONFIDENCE for path in paths)
    if kind.votes or judged or len(paths) < 3:
        return _by_score(paths)
    return consensus([path.text for path in paths]), f"closest to the other {len(paths) - 1} samples"


def _by_score(paths: Sequence[Path]) -> tuple[list[float], str]:
    by = sorted({path.score.by for path in paths if path.score})
    how = f"highest {' or '.join(by)} of {len(paths)}" if by else f"first of {len(paths)}"
    return values(paths) if by else [0.0] * len(paths), how


def _highest(paths: Sequence[Path], worth: Sequence[float]) -> int:
    """Of the one that is worth most; among equals one that has a score, then the first."""
    return max(range(len(paths)), key=lambda i: (worth[i], paths[i].score is not None))
