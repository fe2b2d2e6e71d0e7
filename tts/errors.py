"""Everything that can go wrong, drawn once.

TTSError
├── UsageError           the caller asked for what cannot be done; the message names the way out
│   ├── PromptTooLong    the prompt leaves no room for a single token
│   ├── NoImages         the model does not see
│   └── JournalMismatch  this journal belongs to another job
├── JournalError         the journal cannot be read or written
├── BackendError         a model call failed; says what it may have cost
├── NoSamples            every model call of a job failed: there is nothing to choose from
├── Suspended            the job goes on elsewhere, from its journal
├── Refused              the ledger or the clock said no; never leaves the door
└── RunError             a strategy used its Run in a way that could not be replayed
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tts.types import Reason, Result, Usage


class TTSError(Exception):
    """Base of every error this package raises on purpose."""


class UsageError(TTSError):
    """Bad input: one line that names the thing and the way out."""


class PromptTooLong(UsageError):
    """The prompt alone fills the model's context."""


class NoImages(UsageError):
    """There are images in the conversation, and the model reads text only."""


class JournalMismatch(UsageError):
    """The journal was written by another job, or the strategy took another path on replay."""


class JournalError(TTSError):
    """The journal cannot be read or written."""


class BackendError(TTSError):
    """A model call failed.

    `usage` is what the call is known to have consumed; None when nobody knows, and then the whole hold is
    charged as lost.
    """

    def __init__(self, message: str, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage


class NoSamples(TTSError):
    """Every model call failed. Carries the result, with its bill, because failures may cost too."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


class Suspended(TTSError):
    """The job was let go of with all that it had: whoever has its journal can go on, and nothing is lost."""


class Refused(TTSError):
    """A call was not allowed to start. The Run turns it into a shorter list; no strategy ever sees it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class RunError(TTSError):
    """A Run was used outside the task it was given to, or after its job ended."""


def counted(number: int, noun: str) -> str:
    """`1 sample`, `2,000 samples`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def unknown(noun: str, name: str, known: Iterable[str]) -> UsageError:
    """One line for a name nobody knows, with the nearest one that somebody does."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {noun} {name!r}; {hint}")
