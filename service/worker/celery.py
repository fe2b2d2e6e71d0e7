"""The Celery application. A message is only a ticket: it tells a worker that jobs are waiting. Which of them is next is
decided when it is claimed, fairly and once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from typing import Any

from celery import Celery, signals
from kombu.exceptions import OperationalError

from service import tracing
from service.catalog import Catalog
from service.settings import settings
from service.store import GONE, Store
from service.worker.bench import Bench
from service.worker.engine import Engine

log = logging.getLogger("tts.worker")
MOST = 8
"""Jobs that one ticket stands for, at most."""

app = Celery("tts", broker=settings().redis_url, set_as_current=False)
app.conf.update(
    task_default_queue="tts:tickets",
    task_ignore_result=True,
    worker_pool="threads",
    worker_concurrency=1,
    worker_prefetch_multiplier=64,
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"socket_timeout": 10, "socket_connect_timeout": 2},
    worker_cancel_long_running_tasks_on_connection_loss=True,  # tickets are gone at once; jobs are none of its tasks
)


class Host:
    """The event loop of this process, in a thread of its own; started and stopped by Celery."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._told = False

    def start(self) -> None:
        """Returns when tickets can come."""
        self._thread = threading.Thread(target=self._run, name="jobs")
        self._thread.start()
        self._ready.wait()

    def ticket(self, jobs: int) -> None:
        """Hand a ticket to the loop."""
        if self._loop and self._engine and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._engine.ticket, jobs)

    def stop(self) -> None:
        """Claim nothing more."""
        self._told = True
        if self._loop and self._engine and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._engine.stop)

    def join(self) -> None:
        """Wait until what was running has ended or was handed back."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        import uvloop

        try:
            uvloop.run(self._work())
        finally:
            self._ready.set()
            if not self._told:  # nobody asked for it: a process without its loop is no worker
                os.kill(os.getpid(), signal.SIGTERM)

    async def _work(self) -> None:
        known, catalog = settings(), Catalog(settings())
        self._loop = asyncio.get_running_loop()
        bench = Bench(known, catalog)
        self._engine = Engine(known, Store(known), bench, self._pass_on)
        self._ready.set()
        warming = asyncio.create_task(bench.warm(catalog.default))
        await self._engine.run()
        warming.cancel()
        tracing.stop()

    def _pass_on(self, jobs: int) -> None:
        """Tell other workers, from a thread that may wait for the broker."""
        asyncio.get_running_loop().run_in_executor(None, send, jobs)


host = Host()


@app.task(name="tts.ticket")
def ticket(jobs: int) -> None:
    """So many jobs are waiting."""
    host.ticket(jobs)


def send(jobs: int) -> None:
    """Send tickets for so many jobs. One that cannot be sent is no loss: workers with room look by themselves."""
    try:
        for first in range(0, jobs, MOST):
            ticket.apply_async((min(MOST, jobs - first),), retry=False)
    except (OperationalError, *GONE) as error:
        log.warning("no ticket was sent: %s", error)


@signals.setup_logging.connect
def _leave_logging_alone(**_: Any) -> None:
    """What is logged, and how, is said by whoever starts this process."""


@signals.worker_init.connect
def _start(**_: Any) -> None:
    host.start()


@signals.worker_shutting_down.connect
def _stop(**_: Any) -> None:
    host.stop()


@signals.worker_shutdown.connect
def _join(**_: Any) -> None:
    host.join()
