"""What is run as `python -m evals.…`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tts.errors import TTSError


class Script(argparse.ArgumentParser):
    """A module's command line: its docstring is the help, and what a user did wrong is one line."""

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def run(self, main: Callable[..., object]) -> None:
        """Call `main` with the arguments by name; exit code 2 and the reason where they make no sense."""
        try:
            main(**vars(self.parse_args()))
        except TTSError as error:
            self.exit(2, f"{self.prog}: {error}\n")
