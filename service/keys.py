"""API keys, of which only hashes are kept, and what their tenants may spend."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from redis.asyncio import Redis

from service.store.connection import GONE, Unreachable
from service.store.journal import nano
from tts.errors import UsageError
from tts.types import Noun

KEYS = "tts:keys"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PERIODS = {"minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800, "month": 2_592_000}
"""Seconds. Windows begin at whole multiples since 1970, UTC; a month has thirty days."""

Period = Literal["minute", "hour", "day", "week", "month"]


class TenantLimits(Noun):
    """What a tenant may do. None: no limit."""

    tokens: PositiveInt | None = None
    usd: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    period: Period = "day"
    rate: Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None = None
    """Jobs a minute; as many may come at once."""
    queued: PositiveInt | None = None
    running: PositiveInt | None = None


class Key(Noun):
    """A key as it is listed; the key itself is shown once, when it is made."""

    id: str
    tenant: str
    created: NonNegativeFloat


class Keys:
    """The keys and tenants of a deployment."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def create(self, tenant: str) -> str:
        """A new key for a tenant."""
        _check(tenant)
        secret = f"tts-{secrets.token_urlsafe(32)}"
        key = Key(id=secrets.token_hex(4), tenant=tenant, created=time.time())
        await self._redis.hset(KEYS, _hashed(secret), key.model_dump_json())
        return secret

    async def tenant(self, secret: str) -> str | None:
        """Whose key this is; None where it is nobody's, or was revoked. Raises `Unreachable`."""
        try:
            found = await self._redis.hget(KEYS, _hashed(secret))
        except GONE as error:
            raise Unreachable(f"Redis cannot be reached: {error}") from error
        return json.loads(found)["tenant"] if found else None

    async def list(self) -> list[Key]:
        """All keys, the oldest first."""
        found = [Key.model_validate_json(value) for value in await self._redis.hvals(KEYS)]
        return sorted(found, key=lambda key: key.created)

    async def revoke(self, id: str) -> None:
        """From now on this key opens nothing. Raises `UsageError` where there is none."""
        for hashed, value in (await self._redis.hgetall(KEYS)).items():
            if Key.model_validate_json(value).id == id:
                await self._redis.hdel(KEYS, hashed)
                return
        raise UsageError(f"there is no key {id!r}; see tts keys list")

    async def limit(self, tenant: str, limits: TenantLimits) -> None:
        """Set what a tenant may do; what is not named has no limit."""
        _check(tenant)
        given: dict[Any, Any] = limits.model_dump(exclude_none=True) | {"period": PERIODS[limits.period] * 1000}
        if limits.usd is not None:
            given["usd"] = nano(limits.usd)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(f"tts:tenant:{tenant}")
            pipe.hset(f"tts:tenant:{tenant}", mapping=given)
            await pipe.execute()

    async def limits(self, tenant: str) -> dict[str, str]:
        """What a tenant may do, as it was set; nothing where it has no limits."""
        found: Any = await self._redis.hgetall(f"tts:tenant:{tenant}")
        told = {name.decode(): float(value) for name, value in found.items()}
        if "usd" in told:
            told["usd"] /= 1e9
        period = told.pop("period", None)
        named = next((name for name, seconds in PERIODS.items() if seconds * 1000 == period), None)
        return {name: f"{value:g}" for name, value in told.items()} | ({"period": named} if named and told else {})


def _check(tenant: str) -> None:
    if not NAME.fullmatch(tenant):
        raise UsageError(f"a tenant's name has letters, digits, '.', '_' and '-', 64 at most; not {tenant!r}")


def _hashed(secret: str) -> str:
    # Long random secrets need no slow hash: there is nothing to guess.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
