"""What a file itself says of a column's unit, turned into the unit of our variable."""

from __future__ import annotations

from collections.abc import Iterable

from astropy import units

from darkhaloscope.errors import UserError
from darkhaloscope.mapping import Mapping
from darkhaloscope.variables import BY_NAME

Factors = tuple[tuple[str, float], ...]
"""(column, what its values are multiplied with)."""


def factors(
    said: dict[str, str], mapping: Mapping, bands: Iterable[str], pixel_scale: float, url: str
) -> tuple[Factors, tuple[str, ...]]:
    """What columns are multiplied with, and notes on units that nobody knows.

    Parameters
    ----------
    said : dict
        Unit by column, as the file has it.
    mapping : Mapping
        Which column holds which variable; of columns with another convention the convention decides.
    pixel_scale : float
        Arcsec per pixel, for what is said in pixels.

    Raises
    ------
    UserError
        A column is in a unit of another kind than its variable's.
    """
    found: list[tuple[str, float]] = []
    notes = []
    for column, text in said.items():
        ours = _unit_of(column, mapping, tuple(bands))
        if not ours or not text.strip() or text == ours:
            continue
        theirs = _parsed(text)
        if theirs is None:
            notes.append(f"units: {column} is said to be in {text!r}, taken for {ours}")
            continue
        pixels = units.pixel_scale(pixel_scale * units.arcsec / units.pix)
        try:
            factor = float(theirs.to(_parsed(ours), equivalencies=pixels))
        except units.UnitConversionError:
            raise UserError(
                f"{column} of {url} is said to be in {text}, but {ours} is needed; correct its unit"
            ) from None
        if factor != 1.0:
            found.append((column, factor))
            notes.append(f"units: {column} was turned from {text} into {ours}")
    return tuple(found), tuple(notes)


def _unit_of(column: str, mapping: Mapping, bands: tuple[str, ...]) -> str:
    """Unit of the variable that a column holds as it is; empty where it holds none."""
    names = {c.format(band=b): v for v, c in mapping.same.items() for b in ("", *bands)}
    name = names.get(column, column)
    if name in mapping.renamed and name not in names.values():
        return ""
    for known in (name, *(name.removesuffix(f"_{b}") for b in bands)):
        if known in BY_NAME:
            return BY_NAME[known].unit
    return ""


def _parsed(text: str) -> units.UnitBase | None:
    """A unit by its name, in lower case or in the plural as well; None for a word that is none."""
    for word in (text, text.lower(), text.lower().removesuffix("s")):
        try:
            found = units.Unit(word.replace("nMgy", "nmgy"))
        except ValueError:
            continue
        if isinstance(found, units.UnitBase):
            return found
    return None
