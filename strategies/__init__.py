"""Strategies: one published method per file, each a few lines over a `Run`."""

from collections.abc import Mapping

from strategies.best_of_n import BestOfN
from strategies.self_consistency import SelfConsistency
from strategies.single import Single
from tts.strategy import Strategy

__all__ = ["STRATEGIES", "BestOfN", "SelfConsistency", "Single"]

STRATEGIES: Mapping[str, type[Strategy]] = {strategy.name: strategy for strategy in (Single, BestOfN, SelfConsistency)}
"""Every strategy by its name."""
