"""`tts doctor`: servers examined."""

from __future__ import annotations

from typing import Any

import click

from service.commands.shared import VERIFIER_SPEC, guarded, optional

DOCTOR_EXIT_CODES = """\b
Exit codes:
  0    nothing is a problem
  1    something is
  2    bad usage
  4    no server answers
  130  Ctrl-C"""


@click.command(epilog=DOCTOR_EXIT_CODES)
@click.argument("backend")
@click.option(
    "--verifier",
    metavar=VERIFIER_SPEC,
    help="The verifier, and the servers of its model.  [default: that of a profile]",
)
@click.option(
    "--verifier-param", "verifier_params", multiple=True, metavar="NAME=VALUE", help="A verifier's parameter."
)
@click.option("--problem", metavar="TEXT", help="What servers are tried with.  [default: a multiplication]")
@click.option("--good", metavar="TEXT", help="A right solution of it, for the verifier.")
@click.option("--bad", metavar="TEXT", help="A wrong one.")
@click.option("--step-end", default="\\n\\n", show_default=True, help="What ends a step of theirs.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON list and nothing else.")
def doctor(backend: str, **options: Any) -> None:
    """Examine the SGLang servers of BACKEND: what they are like, what they do, and what to change.

    \b
    tts doctor sglang:http://a:30000,http://b:30000
    tts doctor sglang:http://a:30000 --verifier prm@sglang:http://c:30000 --json
    """
    guarded(lambda: optional("doctor", "sglang").doctor(backend, options))
