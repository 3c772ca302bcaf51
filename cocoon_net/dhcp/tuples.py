"""Named tuples at the price of tuples: their constructor is Python, and a lease takes a dozen of them."""

from __future__ import annotations

from typing import Final

NEW: Final = tuple.__new__
"""``NEW(Kind, (...))`` makes a named tuple of all its fields, in their order, in 0.1 us instead of 0.4."""
