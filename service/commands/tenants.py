"""`tts keys`: who may call the service, and how much."""

from __future__ import annotations

from typing import Any

import click

from service.commands.shared import guarded, optional


@click.group("keys")
def keys() -> None:
    """API keys and what their tenants may do, in the store at TTS_REDIS_URL."""


@keys.command("create")
@click.argument("tenant")
def keys_create(tenant: str) -> None:
    """Make a key for TENANT and print it; it cannot be shown again."""
    guarded(lambda: optional("serving", "service").create_key(tenant))


@keys.command("list")
def keys_list() -> None:
    """List keys by their ids, and their tenants."""
    guarded(lambda: optional("serving", "service").list_keys())


@keys.command("revoke")
@click.argument("id")
def keys_revoke(id: str) -> None:
    """End the key ID, at once and everywhere."""
    guarded(lambda: optional("serving", "service").revoke_key(id))


@keys.command("limit")
@click.argument("tenant")
@click.option("--tokens", type=int, help="Tokens a period.")
@click.option("--usd", type=float, help="Dollars a period.")
@click.option("--period", help="minute, hour, day, week or month (30 days).  [default: day]")
@click.option("--rate", type=float, help="Jobs a minute.")
@click.option("--queued", type=int, help="Jobs waiting at once.")
@click.option("--running", type=int, help="Jobs running at once; more wait.")
def keys_limit(tenant: str, **limits: Any) -> None:
    """Set what TENANT may do, and show it; what is left out has no limit. Without any option, only show."""
    if any(value is not None for value in limits.values()):
        guarded(lambda: optional("serving", "service").limit_tenant(tenant, limits))
    guarded(lambda: optional("serving", "service").list_limits(tenant))
