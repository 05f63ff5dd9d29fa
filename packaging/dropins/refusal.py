"""What all parts can say: that a script gets no service."""

from __future__ import annotations


class Refused(Exception):
    """A script that gets no service; the text says why."""
