"""`tts up`, `tts api`, `tts worker`, `tts dead`: the service."""

from __future__ import annotations

from pathlib import Path as File
from typing import Any

import click

from service.commands.shared import guarded, optional


@click.command("up")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve at.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option("--backend", help="The model, as for `tts solve`, that requests without one mean.  [default: local]")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=File),
    default=".tts",
    show_default=True,
    help="Where the embedded Valkey keeps jobs and journals; not used where TTS_REDIS_URL names another one.",
)
@click.option("--observe", is_flag=True, help="Start a Prometheus too, if there is one; say where dashboards are.")
def up(**options: Any) -> None:
    """Serve on this machine: API, worker, store and model, in the foreground.

    \b
    tts up
    tts up --backend sglang:http://gpu1:30000,http://gpu2:30000
    TTS_REDIS_URL=redis://store:6379/0 tts up --workers 4

    Ctrl-C stops everything; jobs that had not ended go on at the next start.
    """
    guarded(lambda: optional("serving", "service").up(**options))


@click.command("api")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve at.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
def api(host: str, port: int) -> None:
    """Serve the API alone; workers and the store at TTS_REDIS_URL are elsewhere."""
    guarded(lambda: optional("serving", "service").api(host, port))


@click.command("worker")
def worker() -> None:
    """Work on the jobs in the store at TTS_REDIS_URL; as many of these as there is to do.

    SIGTERM: claims nothing more, ends what is running within TTS_DRAIN_SECONDS, and hands back the rest.
    """
    guarded(lambda: optional("serving", "service").worker())


@click.command("dead")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The newest so many.")
def dead(limit: int) -> None:
    """List dead letters: jobs that nobody could bring to their ends, and why."""
    guarded(lambda: optional("serving", "service").dead(limit))
