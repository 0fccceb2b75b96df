"""Names of bands, as files say them."""

from __future__ import annotations

from collections.abc import Iterable

LETTERS = "ugrizy"
"""Bands of one letter, from short wavelengths to long ones."""


def words(said: str) -> tuple[str, ...]:
    """Bands in a text: ``g,r,z``, ``g r z``, or ``grz``, one word of :data:`LETTERS` alone."""
    names = tuple(said.replace(",", " ").split())
    return tuple(names[0]) if len(names) == 1 and set(names[0].lower()) <= set(LETTERS) else names


def by_wavelength(names: Iterable[str]) -> tuple[str, ...]:
    """Names in the order of :data:`LETTERS`, others behind them."""
    return tuple(sorted(names, key=lambda b: LETTERS.find(b) if b in LETTERS else len(LETTERS)))
