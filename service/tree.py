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
        leaves = [key for key in keys if self._pruned(key) and not children[key]]
        for key in keys:
            if key not in leaves:
                self._grow(tree.add(self._label(key)), children[key], children)
        if leaves:
            tree.add(self._given_up(leaves))

    def _pruned(self, key: str) -> bool:
        return key in self._candidates and key not in self._kept

    def _label(self, key: str) -> Text:
        settled = self._settled[key]
        text = "".join(segment.text for segment in settled.segments)
        tokens = sum(segment.usage.completion_tokens for segment in settled.segments)
        finish = settled.segments[-1].finish
        sign, style = {"stop": (" ✓", "green"), "until": ("", "")}.get(finish, (" … cut short", "yellow"))
        label = Text(f"{self._scored(key)}", style="cyan")
        forced = "forced: " if key.startswith(FINISHER) else ""
        label.append(f"{forced}{shortened(' '.join(text.split()), WORDS)}{sign}", style=style)
        return label.append(f"  {tokens}", style="dim")

    def _scored(self, key: str) -> str:
        return f"{self._scores[key]:.2f} " if key in self._scores else ""

    def _given_up(self, keys: Sequence[str]) -> Text:
        scores = sorted(self._scores[key] for key in keys if key in self._scores)
        span = f", scores {scores[0]:.2f} to {scores[-1]:.2f}" if scores else ""
        return Text(f"✂ {len(keys)} pruned{span}", style="dim red")
