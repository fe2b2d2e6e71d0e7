"""Suites: one set of problems per file."""

from collections.abc import Mapping

from evals.suites import aime24, aime25, amc23, chain, countdown, gsm8k, humaneval, math500
from evals.suites.base import Item, Row, Suite, digested

__all__ = ["SUITES", "Item", "Row", "Suite", "digested"]

SUITES: Mapping[str, Suite] = {
    module.SUITE.name: module.SUITE for module in (chain, countdown, gsm8k, math500, aime24, aime25, amc23, humaneval)
}
"""Every suite by its name."""
