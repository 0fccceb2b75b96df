"""Checks of parameters: each failure is one sentence with the name, its value and its range."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from darkhaloscope.errors import UserError


def require_in(
    name: str, value: float, low: float, high: float, *, unit: str = "", open_low: bool = False
) -> None:
    """Raise :class:`UserError` unless ``low <= value <= high`` (``low < value`` with ``open_low``).

    NaN and whatever is not a number fail too.
    """
    unit = f" {unit}" if unit else ""
    lower = f"above {low:g}" if open_low else f"at least {low:g}"
    allowed = f"{lower} and at most {high:g}{unit}" if low != high else f"{low:g}{unit}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name} is {value!r}; it must be a number {allowed}.") from None
    inside = low <= number <= high and not (open_low and number == low)
    if math.isnan(number) or not inside:
        raise UserError(f"{name} is {number:g}{unit}; it must be {allowed}.")


def require_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise :class:`UserError` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise UserError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")


def require_fluxes(flux: Sequence[float]) -> tuple[float, ...]:
    """The fluxes as a tuple; :class:`UserError` for none, or one that is not in [0, 1e12] nMgy."""
    values = tuple(np.atleast_1d(np.asarray(flux)).tolist())
    if not values:
        raise UserError("source flux is empty; it must hold one value in nMgy for each band.")
    for value in values:
        require_in("source flux", value, 0.0, 1e12, unit="nMgy")
    return tuple(float(value) for value in values)
