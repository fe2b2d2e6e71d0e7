"""What the service is measured against: a Celery task and a FastAPI route that do nothing."""

from __future__ import annotations

import os

from celery import Celery
from fastapi import FastAPI

app = Celery("noop", broker=os.environ.get("TTS_REDIS_URL"), backend=os.environ.get("TTS_REDIS_URL"))
app.conf.update(task_default_queue="noop", worker_pool="threads", worker_enable_remote_control=False)
web = FastAPI()


@app.task(name="noop")
def noop() -> None:
    """Nothing, with a result."""


@web.post("/noop", status_code=202)
async def route() -> dict[str, str]:
    """Nothing."""
    return {}
