"""The bits of a maskbits map, by name.

The file's own ``MBIT_n`` cards say which bit is which; the tables here stand in only where a file
has none (https://www.legacysurvey.org/dr9/bitmasks/ and /dr10/bitmasks/).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.errors import UserError

DR9_BITS: dict[str, int] = {
    "NPRIMARY": 0,
    "BRIGHT": 1,
    "SATUR_G": 2,
    "SATUR_R": 3,
    "SATUR_Z": 4,
    "ALLMASK_G": 5,
    "ALLMASK_R": 6,
    "ALLMASK_Z": 7,
    "WISEM1": 8,
    "WISEM2": 9,
    "BAILOUT": 10,
    "MEDIUM": 11,
    "GALAXY": 12,
    "CLUSTER": 13,
}
"""Name to bit number, DR8 and DR9."""

DR10_BITS: dict[str, int] = DR9_BITS | {"SATUR_I": 14, "ALLMASK_I": 15, "SUB_BLOB": 16}
"""Name to bit number, DR10."""

WISE_BITS = ("WISEM1", "WISEM2")
"""Bits, and names of the further HDUs, that flag light of bright stars in the WISE bands."""

_CARD = re.compile(r"MBIT_(\d+)")


def default_bits(release: str | None = None) -> dict[str, int]:
    """The table for files without ``MBIT_n`` cards: DR10's from dr10 on and where the release is
    unknown.

    DR10 only added bits, so its table reads older maps as well.
    """
    number = re.search(r"\d+", release or "")
    return dict(DR9_BITS if number and int(number[0]) < 10 else DR10_BITS)


def bits_of(header: Mapping[str, object], release: str | None = None) -> dict[str, int]:
    """Name to bit number, from the ``MBIT_n`` cards of a header, else from the release's table."""
    found = {
        str(header[key]).strip().upper(): int(match[1])
        for key in header
        if (match := _CARD.fullmatch(str(key)))
    }
    return found or default_bits(release)


def check_names(names: Iterable[str], bits: Mapping[str, int]) -> None:
    """Raise UserError, with the nearest name, for one that neither ``bits`` nor a release knows."""
    known = set(bits) | set(DR10_BITS)
    for name in names:
        if name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.0)
            raise UserError(
                f"no mask bit is called {name!r}; the nearest known name is {near[0]!r}."
            )


def bad_mask(
    maskbits: NDArray[np.integer], names: Iterable[str], bits: Mapping[str, int]
) -> NDArray[np.bool_]:
    """True where any of the named bits is set, same shape as ``maskbits``.

    A name that releases know and this file does not (SUB_BLOB in DR9) is set nowhere.

    Raises
    ------
    UserError
        For a name that nobody knows.
    """
    names = tuple(names)
    check_names(names, bits)
    value = 0
    for name in names:
        if (bit := bits.get(name.upper())) is not None:
            value |= 1 << bit
    # In int64: a bit above 14 does not fit the int16 of DR9.
    return (maskbits.astype(np.int64) & value) != 0
