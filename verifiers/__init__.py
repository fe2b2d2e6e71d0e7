"""Verifiers: what tells a good path from a bad one."""

from collections.abc import Mapping

from tts.strategy import Verifier
from verifiers.confidence import Confidence

__all__ = ["VERIFIERS", "Confidence"]

VERIFIERS: Mapping[str, type[Verifier]] = {verifier.name: verifier for verifier in (Confidence,)}
"""Every verifier by its name."""
