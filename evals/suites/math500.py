"""MATH-500 (Hendrycks et al. 2021; the subset of Lightman et al. 2023): 500 competition problems in five levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.suites.base import Suite, hub, same_answer
from tts.answers import Maths


def row(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's columns under our names."""
    return {
        "id": columns["unique_id"],
        "problem": columns["problem"],
        "answer": columns["answer"],
        "group": f"level {columns['level']}",
    }


SUITE = Suite(
    name="math500",
    about="500 competition problems in five levels (Hendrycks et al. 2021; Lightman et al. 2023)",
    kind=Maths(),
    rows=hub("HuggingFaceH4/MATH-500", "test", row=row),
    right=same_answer,
)
