"""Test-time scaling under a hard budget: strategies receive permission to spend, never a model."""

from tts.solve import code_version as _code_version
from tts.solve import solve

__version__ = _code_version()
__all__ = ["__version__", "solve"]
