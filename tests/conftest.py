"""Settings for every test: properties have no deadline, because machines are noisy, and CI draws the same examples."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("steady")
