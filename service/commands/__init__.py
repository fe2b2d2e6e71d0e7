"""The commands of `tts`: the composition root, where strategies, verifiers, backends and a journal meet.

Nothing heavy is imported before it is needed: `tts --help` answers without torch.
"""

from __future__ import annotations

import click

from service.commands.comparing import evaluate, report
from service.commands.examining import doctor
from service.commands.offline import replay, strategies
from service.commands.recording import bank, whatif
from service.commands.serving import api, dead, up, worker
from service.commands.solving import solve
from service.commands.tenants import keys


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="test-time-scaling", prog_name="tts")
def cli() -> None:
    """Better answers for the compute you have: test-time scaling under a hard budget."""


for each in (solve, strategies, replay, evaluate, report, bank, whatif, doctor, up, api, worker, dead, keys):
    cli.add_command(each)

__all__ = ["cli"]
