"""What the commands do that serve: `tts up`, `tts api`, `tts worker`, `tts keys`."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
import warnings
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path as File
from typing import Any

import click
from redis import Redis

from service import tracing
from service.catalog import Catalog
from service.keys import Keys, TenantLimits
from service.options import checked
from service.settings import URL, check_names, settings, shown
from service.store import Store, Unreachable
from service.store.connection import GONE, connect
from tts.errors import UsageError


def up(folder: File, host: str, port: int, workers: int, backend: str | None, observe: bool) -> int:
    """Everything on one machine."""
    from service.up import up as run

    check(backend)
    check_port(host, port)
    if outside():
        reach(settings().redis_url)
    return run(folder, host, port, workers, backend, observe)


def api(host: str, port: int) -> int:
    """Serve the API until told to stop."""
    import uvicorn

    check()
    check_port(host, port)
    reach(settings().redis_url)
    from service.api import create_app
    from service.worker.celery import send

    _log()
    tracing.start("api", settings().tracing)
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
    check()
    reach(settings().redis_url)
    from celery.platforms import SecurityWarning

    from service.worker.celery import app

    _log()
    tracing.start("worker", settings().tracing)
    warnings.filterwarnings("ignore", category=SecurityWarning)  # messages are JSON: root or not is all the same
    app.worker_main(["--quiet", "worker", "--loglevel=WARNING", "--without-gossip", "--without-mingle", "-n", "tts@%h"])
    return 0


def check(backend: str | None = None) -> None:
    """Refuse, before anything is started, settings and profiles that cannot be."""
    check_names()
    known = settings()
    Catalog(known.model_copy(update={"default_model": backend}) if backend else known).check()


def check_port(host: str, port: int) -> None:
    """Refuse an address that is taken, or is none of this machine's."""
    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        reason = f"port {port} is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise UsageError(f"cannot serve at {host}:{port}: {reason}; name another --host or --port") from error


def outside() -> bool:
    """Whether the store is named, and so somewhere else."""
    return "redis_url" in settings().model_fields_set


def reach(url: str) -> None:
    """Wait a while for a store that is just being started. Raises `UsageError` where none answers."""
    end = time.monotonic() + settings().patience_seconds
    while True:
        try:
            with Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as redis:
                redis.ping()
                return
        except ValueError as error:
            raise UsageError(f"TTS_REDIS_URL={shown(url)}: {str(error).splitlines()[0]}") from error
        except GONE as error:
            if time.monotonic() > end:
                raise _no_store(url, error) from error
        time.sleep(0.1)


def _no_store(url: str, error: Exception) -> UsageError:
    if url != settings().redis_url:
        return UsageError(f"no tts up of this folder runs ({shown(url)}: {error}); start it, or name a TTS_REDIS_URL")
    return UsageError(f"no Redis at TTS_REDIS_URL={shown(url)}: {error}; start one, or let tts up bring its own")


def store_url() -> str:
    """The store that is named, else that of a `tts up` in this folder."""
    file = File(".tts") / URL
    return settings().redis_url if outside() or not file.is_file() else file.read_text().strip()


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


def list_limits(tenant: str) -> None:
    """Print what a tenant may do."""
    limits = _with_keys(lambda keys: keys.limits(tenant))
    click.echo(", ".join(f"{name} {value}" for name, value in limits.items()) or f"{tenant} has no limits")


def limit_tenant(tenant: str, limits: dict[str, Any]) -> None:
    """Set what a tenant may do."""
    given = checked(TenantLimits, {name: value for name, value in limits.items() if value is not None})
    _with_keys(lambda keys: keys.limit(tenant, given))


def dead(most: int) -> None:
    """Print the newest dead letters."""

    async def main() -> list[tuple[str, str, float, str]]:
        store = Store(settings().model_copy(update={"redis_url": store_url()}))
        try:
            return await store.dead(most)
        finally:
            await store.aclose()

    try:
        found = asyncio.run(main())
    except Unreachable as error:
        raise _no_store(store_url(), error) from error
    for id, tenant, at, why in found:
        click.echo(f"{id}  {tenant}  {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}  {why}")
    if not found:
        click.echo("no dead letters", err=True)


def _with_keys(act: Callable[[Keys], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with connect(store_url()) as redis:
            return await act(Keys(redis))

    try:
        return asyncio.run(main())
    except GONE as error:
        raise _no_store(store_url(), error) from error
    except ValueError as error:
        raise UsageError(f"TTS_REDIS_URL={shown(store_url())}: {str(error).splitlines()[0]}") from error


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("celery", "kombu", "amqp", "httpx", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
