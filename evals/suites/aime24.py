"""AIME 2024: 30 problems whose answers are whole numbers from 0 to 999."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.suites.base import Suite, hub, same_answer
from tts.answers import Maths


def row(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's columns under our names."""
    return {"id": f"aime24/{columns['id']}", "problem": columns["problem"], "answer": str(int(columns["answer"]))}


SUITE = Suite(
    name="aime24",
    about="30 problems of the American Invitational Mathematics Examination 2024",
    kind=Maths(),
    rows=hub("HuggingFaceH4/aime_2024", "train", row=row),
    right=same_answer,
)
