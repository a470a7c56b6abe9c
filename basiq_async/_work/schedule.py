"""How long Basiq goes on with a message."""

from __future__ import annotations

from datetime import timedelta

ATTEMPTED = timedelta(days=3)
"""Basiq attempts a message for less: its page on the delivery schedule says 27 h 35 min.

The engine that it probably runs varies each wait (22 to 33 h in all), and grants up to twice of it to an endpoint's
``Retry-After`` (66 h).
"""
