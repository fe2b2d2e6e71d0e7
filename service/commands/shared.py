"""What commands have in common: options, exit codes, and how they fail."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from service.options import USUAL_VERIFIER
from tts.errors import BackendError, JournalError, UsageError
from verifiers import VERIFIERS

BAD_USAGE, BACKEND_FAILED, INTERRUPTED = 2, 4, 130
EXIT_CODES = """\b
Exit codes:
  0    answered
  2    bad usage
  3    budget or deadline ended without an answer
  4    the backend failed
  130  Ctrl-C"""
EVAL_EXIT_CODES = """\b
Exit codes:
  0    done; problems that failed count as wrong and are listed
  2    bad usage
  4    every problem failed, or a model is gone; what was written is kept
  130  Ctrl-C; what was written is kept"""
STRATEGY_SPEC = "NAME[:PARAMETER=VALUE,…]"
VERIFIER_SPEC = f"{STRATEGY_SPEC}[@BACKEND]"
VERIFIER = click.option(
    "--verifier",
    default=USUAL_VERIFIER,
    show_default=True,
    metavar=VERIFIER_SPEC,
    help=f"Scores samples: {', '.join(VERIFIERS)}; read by the model of a backend.",
)


def compared(help: str) -> Callable[[Any], Any]:
    """The option for what is compared, several of them."""
    return click.option(
        "-s",
        "--strategy",
        "strategies",
        multiple=True,
        default=("best_of_n", "self_consistency"),
        show_default=True,
        metavar="SPEC…",
        help=help,
    )


def optional(module: str, extra: str = "evals") -> Any:
    """A module of commands whose libraries are an extra of their own."""
    try:
        return importlib.import_module(f"service.{module}")
    except ModuleNotFoundError as error:
        raise UsageError(f"this needs {error.name}; pip install 'test-time-scaling[{extra}]'") from error


def guarded(command: Callable[[], int | None]) -> None:
    """Run a command; turn every error of ours into one line and its exit code."""
    try:
        code = command()
    except (UsageError, JournalError) as error:
        fail(error, BAD_USAGE)
    except BackendError as error:
        fail(error, BACKEND_FAILED)
    except KeyboardInterrupt:
        fail("interrupted before anything was spent", INTERRUPTED)
    if code:
        sys.exit(code)


def fail(error: object, code: int) -> NoReturn:
    """One line on standard error, and out."""
    click.echo(f"tts: {error}", err=True)
    sys.exit(code)


def given_options() -> frozenset[str]:
    """The options that were given, and not left at their defaults."""
    context = click.get_current_context()
    given = (name for name in context.params if context.get_parameter_source(name) != ParameterSource.DEFAULT)
    return frozenset(given)
