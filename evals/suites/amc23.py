"""AMC 2023: 40 problems of the AMC 12 whose answers are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.suites.base import Suite, hub, same_answer
from tts.answers import Maths


def row(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Answers come as floating-point numbers, whole ones too."""
    return {"id": f"amc23/{columns['id']}", "problem": columns["question"], "answer": f"{float(columns['answer']):g}"}


SUITE = Suite(
    name="amc23",
    about="40 problems of the AMC 12, 2023, with numeric answers",
    kind=Maths(),
    rows=hub("math-ai/amc23", "test", row=row),
    right=same_answer,
)
