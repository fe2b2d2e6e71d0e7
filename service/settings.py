"""What a deployment sets, by environment variables that begin with TTS_."""

from __future__ import annotations

import os
from functools import cache
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tts.errors import UsageError, unknown

DAY = 86_400
URL = "url"
"""The file in the folder of a `tts up` that says where its store is."""


class Settings(BaseSettings):
    """Every size is bounded; `docs/operations.md` says which of these matter when."""

    model_config = SettingsConfigDict(env_prefix="TTS_", frozen=True)

    redis_url: str = "redis://127.0.0.1:6379/0"
    auth: Literal["open", "keys"] = "open"
    """`open`: whoever reaches the API may use it, as tenant `default`. `keys`: only with one that `tts keys` made."""
    default_model: str = "local"
    """What a request means that names no model: a profile of `tts.toml`, or `local`, the embedded one."""

    jobs_at_once: PositiveInt = 32
    """Jobs that one worker runs side by side."""
    lease_seconds: PositiveFloat = 5.0
    attempts: PositiveInt = 20
    """Deaths of a worker in a row, without any progress between, after which a job is a dead letter. Few would do for a
    job that kills its workers; but jobs of workers that something else kills every few seconds are not to blame."""
    drain_seconds: NonNegativeInt = 60
    """How long a worker that is told to stop goes on with what it has, before it hands it back."""
    sandbox: bool = False
    """Whether programs may be run, in a sandbox that has passed its own tests."""

    metrics_token: SecretStr | None = None
    """What Prometheus sends to read `/metrics`, as a bearer token. Without one, nobody reads them where keys are
    needed."""

    tracing: Literal["off", "on", "content"] = "off"
    """Whether jobs are traced for OpenTelemetry: without, or with, their prompts and texts."""

    retention_seconds: PositiveInt = 7 * DAY
    linger_seconds: PositiveInt = 600
    """How long the result of a job with `store: false` can be fetched."""
    default_tokens: PositiveInt = 2_000
    most_tokens: PositiveInt = 100_000_000
    most_seconds: PositiveInt = DAY
    most_body_bytes: PositiveInt = 2_000_000
    most_wait_seconds: PositiveInt = 300
    most_queued: PositiveInt = 10_000
    """Jobs a tenant may have waiting, where nothing else was said for it."""
    most_problems: PositiveInt = 1_000
    """Problems of one batch."""
    most_streams: PositiveInt = 2_000
    """Event streams of one API process, those of chat completions among them."""
    heartbeat_seconds: PositiveFloat = 10.0
    """How long an event stream is silent at most."""
    patience_seconds: Annotated[PositiveFloat, Field(le=60)] = 10.0
    """How long a slow client may take to send its request, and the API to reach Redis."""


def shown(url: str) -> str:
    """An address as it may be printed: without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}").geturl()


BESIDE = ("TTS_CONFIG",)
"""Variables of ours that are no settings."""


def check_names() -> None:
    """Refuse variables that look like settings and are none: a misspelt one would be ignored."""
    known = [*(f"TTS_{name.upper()}" for name in Settings.model_fields), *BESIDE]
    for name in sorted(os.environ):
        if name.startswith("TTS_") and not name.startswith("TTS_TEST_") and name not in known:
            raise unknown("setting", name, known)


@cache
def settings() -> Settings:
    """Read once, when first asked. Raises `UsageError` for a value that cannot be."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"TTS_{'_'.join(map(str, first['loc']))}".upper()
        raise UsageError(f"{name}={first['input']}: {first['msg']}") from error
