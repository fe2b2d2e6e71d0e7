"""What is compared. Each driver's docstring says what its two configurations are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path as File

HERE = File(__file__).parent
RIVALS = File(".rivals/venv/bin/python")
"""The Python of the rivals' own environment, from the repository's root."""
SAMPLES = 5
"""A job's samples: as many as optillm's self-consistency draws, which cannot be told otherwise."""

STATED = r"(?:^|\n)=(\d+(?:,\d+)*)\s*$"
"""How an answer is found in a text, for tools that can be told; the rule of `evals.lab.chain.Values`."""


@dataclass(frozen=True)
class Tool:
    """A tool in one configuration, and how much it does for a job: `n` makes all spend alike.

    Beside the two configurations that are compared there are other methods of the tool's, by their names: of them
    nothing is asked but what they say that they used, since the lab's policy is no judge of answers.
    """

    name: str
    setup: str
    n: float = SAMPLES
    interrupted: bool = False
    """Whether its users cancel by Ctrl-C, and not by a task or a connection."""

    @property
    def compared(self) -> bool:
        return self.setup in (AS_IS, BEST)

    @property
    def driver(self) -> File:
        return HERE / "drivers" / f"drive_{self.name}.py"

    @property
    def python(self) -> str:
        return sys.executable if self.name == "tts" else str(RIVALS)

    def samples(self, job: int) -> int:
        """Of the `job`-th one, from 0; a fraction makes some of them one larger."""
        return int(self.n * (job + 1)) - int(self.n * job)

    def __str__(self) -> str:
        return f"{self.name} {self.setup}"


AS_IS, BEST = "as is", "best"
TOOLS = [
    Tool("tts", AS_IS),
    Tool("tts", BEST),
    Tool("its_hub", AS_IS),
    Tool("its_hub", BEST),
    Tool("its_hub", "best_of_n"),
    Tool("optillm", AS_IS),
    Tool("optillm", BEST),
    Tool("optillm", "bon"),
    Tool("optillm", "mcts"),
    Tool("treequest", AS_IS, n=5.5, interrupted=True),
    Tool("treequest", BEST, interrupted=True),
    Tool("raw", AS_IS),
    Tool("raw", BEST),
]
