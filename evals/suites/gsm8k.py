"""GSM8K (Cobbe et al. 2021): 1,319 grade-school word problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.suites.base import Suite, hub, same_answer
from tts.answers import Maths


def row(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The reference is what follows `####` in the worked solution."""
    return {"problem": columns["question"], "answer": columns["answer"].rpartition("####")[2].strip().replace(",", "")}


SUITE = Suite(
    name="gsm8k",
    about="1,319 grade-school word problems (Cobbe et al. 2021)",
    kind=Maths(),
    rows=hub("openai/gsm8k", "test", subset="main", row=row),
    right=same_answer,
)
