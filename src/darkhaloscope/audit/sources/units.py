"""What a file itself says of a column's unit, turned into the unit of our variable."""

from __future__ import annotations

from collections.abc import Iterable

from astropy import units

from darkhaloscope.errors import UserError
from darkhaloscope.mapping import Mapping
from darkhaloscope.variables import BY_NAME

FLUX = BY_NAME["src_flux"].unit
AB_ZERO = 3631.0 * units.Jy
"""Flux of AB magnitude 0, which is one maggy."""

Factors = tuple[tuple[str, float], ...]
"""(column or stack, what its values are multiplied with)."""


def factors(
    said: dict[str, str],
    mapping: Mapping,
    bands: Iterable[str],
    images: tuple[str, str],
    pixel_scale: float,
    url: str,
    prefix: str = "",
) -> tuple[Factors, tuple[str, ...]]:
    """What columns and images are multiplied with, and notes on units that nobody knows.

    Parameters
    ----------
    said : dict
        Unit by column and by stack of images, as the file has it.
    mapping : Mapping
        Which column holds which variable; of columns with another convention the convention decides.
    images : (str, str)
        The two stacks. Where they are in what is no flux (counts, electrons), they are taken as they are, and
        with them the fluxes that are said to be in the same.
    pixel_scale : float
        Arcsec per pixel, for what is said in pixels.
    prefix : str
        What stands before the names of the second class's columns in a set without pairs.

    Raises
    ------
    UserError
        A column is in a unit of another kind than its variable's.
    """
    found: list[tuple[str, float]] = []
    notes = []
    equal = [
        *units.pixel_scale(pixel_scale * units.arcsec / units.pix),
        *units.zero_point_flux(AB_ZERO),
    ]
    of_pixels = {said.get(name, "") for name in images}
    for column, text in said.items():
        ours = (
            FLUX
            if column in images
            else _unit_of(column.removeprefix(prefix), mapping, tuple(bands))
        )
        if not ours or not text.strip() or text == ours:
            continue
        theirs = _parsed(text)
        if theirs is not None and not theirs.is_equivalent(_parsed(ours), equal):
            if column not in images and not (ours == FLUX and of_pixels == {text}):
                raise UserError(
                    f"{column} of {url} is said to be in {text}, but {ours} is needed; correct its unit"
                )
            theirs = None
        if theirs is None:
            notes.append(f"units: {column} is said to be in {text!r}, taken for {ours}")
            continue
        factor = float(theirs.to(_parsed(ours), equivalencies=equal))
        if factor != 1.0:
            found.append((column, factor))
            notes.append(f"units: {column} was turned from {text} into {ours}")
    return tuple(found), tuple(notes)


def _unit_of(column: str, mapping: Mapping, bands: tuple[str, ...]) -> str:
    """Unit of the variable that a column holds as it is; empty where it holds none."""
    names = {c.format(band=b): v for v, c in mapping.same.items() for b in bands}
    names |= {c.removesuffix("_{band}"): v for v, c in mapping.same.items()}
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
            found = units.Unit(word.replace("nMgy", "nmgy").replace("maggies", "maggy"))
        except ValueError:
            continue
        if isinstance(found, units.UnitBase):
            return found
    return None
