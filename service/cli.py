"""The command `tts`: checks that the installation is whole before anything of it is imported."""

from __future__ import annotations

import gc
import sys
from importlib.util import find_spec
from pathlib import Path as File

PACKAGES = ("tts", "strategies", "verifiers", "service", "evals")


def main() -> None:
    """Run the command line."""
    complaint = stray_package()
    if complaint:
        sys.stderr.write(f"tts: {complaint}\n")
        sys.exit(2)
    from service.commands import cli

    gc.freeze()  # what is imported stays: the collector need not look at it again and again
    cli()


def stray_package() -> str | None:
    """What is wrong when a package of somebody else is found under one of our names, as `verifiers` and `evals`
    on PyPI would be; None where all five lie in one folder."""
    home = File(__file__).parents[1]
    for name in PACKAGES:
        spec = find_spec(name)
        origin = File(spec.origin).parent if spec and spec.origin else None
        if origin != home / name:
            return (
                f"the package {name!r} was found in {origin or 'no folder'} and not in {home}; another distribution "
                f"has its name: install test-time-scaling into a virtual environment of its own"
            )
    return None
