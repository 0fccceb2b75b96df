"""Stamps as ``.npz`` blobs in a table's column: (y, x) arrays by name, read without pickle."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.errors import UserError

UNREADABLE = (
    ValueError, TypeError, OSError, KeyError, EOFError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading bytes as an ``.npz`` raises where some of them are wrong."""


def encode_stamp(pixels: NDArray[np.float32], bands: Sequence[str], member: str) -> bytes:
    """A stamp (band, y, x) as an ``.npz``; ``member`` names a band's array, as ``image_{band}``.

    Not deflated: the table that holds it is compressed as a whole.

    Raises
    ------
    UserError
        Two bands would have the same name.
    """
    buffer = io.BytesIO()
    arrays = {member.format(band=band): pixels[b] for b, band in enumerate(bands)}
    if len(arrays) < len(bands):
        raise UserError(
            f"a mapping's images: member {member} is one name for {len(bands)} bands; put {{band}} into it"
        )
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def decode_stamp(blob: bytes, bands: Sequence[str], member: str) -> NDArray[np.float32]:
    """The stamp (band, y, x) of :func:`encode_stamp`.

    Raises
    ------
    UserError
        The bytes are no ``.npz``, need pickle, or lack a band.
    """
    try:
        with np.load(io.BytesIO(blob), allow_pickle=False) as archive:
            return np.stack([archive[member.format(band=band)] for band in bands]).astype(
                np.float32
            )
    except UNREADABLE as error:
        raise UserError(
            f"a stamp is no .npz with {member.format(band=bands[0])} and its like ({error}); "
            "check the mapping's images"
        ) from None
