"""AIME 2025: 30 problems whose answers are whole numbers from 0 to 999."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.suites.base import Suite, hub, same_answer
from tts.answers import Maths


def row(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's columns under our names."""
    return {"id": f"aime25/{columns['id']}", "problem": columns["problem"], "answer": str(int(columns["answer"]))}


SUITE = Suite(
    name="aime25",
    about="30 problems of the American Invitational Mathematics Examination 2025",
    kind=Maths(),
    rows=hub("math-ai/aime25", "test", row=row),
    right=same_answer,
)
