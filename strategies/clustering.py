"""Which texts say the same: groups by their words, without a model."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from itertools import pairwise
from typing import Any

from tts.errors import UsageError

WIDTH = 2**16
"""Columns that features are hashed into; a step has some hundred features, so few of them meet."""
GRAM = 4
"""Characters of a gram: long enough to be rare, short enough to outlive another spelling."""


def clusters(texts: list[str], threshold: float = 0.05, vectors: list[list[float]] | None = None) -> list[int]:
    """The cluster of each text, numbered in the order in which they first appear: average linkage of cosine distances,
    cut at `threshold`, between 0 and 1 (ETS: Hooper et al. 2025, its public code).

    Identical texts share a cluster, so do all that are empty. It needs no model, so it costs no FLOPs that a ledger
    would count; nothing in it is random. Made for `Run.compute`.

    Departures: the embedding is of words, word pairs and pieces of words, weighted by TF-IDF among these texts, not a
    language model's. It sees wording, not meaning: at the code's cut of 0.05 little more than reformatted text joins,
    so other cuts are worth trying. A text that occurs often counts once in the averages.

    With `vectors`, one for each text and none of them zero, it is their directions that are compared: somebody else
    has found and paid for the texts' meanings.
    """
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < 2:
        return [0] * len(texts)
    try:
        from scipy.cluster.hierarchy import fcluster, linkage
    except ModuleNotFoundError as error:
        raise UsageError(f"clustering needs {error.name}; pip install 'test-time-scaling[search]'") from error
    firsts = [texts.index(text) for text in distinct]
    rows = _counted(distinct) if vectors is None else [vectors[i] for i in firsts]
    labels = fcluster(linkage(_distances(rows), method="average"), threshold, criterion="distance")
    label_of = dict(zip(distinct, labels.tolist(), strict=True))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(label_of[text], len(numbers)) for text in texts]


def _distances(rows: Any) -> Any:
    """Cosine distances of all pairs of rows, in the order that scipy wants: (0, 1), (0, 2), ..., (1, 2), ..."""
    import numpy as np
    from scipy.sparse import csr_array, diags_array

    sparse = csr_array(rows)
    vectors = diags_array(1.0 / np.sqrt((sparse * sparse).sum(axis=1))) @ sparse
    similar = (vectors @ vectors.T).toarray()
    # Rounding may leave a text a little nearer to another than no distance at all.
    return np.maximum(0.0, 1.0 - similar[np.triu_indices(len(similar), 1)])


def _counted(texts: list[str]) -> Any:
    """TF-IDF among these texts, a sparse row for each."""
    import numpy as np
    from scipy.sparse import csr_array

    counts = [Counter(_features(text)) for text in texts]
    columns = [feature for count in counts for feature in count]
    starts = np.cumsum([0, *map(len, counts)])
    times = np.array([n for count in counts for n in count.values()], dtype=float)
    frequency = np.bincount(columns, minlength=WIDTH)
    weights = times * (1.0 + np.log((1 + len(texts)) / (1 + frequency[columns])))
    return csr_array((weights, columns, starts), shape=(len(texts), WIDTH))


def _features(text: str) -> list[int]:
    """Words and signs, pairs of them, and pieces across them, hashed. An empty text has a feature too, so that it has a
    direction."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    padded = f" {' '.join(words)} "
    pieces = [padded[i : i + GRAM] for i in range(len(padded) - GRAM + 1)]
    grams = [*words, *map(" ".join, pairwise(words)), *pieces] or [""]
    return [zlib.crc32(gram.encode("utf-8", "surrogatepass")) % WIDTH for gram in grams]
