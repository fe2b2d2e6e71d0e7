"""Strategies: one published method per file, each a few lines over a `Run`."""

from collections.abc import Mapping

from strategies.ab_mcts import ABMCTS
from strategies.beam import Beam
from strategies.best_first import BestFirst
from strategies.best_of_n import BestOfN
from strategies.dvts import DVTS
from strategies.ets import ETS
from strategies.particles import Particles
from strategies.rebase import Rebase
from strategies.self_consistency import SelfConsistency
from strategies.single import Single
from tts.strategy import Strategy

_ALL = (Single, BestOfN, SelfConsistency, Beam, DVTS, Rebase, ETS, Particles, BestFirst, ABMCTS)
STRATEGIES: Mapping[str, type[Strategy]] = {strategy.name: strategy for strategy in _ALL}
"""Every strategy by its name."""

__all__ = [
    "ABMCTS",
    "DVTS",
    "ETS",
    "STRATEGIES",
    "Beam",
    "BestFirst",
    "BestOfN",
    "Particles",
    "Rebase",
    "SelfConsistency",
    "Single",
]
