"""What needs no model: `tts strategies` and `tts replay`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

import click

from service.commands.shared import EXIT_CODES, guarded
from strategies import STRATEGIES
from tts.strategy import Strategy, Verifier
from verifiers import VERIFIERS


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON Schemas of the parameters.")
def strategies(as_json: bool) -> None:
    """List the strategies and verifiers, their parameters, and when to use which."""
    if as_json:
        schemas = {name: {"when": s.when, "parameters": s.model_json_schema()} for name, s in STRATEGIES.items()}
        click.echo(json.dumps(schemas, indent=2))
        return
    _list(STRATEGIES, "--param")
    click.echo("\nVerifiers, which score what strategies write (--verifier NAME):\n")
    _list(VERIFIERS, "--verifier-param")


def _list(named: Mapping[str, type[Strategy] | type[Verifier]], option: str) -> None:
    """Every name with its parameters, their defaults and, where there are few, their values."""
    for name, each in named.items():
        click.echo(f"{name}\n  {each.when}")
        schema = each.model_json_schema().get("properties", {})
        for parameter, field in each.model_fields.items():
            values = _values(schema[parameter])
            choice = f" ({', '.join(values)})" if values else ""
            click.echo(f"  {option} {parameter}={field.default}  {field.description or ''}{choice}")


def _values(schema: Mapping[str, Any]) -> list[str]:
    """Those that a parameter may have, where they are listed."""
    parts = (schema, *schema.get("anyOf", ()))
    return [str(value) for part in parts for value in part.get("enum", [part["const"]] if "const" in part else [])]


@click.command(epilog=EXIT_CODES)
@click.argument("journal_file", metavar="FILE", type=click.Path(path_type=File))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on standard output.")
@click.option("--show", type=click.Choice(["tree"]), help="Draw the search, as tts solve does.")
def replay(journal_file: File, as_json: bool, show: str | None) -> None:
    """Reproduce the result recorded in the journal FILE, offline: no model is loaded and nothing is spent."""
    guarded(lambda: _replay(journal_file, as_json, show))


def _replay(file: File, as_json: bool, drawn: str | None) -> int:
    from service.display import show
    from service.tree import SearchTree
    from tts.journal import parse
    from tts.replay import replay_file

    result, header = asyncio.run(replay_file(file, STRATEGIES, VERIFIERS))
    tree = SearchTree(parse(file.read_bytes(), file)[0]) if drawn == "tree" else None
    return show(result, header.strategy.name, as_json, tree)
