"""What a strategy and a verifier are: data, and one method each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from tts.types import Answer, Need, Path, Problem, Role, Score, Sheet

if TYPE_CHECKING:
    from tts.run import Run


class Asker(BaseModel, ABC):
    """Whoever may have texts read by a model that is not the policy."""

    @property
    def manner(self) -> str:
        """Which of several ways of asking is its own, and what the others are, for messages; nothing where there is
        one."""
        return ""

    def trial(self, problem: Problem) -> Sheet | None:
        """A sheet like those that its model will be asked to read: one that cannot be is refused before the first token
        is spent. None where it asks nobody."""
        return None


class Strategy(Asker):
    """Hyper-parameters, and a search that spends through a `Run`.

    A search yields better and better answers and needs no `try`, clock or task of its own: where the budget,
    the deadline or the caller ends it, its calls simply return fewer paths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same parameters make other calls: journals of another version are not replayed."""
    when: ClassVar[str]
    """One sentence on when to use it."""
    together: ClassVar[bool] = False
    """Whether its `n` solutions are grown side by side: a budget that cannot end all of them ends none."""

    @property
    def needs(self) -> frozenset[Need]:
        """What is checked before the first token."""
        return frozenset()

    @property
    def reads(self) -> Role | None:
        """The role of a model that it has texts read by, which has to be there and able to."""
        return None

    @abstractmethod
    def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]: ...


class Verifier(Asker):
    """Scores paths. Whatever it asks of a model it buys through the `Run` it is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[int] = 1
    when: ClassVar[str]
    reads: ClassVar[Role | None] = None
    """The role of the model that reads for it, which has to be there and able to."""

    @property
    def needs(self) -> frozenset[Need]:
        """Of the model whose paths are scored."""
        return frozenset()

    @abstractmethod
    async def score(self, paths: Sequence[Path], run: Run) -> list[Score | None]:
        """One score per path, in order; None where there is none to give."""
