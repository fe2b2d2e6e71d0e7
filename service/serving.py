"""The commands that serve: `tts up`, `tts api`, `tts worker`, `tts keys`."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path as File
from typing import Any

import click

from service.keys import Keys, TenantLimits
from service.options import checked
from service.settings import settings, shown
from service.store import Store, Unreachable
from service.store.connection import GONE, connect
from tts.errors import UsageError


def up(folder: File, host: str, port: int, workers: int, backend: str | None) -> int:
    """Everything on one machine."""
    from service.up import up as run

    return run(folder, host, port, workers, backend)


def api(host: str, port: int) -> int:
    """Serve the API until told to stop."""
    import uvicorn

    from service.api import create_app
    from service.worker.celery import send

    _log()
    uvicorn.run(
        create_app(settings(), send),
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    return 0


def worker() -> int:
    """Work on jobs until told to stop."""
    from celery.platforms import SecurityWarning

    from service.worker.celery import app

    _log()
    warnings.filterwarnings("ignore", category=SecurityWarning)  # messages are JSON: root or not is all the same
    app.worker_main(["--quiet", "worker", "--loglevel=WARNING", "--without-gossip", "--without-mingle", "-n", "tts@%h"])
    return 0


def create_key(tenant: str) -> None:
    """Print a new key."""
    click.echo(_with_keys(lambda keys: keys.create(tenant)))
    click.echo("this key is shown once; it is kept only as a hash", err=True)


def list_keys() -> None:
    """Print what keys there are."""
    for key in _with_keys(lambda keys: keys.list()):
        click.echo(f"{key.id}  {key.tenant}")


def revoke_key(id: str) -> None:
    """End a key."""
    _with_keys(lambda keys: keys.revoke(id))


def limit_tenant(tenant: str, limits: dict[str, Any]) -> None:
    """Set what a tenant may do."""
    given = checked(TenantLimits, {name: value for name, value in limits.items() if value is not None})
    _with_keys(lambda keys: keys.limit(tenant, given))


def dead(most: int) -> None:
    """Print the newest dead letters."""

    async def main() -> list[tuple[str, str, float, str]]:
        store = Store(settings())
        try:
            return await store.dead(most)
        finally:
            await store.aclose()

    try:
        found = asyncio.run(main())
    except Unreachable as error:
        raise UsageError(f"no Redis at TTS_REDIS_URL={shown(settings().redis_url)}: {error}") from error
    for id, tenant, at, why in found:
        click.echo(f"{id}  {tenant}  {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}  {why}")
    if not found:
        click.echo("no dead letters", err=True)


def _with_keys(act: Callable[[Keys], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with connect(settings().redis_url) as redis:
            return await act(Keys(redis))

    try:
        return asyncio.run(main())
    except GONE as error:
        raise UsageError(f"no Redis at TTS_REDIS_URL={shown(settings().redis_url)}: {error}") from error


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("celery", "kombu", "amqp", "httpx", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
