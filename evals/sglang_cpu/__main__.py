"""Serve a model in the foreground."""

import os
from pathlib import Path

import click

from evals.sglang_cpu import PYTHON, arguments, environment


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--port", type=int, default=30000, show_default=True)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def serve(model: Path, port: int, flags: tuple[str, ...]) -> None:
    """Serve MODEL with SGLang on the CPU; further flags are SGLang's own. Ready, in about 30 seconds, when /health
    answers."""
    if not PYTHON.is_file():
        raise click.ClickException("SGLang is not installed here; run `make sglang`")
    os.execve(PYTHON, [str(PYTHON), "-m", "sglang.launch_server", *arguments(model, port, flags)], environment())


serve()
