"""How a parameter of the plan is given: a constant, a list, or a named distribution.

======================================  =====================================================
in the experiment                       meaning
======================================  =====================================================
``0.8`` or ``"0.8 arcsec"``             a constant; a unit is converted, or refused
``[0.5, 1, 2]`` or ``{grid: […]}``      full grid: every target gets every value
``{cycle: [0.5, 1, 2]}``                the values in turn, by (OBJID + row of the target)
``{uniform: [a, b]}``                   flat between a and b
``{log_uniform: [a, b]}``               flat in the logarithm
``{normal: [mean, sd, a, b]}``          normal, cut to [a, b]
======================================  =====================================================

A draw is a pure function of one uniform number, so the same uniform always gives the same value.

What a lens or a source is, is a name, a list of names (each as likely), or names with weights:
``SIE``, ``[SIE, EPL]``, ``{SIE: 0.7, EPL: 0.3}``; each row draws one (:class:`Mix`).
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import astropy.units as u
import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic_core import core_schema
from scipy.special import ndtr, ndtri

Kind = Literal["constant", "grid", "cycle", "uniform", "log_uniform", "normal"]


class Draw(NamedTuple):
    """One parameter's rule: its kind and its numbers, in the parameter's own unit."""

    kind: Kind
    values: tuple[float, ...]

    @classmethod
    def constant(cls, value: float) -> Draw:
        """Always ``value``."""
        return cls("constant", (float(value),))

    @property
    def cells(self) -> int:
        """How many rows a target needs to see every value: the list's length for a grid, else 1."""
        return len(self.values) if self.kind == "grid" else 1

    def at(
        self, uniform: ArrayLike, cell: ArrayLike = 0, turn: ArrayLike = 0
    ) -> NDArray[np.float64]:
        """The parameter's values.

        Parameters
        ----------
        uniform : array_like
            Uniform numbers in [0, 1).
        cell : array_like of int
            Which value of a grid.
        turn : array_like of int
            Counts up for ``cycle``.
        """
        number = np.asarray(uniform, dtype=float)
        v = self.values
        if self.kind == "uniform":
            return v[0] + (v[1] - v[0]) * number
        if self.kind == "log_uniform":
            return np.clip(v[0] * np.exp(np.log(v[1] / v[0]) * number), v[0], v[1])
        if self.kind == "normal":
            return self._cut_normal(number)
        index = np.zeros_like(number, dtype=np.int64)
        if self.kind == "grid":
            index += np.asarray(cell, dtype=np.int64)
        elif self.kind == "cycle":
            index += np.asarray(turn, dtype=np.int64) % len(v)
        return np.asarray(v)[index]

    def _cut_normal(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        mean, sd, low, high = self.values
        # Probabilities are taken from the tail in which both bounds lie: near 1 they lose their digits.
        side = -1.0 if low > mean else 1.0
        at_low, at_high = ndtr(side * (low - mean) / sd), ndtr(side * (high - mean) / sd)
        place = ndtri(at_low + (at_high - at_low) * uniform)
        return np.clip(mean + side * sd * place, low, high)

    def to_json(self) -> Any:
        """As it would stand in the experiment file."""
        return self.values[0] if self.kind == "constant" else {self.kind: list(self.values)}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.is_instance_schema(
            cls,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda d: d.to_json()),
        )


class Mix(NamedTuple):
    """Names of a closed list, one of which each row draws, and their weights (their sum is 1)."""

    names: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def only(cls, name: str) -> Mix:
        """Always ``name``."""
        return cls((name,), (1.0,))

    def at(self, uniform: ArrayLike) -> NDArray[np.int64]:
        """Index into ``names`` for uniform numbers in [0, 1)."""
        edges = np.cumsum(self.weights)[:-1]
        return np.searchsorted(edges, np.asarray(uniform, dtype=float), side="right")

    def to_json(self) -> Any:
        """As it would stand in the experiment file."""
        return self.names[0] if len(self.names) == 1 else dict(zip(*self, strict=True))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.is_instance_schema(
            cls,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda m: m.to_json()),
        )


def parse_mix(value: Any, allowed: tuple[str, ...]) -> Mix:
    """Read a name, a list of names or names with weights, all of a closed list.

    Raises
    ------
    ValueError
        One sentence: a name that is not of the list or stands twice, or a weight that is not above 0.
    """
    if isinstance(value, Mix):
        return value
    weights = value if isinstance(value, dict) else None
    names = tuple(
        [value] if isinstance(value, str) else value if isinstance(value, list) else weights or ()
    )
    for name in names:
        if name not in allowed:
            raise ValueError(f"{name!r} is none of {', '.join(allowed)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"{value!r} is no choice; give one of {', '.join(allowed)}, a list of some of them, or "
            "each with its weight"
        )
    given = [1.0 if weights is None else _number(weights[name], "") for name in names]
    if min(given) <= 0:
        raise ValueError(f"the weights {given} must all be above 0; leave out what has none")
    return Mix(names, tuple(w / sum(given) for w in given))


_LENGTHS = {"uniform": 2, "log_uniform": 2, "normal": 4}


def parse_draw(value: Any, low: float, high: float, unit: str) -> Draw:
    """Read a parameter's rule and check that all it can give lies in [low, high].

    Raises
    ------
    ValueError
        One sentence: unknown form, wrong unit, or out of range.
    """
    if isinstance(value, Draw):
        return value
    if isinstance(value, dict):
        if len(value) != 1 or next(iter(value)) not in ("grid", "cycle", *_LENGTHS):
            raise ValueError(
                f"{value!r} is no distribution; give a number, a list, or one of grid, cycle, "
                "uniform, log_uniform, normal"
            )
        kind, numbers = next(iter(value.items()))
    elif isinstance(value, list | tuple):
        kind, numbers = "grid", value
    else:
        kind, numbers = "constant", [value]
    if not isinstance(numbers, list | tuple) or not numbers:
        raise ValueError(f"{kind} needs a list of numbers, not {numbers!r}")
    values = tuple(_number(item, unit) for item in numbers)
    if kind in _LENGTHS and len(values) != _LENGTHS[kind]:
        raise ValueError(f"{kind} takes {_LENGTHS[kind]} numbers, not {len(values)}")
    _check_range(kind, values, low, high, unit)
    return Draw(kind, values)


def _number(item: Any, unit: str) -> float:
    """A number in the parameter's own unit; a string may carry another unit of the same kind."""
    if isinstance(item, bool) or not isinstance(item, int | float | str):
        raise ValueError(f"{item!r} is not a number")
    if isinstance(item, str):
        expected = u.Unit(unit)
        try:
            quantity = u.Quantity(item)
            if not quantity.isscalar:
                raise ValueError(item)
        except (TypeError, ValueError):
            raise ValueError(f"{item!r} is not a number{f' in {unit}' if unit else ''}") from None
        if quantity.unit == u.dimensionless_unscaled and unit:
            number = float(quantity.value)
        else:
            try:
                number = float(quantity.to_value(expected))
            except u.UnitConversionError:
                raise ValueError(
                    f"{item!r} is in {quantity.unit}, but this parameter is in "
                    f"{unit or 'no unit'}; give it in {unit or 'plain numbers'}"
                ) from None
    else:
        try:
            number = float(item)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{item!r} is not a finite number")
    return number


def _check_range(kind: str, values: tuple[float, ...], low: float, high: float, unit: str) -> None:
    limits = values[2:] if kind == "normal" else values
    for number in limits:
        if not low <= number <= high:
            raise ValueError(
                f"{number:g} is outside the allowed range {low:g} to {high:g}"
                f"{f' {unit}' if unit else ''}"
            )
    if kind in _LENGTHS and not limits[0] < limits[1]:
        raise ValueError(f"the bounds {limits[0]:g} and {limits[1]:g} of {kind} must rise")
    if kind == "log_uniform" and limits[0] <= 0:
        raise ValueError(f"log_uniform needs a lower bound above 0, not {limits[0]:g}")
    if kind == "normal" and values[1] <= 0:
        raise ValueError(f"normal needs a width above 0, not {values[1]:g}")
    if kind == "normal" and max(limits[0] - values[0], values[0] - limits[1]) > 8 * values[1]:
        raise ValueError(
            f"the bounds {limits[0]:g} and {limits[1]:g} hold next to nothing of a normal of mean "
            f"{values[0]:g} and width {values[1]:g}"
        )
