"""What a reward model said of recorded samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, cast

from pydantic import Field

from tts.rehearsal import Rehearsal
from tts.run import Run
from tts.strategy import Verifier
from tts.types import Path, Score
from verifiers.aggregation import AGGREGATIONS, Aggregation


class Recorded(Verifier):
    """The scores that a bank holds, charged at what the reading costs. Only rehearsals can look them up."""

    name: ClassVar[str] = "recorded"
    when: ClassVar[str] = "To rehearse, on a bank, choosing by a reward model that has read its samples."

    by: Annotated[str, Field(description="whose scores, as `tts bank show` lists them")]
    how: Annotated[Aggregation, Field(description="how the scores of steps become one")] = "mean"

    async def score(self, paths: Sequence[Path], run: Run) -> list[Score | None]:
        read = cast(Rehearsal, run).recorded(self.by, paths)
        whole = AGGREGATIONS[self.how]
        return [None if steps is None else Score(value=whole(steps), by=self.by) for steps in read]
