"""How much hypothesis tries here: each file is to run in well under two seconds, on a slow machine too."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", max_examples=50, deadline=None)
settings.load_profile("unit")
