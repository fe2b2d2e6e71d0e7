"""What the lab's reward models are worth: how well they find false steps, and what their scores add to a vote.

    tts eval chain --samples 16 --strategy self_consistency --limit 300 --out runs/pool
    python -m evals.runs.lab_rewards runs/pool --out runs/rewards --most 8
    tts report runs/rewards --baseline majority
    python -m evals.runs.lab_rewards runs/test --out runs/test-rewards --most 8 --thresholds runs/rewards

scores every sample of a recorded pool with each reward model, and writes the rows of best-of-N and of weighted votes
for N = 1, 2, 4, … into the second folder, where `tts report` reads them like any others. Their compute counts the
reward model: it reads each different solution once, and the prompt once per problem. Below which score a step is
called false is chosen for each model on these very samples, unless --thresholds names scores of others.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path as File
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from evals.lab import chain
from evals.lab.reward import RewardModel
from evals.records import ROWS, SAMPLES, Cell, Row, Sample, Settings, claim_folder, read_settings
from evals.script import Script
from evals.suites import SUITES, Item
from tts.cost import flops
from tts.errors import UsageError
from tts.lines import Lines, read_lines
from tts.types import ModelInfo
from verifiers.aggregation import AGGREGATIONS, Aggregation

REWARDS = ("prm", "prm-off", "prm-flipped", "prm-shuffled", "corrector")
"""What the folders of a policy's reward models are called, after its own name; a corrector is one without labels."""
FARTHEST = 64
"""How far down the suite its problems are looked for, in multiples of their number."""
MEASURES = "rewards.json"
Pool = list[tuple[Item, int, list[Sample]]]
"""A problem, a seed, and its samples in the order in which they were numbered."""
Truth = list[list[list[bool]]]
"""Of every sample's every step, whether it is right."""


class Judged(NamedTuple):
    """A reward model's scores of all steps of a pool, beside the truth."""

    scores: list[list[list[float]]]
    truth: Truth


def read_pool(folder: File) -> tuple[Settings, Pool]:
    """Every problem and seed with its samples, of which all have equally many."""
    settings = read_settings(folder)
    if settings.suite != "chain":
        raise UsageError(f"{folder} holds samples of {settings.suite}; there are reward models of chain only")
    by_problem: dict[tuple[str, int], dict[int, Sample]] = defaultdict(dict)
    for sample in read_lines(folder / SAMPLES, Sample):
        by_problem[sample.problem, sample.seed][sample.number] = sample
    largest = max(map(len, by_problem.values()), default=0)
    short = sum(set(pool) != set(range(largest)) for pool in by_problem.values())
    if short or not largest:
        raise UsageError(f"{short} of {len(by_problem)} pools in {folder} lack samples; run the same tts eval again")
    wanted = {problem for problem, _ in by_problem}
    items: dict[str, Item] = {}
    limit = len(wanted)
    while not wanted <= items.keys():  # ids say nothing of how far down the suite a problem stands
        if limit > FARTHEST * len(wanted):
            raise UsageError(f"{folder} holds problems that {settings.suite} no longer has; draw its samples again")
        items = {item.problem.id: item for item in SUITES[settings.suite].items(settings.split, limit)}
        limit *= 2
    return settings, [
        (items[problem], seed, [pool[i] for i in range(largest)]) for (problem, seed), pool in by_problem.items()
    ]


def checked(pool: Pool) -> Truth:
    """What the oracle says of every step of a pool."""
    return [
        [chain.judge(chain.read(item.problem.messages[0].content), sample.completion.text) for sample in samples]
        for item, _, samples in pool
    ]


def judged(pool: Pool, truth: Truth, model: RewardModel, most: int) -> Judged:
    """Score every step of each pool's first samples, `most` of them, saying how far it is."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, (item, _, _) in enumerate(pool):
        places[item.problem.messages[0].content].append(place)
    scores: list[list[list[float]]] = [[] for _ in pool]
    began = said = time.monotonic()
    for done, (prompt, shared) in enumerate(places.items(), start=1):  # all seeds of a problem at once
        read = [[chain.steps_of(s.completion.text) or ["\n"] for s in pool[place][2][:most]] for place in shared]
        found = iter(model.score(prompt + "\n", [steps for each in read for steps in each]))
        for place, each in zip(shared, read, strict=True):
            scores[place] = [next(found) for _ in each]
        now = time.monotonic()
        if now - said > 10:
            said = now
            print(f"{done} of {len(places)}, {(now - began) / done * (len(places) - done):.0f} s left", flush=True)
    return Judged(scores, [each[:most] for each in truth])


def step_auc(found: Judged) -> float:
    """The chance that a right step scores higher than a false one; steps after a solution's first false one, which
    rest on it, are left out."""
    pairs = [
        (score, good)
        for scores, truths in zip(found.scores, found.truth, strict=True)
        for each, true in zip(scores, truths, strict=True)
        for score, good in list(zip(each, true, strict=False))[: first_false(true) + 1]
    ]
    ranks = rankdata([score for score, _ in pairs])
    good = np.array([good for _, good in pairs])
    positives, negatives = int(good.sum()), int((~good).sum())
    return float((ranks[good].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def first_error_f1(found: Judged, threshold: float) -> float:
    """The harmonic mean of two accuracies: of finding the first false step where there is one, and of finding none
    where there is none (Zheng et al. 2024, "ProcessBench", section 2.3). A step is called false below the threshold."""
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for scores, truths in zip(found.scores, found.truth, strict=True):
        for each, true in zip(scores, truths, strict=True):
            said = next((i for i, score in enumerate(each) if score < threshold), len(true))
            hits[all(true)].append(said == first_false(true))
    one, other = (sum(h) / max(1, len(h)) for h in hits.values())
    return 2 * one * other / (one + other) if one + other else 0.0


def best_threshold(found: Judged) -> float:
    """The threshold of the highest first-error F1, among a hundred at equal shares of the steps."""
    scores = [score for each in found.scores for steps in each for score in steps]
    candidates = np.unique(np.quantile(scores, np.linspace(0.005, 0.995, 100)))
    return float(max(candidates, key=lambda threshold: first_error_f1(found, threshold)))


def first_false(truth: Sequence[bool]) -> int:
    """The index of the first false step; the number of steps where there is none."""
    return next((i for i, good in enumerate(truth) if not good), len(truth))


def rows(
    pool: Pool, policy: ModelInfo, reward: int, label: str, scores: list[list[float]] | None, best: bool
) -> Iterator[Row]:
    """The rows of one way of choosing, for N = 1, 2, 4, …; `scores` weigh the samples, equally where there are none,
    and `best` takes the highest instead of voting. `reward` is the size of the model that gave them."""
    for place, (item, seed, samples) in enumerate(pool):
        prompt = samples[0].completion.usage.prompt_tokens
        for n in (2**i for i in range(len(samples if scores is None else scores[place]).bit_length())):
            chosen = samples[:n]
            weights = [1.0] * n if scores is None else scores[place][:n]
            answer = _best(chosen, weights) if best else _vote(chosen, weights)
            tokens = [sample.completion.usage.completion_tokens for sample in chosen]
            spent = sum(flops(policy, prompt, prompt if i else 0, made) for i, made in enumerate(tokens))
            read, reading = _reading(policy, reward, chosen) if reward else (0, 0.0)
            yield Row(
                cell=Cell(method=label, unit="samples", amount=n),
                seed=seed,
                problem=item.problem.id,
                group=item.group,
                right=answer is not None and SUITES["chain"].right(item, answer),
                covered=any(sample.right for sample in chosen),
                answer=answer,
                error=None,
                stop="done",
                tokens=sum(tokens),
                prompt_tokens=prompt * n,
                cached_tokens=prompt * (n - 1),
                verifier_tokens=read,
                seconds=0.0,
                usd=None,
                flops=spent + reading,
                kv_token_steps=sum(sample.completion.usage.kv_token_steps for sample in chosen),
                finished=sum(sample.completion.finish == "stop" for sample in chosen),
                truncated=sum(sample.completion.finish != "stop" for sample in chosen),
                failed=0,
            )


def _reading(policy: ModelInfo, reward: int, samples: Sequence[Sample]) -> tuple[int, float]:
    """Tokens and FLOPs of a reward model that reads the prompt once, and each different solution to the end of its
    last line."""
    reader = policy.model_copy(update={"parameters": reward})
    prompt = samples[0].completion.usage.prompt_tokens
    lengths = list({s.completion.text: s.completion.usage.completion_tokens for s in samples}.values())
    spent = sum(flops(reader, prompt + more, prompt if i else 0, 0) for i, more in enumerate(lengths))
    return prompt + sum(lengths), spent


def _best(samples: Sequence[Sample], weights: Sequence[float]) -> str | None:
    held = [
        (weight, -i, sample.answer)
        for i, (sample, weight) in enumerate(zip(samples, weights, strict=True))
        if sample.answer
    ]
    return max(held)[2] if held else None


def _vote(samples: Sequence[Sample], weights: Sequence[float]) -> str | None:
    total: dict[str, float] = defaultdict(float)
    for sample, weight in zip(samples, weights, strict=True):
        if sample.answer is not None:
            total[sample.answer] += weight
    return max(total, key=lambda answer: total[answer]) if total else None


def confidence(sample: Sample) -> float:
    """The geometric mean of the tokens' probabilities, which costs nothing."""
    completion = sample.completion
    if completion.logprob is None:
        raise UsageError("this pool has no log-probabilities, and hence no confidence to compare with")
    return math.exp(completion.logprob / max(1, completion.usage.completion_tokens))


def main(
    pool: File,
    out: File,
    rewards: Sequence[str],
    aggregations: Sequence[Aggregation],
    most: int,
    thresholds: File | None,
) -> None:
    """Score, print what the models are worth step by step, and write the rows."""
    if most < 1:
        raise UsageError("--most must be at least 1: reward models have to read something")
    settings, drawn = read_pool(pool)
    chosen = {name: measures["threshold"] for name, measures in read_measures(thresholds).items()} if thresholds else {}
    policy = settings.model
    models = {name: RewardModel.of(policy, name) for name in rewards}
    claim_folder(out, settings)
    if (out / ROWS).is_file():
        raise UsageError(f"{out} holds scores already, perhaps of other models; name another folder with --out")
    truth = checked(drawn)
    share = lucky(drawn, truth)
    print(f"{len(drawn)} pools of {len(drawn[0][2])} samples; right with a false step: {share:.1%} of the right")
    measures: dict[str, dict[str, float]] = {}
    with Lines(out / ROWS, Row) as lines, Lines(out / SAMPLES, Sample):
        sure = [[confidence(sample) for sample in samples] for _, _, samples in drawn]
        ways = [
            ("majority", 0, None, False),
            ("confidence_weighted", 0, sure, False),
            ("confidence_best", 0, sure, True),
        ]
        for name, model in models.items():
            found = judged(drawn, truth, model, most)
            threshold = chosen[name] if name in chosen else best_threshold(found)
            auc, f1 = step_auc(found), first_error_f1(found, threshold)
            measures[name] = {"step_auc": auc, "first_error_f1": f1, "threshold": threshold}
            here = "chosen there" if name in chosen else "chosen here"
            print(f"{name}: step AUC {auc:.3f}, first-error F1 {f1:.3f} at {threshold:.3f}, {here}")
            for how in aggregations:
                whole = [[AGGREGATIONS[how](each) for each in scores] for scores in found.scores]
                ways += [
                    (f"{name}:{how}_weighted", model.info.parameters, whole, False),
                    (f"{name}:{how}_best", model.info.parameters, whole, True),
                ]
        ways.append(("oracle_best", 0, [[float(all(steps)) for steps in each] for each in truth], True))
        for label, size, scores, best in ways:
            for row in rows(drawn, policy, size, label, scores, best):
                lines.append(row)
    (out / MEASURES).write_text(json.dumps(measures, indent=2) + "\n", encoding="utf-8")


def lucky(pool: Pool, truth: Truth) -> float:
    """The share of right answers that rest on a false step."""
    right = [
        steps
        for (_, _, samples), each in zip(pool, truth, strict=True)
        for sample, steps in zip(samples, each, strict=True)
        if sample.right
    ]
    return sum(not all(steps) for steps in right) / max(1, len(right))


def read_measures(folder: File) -> dict[str, dict[str, float]]:
    """What an earlier run found out about each reward model."""
    try:
        found: dict[str, dict[str, float]] = json.loads((folder / MEASURES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} holds no finished scores: {MEASURES} cannot be read") from error
    return found


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("pool", type=File, help="what tts eval chain --samples wrote")
    script.add_argument("--out", type=File, required=True, help="a new folder")
    script.add_argument("--rewards", nargs="*", default=REWARDS, help="models, by the ends of their folders' names")
    script.add_argument("--aggregations", nargs="*", default=["mean", "prod"], choices=AGGREGATIONS, help="of steps")
    script.add_argument("--most", type=int, default=256, help="samples of a problem that reward models read")
    script.add_argument("--thresholds", type=File, help="scores on dev, whose thresholds of false steps are used")
    script.run(main)
