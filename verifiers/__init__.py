"""Verifiers: what tells a good path from a bad one."""

from collections.abc import Mapping

from tts.strategy import Verifier
from verifiers.confidence import Confidence
from verifiers.judge import Judge
from verifiers.outcome_reward import OutcomeReward
from verifiers.process_reward import ProcessReward
from verifiers.unit_tests import UnitTests

__all__ = ["VERIFIERS", "Confidence", "Judge", "OutcomeReward", "ProcessReward", "UnitTests"]

_ALL = (Confidence, ProcessReward, OutcomeReward, Judge, UnitTests)
VERIFIERS: Mapping[str, type[Verifier]] = {verifier.name: verifier for verifier in _ALL}
"""Every verifier by its name."""
