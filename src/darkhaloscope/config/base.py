"""What every section of an experiment file is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from darkhaloscope import storage
from darkhaloscope.draw import parse_draw, parse_mix

Band = Literal["g", "r", "i", "z"]


def within(low: float, high: float, unit: str = "") -> BeforeValidator:
    """Every value that the :class:`Draw` can give lies in [low, high], in ``unit``."""
    return BeforeValidator(lambda value: parse_draw(value, low, high, unit))


def one_of(*names: str) -> BeforeValidator:
    """A :class:`Mix` of some of these names."""
    return BeforeValidator(lambda value: parse_mix(value, names))


def _no_truth(value: object) -> object:
    """``true`` is no number: without this it were 1."""
    if isinstance(value, bool):
        raise ValueError("it is a number, not true or false; null leaves it out")
    return value


Number = Annotated[float, BeforeValidator(_no_truth)]
"""A number, for which ``true`` does not stand."""


def _without_password(address: str) -> str:
    """What an experiment says is kept beside the data and shown in reports. The address is not repeated."""
    if storage.holds_password(address):
        raise ValueError(
            "the address holds a password, and an experiment is kept with its data; take it out, and give it "
            "to the process alone (docs/reading.md)"
        )
    return address


Address = Annotated[str, AfterValidator(_without_password)]
"""A path, or a URL without a password."""


class Section(BaseModel):
    """A section: keys that it does not know and numbers without end are mistakes, and nothing changes it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )
