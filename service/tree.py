"""The search as a tree: what was written, what it was worth, and what was given up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from rich.text import Text
from rich.tree import Tree

from service.display import shortened
from tts.journal import Chosen, Held, Record, Settled
from tts.trace import FINISHER

WORDS = 60
"""Characters of a step that are shown."""


class SearchTree:
    """Built from a journal's records, in any number of pieces."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._held: dict[str, Held] = {}
        self._settled: dict[str, Settled] = {}
        self._scores: dict[str, float] = {}
        self._candidates: set[str] = set()
        self._kept: set[str] = set()
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        if isinstance(record, Held) and record.role == "policy":
            self._held[record.key] = record
        elif isinstance(record, Settled) and record.segments:
            self._settled[record.key] = record
        elif isinstance(record, Chosen):
            self._candidates.update(record.candidates)
            self._kept.update(record.kept)
            known = zip(record.candidates, record.scores, strict=True)
            self._scores.update({call: score for call, score in known if score is not None})

    def __rich__(self) -> Tree:
        children: dict[str | None, list[str]] = defaultdict(list)
        for key, held in self._held.items():
            if key in self._settled:
                children[held.parent].append(key)
        root = Tree(Text("problem", style="bold"), guide_style="dim")
        self._grow(root, children[None], children)
        return root

    def _grow(self, tree: Tree, keys: Sequence[str], children: dict[str | None, list[str]]) -> None:
        """What says the same, here and after the same words, is one branch."""
        alike: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            alike[self._text(key)].append(key)
        given_up = []
        for same in alike.values():
            behind = [child for key in same for child in children[key]]
            if behind or not all(map(self._pruned, same)):
                self._grow(tree.add(self._label(same)), behind, children)
            else:
                given_up += same
        if given_up:
            tree.add(self._given_up(given_up))

    def _pruned(self, key: str) -> bool:
        return key in self._candidates and key not in self._kept

    def _text(self, key: str) -> str:
        return "".join(segment.text for segment in self._settled[key].segments)

    def _label(self, same: Sequence[str]) -> Text:
        key, times = same[0], f" ×{len(same)}" if len(same) > 1 else ""
        segments = self._settled[key].segments
        tokens = sum(segment.usage.completion_tokens for segment in segments)
        sign, style = {"stop": (" ✓", "green"), "until": ("", "")}.get(segments[-1].finish, (" … cut short", "yellow"))
        label = Text(self._scored(key), style="cyan")
        forced = "forced: " if key.startswith(FINISHER) else ""
        label.append(f"{forced}{shortened(' '.join(self._text(key).split()), WORDS)}{sign}", style=style)
        return label.append(f"  {tokens}{times}", style="dim")

    def _scored(self, key: str) -> str:
        return f"{self._scores[key]:.2f} " if key in self._scores else ""

    def _given_up(self, keys: Sequence[str]) -> Text:
        scores = sorted(self._scores[key] for key in keys if key in self._scores)
        span = f", scores {scores[0]:.2f} to {scores[-1]:.2f}" if scores else ""
        return Text(f"✂ {len(keys)} pruned{span}", style="dim red")
