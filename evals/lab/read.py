"""Let lab reward models read a bank: their scores of every step of every sample are kept beside the samples.

    python -m evals.lab.read banks/chain-test-chain-2m --rewards prm corrector
    tts whatif banks/chain-test-chain-2m -s best_of_n best_of_n@recorded:by=prm

The same command goes on where it was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path as File

from evals.lab import chain
from evals.lab.reward import RewardModel
from evals.script import Script
from tts.bank import Asked, Bank, Reading, write_scores
from tts.errors import UsageError

KEEP_SECONDS = 60.0
"""How long scores may be in memory alone."""


def main(bank: File, rewards: Sequence[str], limit: int | None) -> None:
    """Read what has not been read yet, of the first `limit` problems."""
    opened = Bank(bank)
    suite = opened.manifest.source.suite
    if suite != "chain":
        raise UsageError(f"{bank} holds samples of {suite}; there are reward models of chain only")
    for name in rewards:
        _read(opened, name, dict(islice(opened.problems.items(), limit)))


def _read(bank: Bank, name: str, problems: Mapping[str, Asked]) -> None:
    model = RewardModel.of(bank.manifest.model, name)
    begun = name in bank.verifiers
    began = kept = time.monotonic()
    scores: dict[str, Reading] = {}
    for done, (problem, asked) in enumerate(problems.items(), start=1):
        known = bank.reading(name, problem).steps if begun else {}
        keys, columns = bank.rows(problem, "text")
        todo = {key: text for key, text in zip(keys, columns["text"], strict=True) if key not in known}
        if todo:
            steps = [chain.steps_of(text) or ["\n"] for text in todo.values()]
            found = model.score(asked.start[0].content + "\n", steps)
            scores[problem] = Reading(model.info, dict(zip(todo, found, strict=True)))
        now = time.monotonic()
        if scores and (now - kept > KEEP_SECONDS or done == len(problems)):
            write_scores(bank, name, model.info, scores)
            scores, kept = {}, now
            left = (now - began) / done * (len(problems) - done)
            print(f"{name}: {done} of {len(problems)} problems, {left / 60:.0f} min left", flush=True)


if __name__ == "__main__":
    script = Script(__doc__)
    script.add_argument("bank", type=File, help="what tts bank fill chain wrote")
    script.add_argument("--rewards", nargs="+", default=["prm"], help="models, by the ends of their folders' names")
    script.add_argument("--limit", type=int, help="problems, as tts whatif --limit counts them (default: all)")
    script.run(main)
