"""Whether a coadd is the one that its name promises, as far as its header says.

The cards are those of legacypipe's coadds: ``BRICK`` (``BRICKNAM`` in DR6 and older), ``IMTYPE``, and
``FILTERX``; older ones have ``FILTER`` alone, of which the first word counts where it is a band's name. A
file without them is taken at its name.
"""

from __future__ import annotations

from astropy.io import fits

from darkhaloscope.survey.source import CorruptFileError

_BRICK_CARDS = ("BRICK", "BRICKNAM", "BRICKNAME")
_BANDS = frozenset("ugrizy")


def check_identity(header: fits.Header, brick: str, kind: str, band: str | None) -> None:
    """Raise CorruptFileError where a header speaks of another brick, kind of map or band."""
    said = {
        "brick": (_first(header, *_BRICK_CARDS), brick),
        "IMTYPE": (_first(header, "IMTYPE").lower(), kind),
        "band": (_band(header), band or ""),
    }
    for what, (found, asked) in said.items():
        if found and asked and found != asked:
            raise CorruptFileError(f"its header says {what} {found}, not {asked}")


def _first(header: fits.Header, *names: str) -> str:
    return next((str(header[name]).strip() for name in names if name in header), "")


def _band(header: fits.Header) -> str:
    if short := _first(header, "FILTERX"):
        return short.lower()
    word = _first(header, "FILTER").lower().partition(" ")[0]
    return word if word in _BANDS else ""
