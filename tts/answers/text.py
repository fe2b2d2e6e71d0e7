"""Free text: no two are the same, so nothing can be counted."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from tts.answers.base import AnswerKind, register


@register
class Text(AnswerKind):
    """The whole finished text is the answer. A judge chooses; without one, the text that agrees most with
    all others (minimum Bayes risk); and between two, the one the model is more confident of."""

    name: ClassVar[str] = "text"
    votes: ClassVar[bool] = False
    without_votes: ClassVar[str] = "use best_of_n (judge, consensus or confidence) or single"
    forced: ClassVar[bool] = False

    def find(self, text: str, finished: bool) -> str | None:
        return text.strip() or None if finished else None


def consensus(texts: Sequence[str]) -> list[float]:
    """Mean similarity of each text to the others: the expected utility that minimum-Bayes-risk decoding
    maximises (Kumar and Byrne 2004; Bertsch et al. 2023, "It's MBR all the way down", section 2).

    The embedding is light on purpose: hashed words and word pairs, weighted by TF-IDF, compared by cosine.
    """
    vectors = _embedded(texts)
    return [
        math.fsum(_cosine(one, other) for other in vectors if other is not one) / max(1, len(texts) - 1)
        for one in vectors
    ]


def _embedded(texts: Sequence[str]) -> list[dict[int, float]]:
    counts = [Counter(_features(text)) for text in texts]
    documents = Counter(feature for count in counts for feature in count)
    total = len(texts)
    return [
        _unit({feature: n * (1.0 + math.log((1 + total) / (1 + documents[feature]))) for feature, n in count.items()})
        for count in counts
    ]


def _features(text: str) -> list[int]:
    words = re.findall(r"\w+", text.lower())
    return [zlib.crc32(gram.encode()) for gram in (*words, *map(" ".join, pairwise(words)))]


def _unit(vector: dict[int, float]) -> dict[int, float]:
    length = math.sqrt(math.fsum(x * x for x in vector.values())) or 1.0
    return {feature: x / length for feature, x in vector.items()}


def _cosine(one: dict[int, float], other: dict[int, float]) -> float:
    small, large = sorted((one, other), key=len)
    return math.fsum(x * large.get(feature, 0.0) for feature, x in small.items())
