"""One FITS file in memory, and the pixels of small windows of its images.

astropy decompresses; this module asks it for the tiles that the windows touch, each once, and finds
out whether the file is whole. (A decoder alone would not: a file cut inside its padding, or between
two HDUs, opens without a word.)
"""

from __future__ import annotations

import io
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits

# astropy raises this one out of its C code and has no public name for it.
from astropy.io.fits.hdu.compressed._compression import CfitsioException
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

MAX_SIDE = 20_000
"""A larger image is no coadd but a broken header: it would ask for gigabytes."""


# What astropy raises on broken bytes, found by breaking some in many places (see the tests).
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    AttributeError,
    zlib.error,
    fits.VerifyError,
    CfitsioException,
)


class CorruptFileError(ValueError):
    """The bytes are not a whole FITS file with an image; the message says what is wrong."""


@dataclass(frozen=True)
class TiledImage:
    """One 2-D image of a FITS file, still compressed.

    ``shape`` and ``tile`` are (y, x) in pixels; a plain image is read as if it had tiles of 100.
    """

    name: str
    header: fits.Header
    shape: tuple[int, int]
    tile: tuple[int, int]
    hdu: Any

    def windows(
        self, y0: NDArray[np.int64], x0: NDArray[np.int64], height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels of windows that lie inside the image.

        Parameters
        ----------
        y0, x0 : ndarray of int
            First pixels, shape (window,).
        height, width : int
            Pixels.

        Returns
        -------
        pixels : ndarray
            Shape (window, y, x), in the image's own type.
        readable : ndarray of bool
            Shape (window,). False where a tile of this window cannot be decoded; its pixels are 0.
            It depends on the window alone, never on which others are asked for with it.
        """
        ty, tx = self.tile
        first = np.stack([y0 // ty, x0 // tx], axis=-1)
        last = np.stack([(y0 + height - 1) // ty, (x0 + width - 1) // tx], axis=-1)
        needed = np.zeros((-(-self.shape[0] // ty), -(-self.shape[1] // tx)), dtype=bool)
        for (j0, i0), (j1, i1) in zip(first, last, strict=True):
            needed[j0 : j1 + 1, i0 : i1 + 1] = True

        canvas: NDArray[Any] | None = None
        broken = np.zeros_like(needed)
        pending = _rectangles(needed)
        while pending:
            j0, j1, i0, i1 = pending.pop()
            box = np.s_[j0 * ty : j1 * ty, i0 * tx : i1 * tx]
            try:
                pixels = self._section(*box)
            except _BROKEN:
                if (j1 - j0) * (i1 - i0) == 1:
                    broken[j0, i0] = True
                else:  # One broken tile must not cost its neighbours.
                    pending += [(j, j + 1, i, i + 1) for j in range(j0, j1) for i in range(i0, i1)]
                continue
            if canvas is None:
                # Zeros cost no memory until touched: only the needed tiles are.
                canvas = np.zeros(self.shape, dtype=pixels.dtype.newbyteorder("="))
            canvas[box] = pixels

        if canvas is None:  # Nothing could be decoded, or nothing was asked for.
            kind = np.float32 if self.header["BITPIX"] < 0 else np.int32
            return np.zeros((len(y0), height, width), kind), np.zeros(len(y0), dtype=bool)
        out = np.zeros((len(y0), height, width), dtype=canvas.dtype)
        readable = np.ones(len(y0), dtype=bool)
        for k, ((j0, i0), (j1, i1)) in enumerate(zip(first, last, strict=True)):
            readable[k] = not broken[j0 : j1 + 1, i0 : i1 + 1].any()
            if readable[k]:
                out[k] = canvas[y0[k] : y0[k] + height, x0[k] : x0[k] + width]
        return out, readable

    def _section(self, y: slice, x: slice) -> NDArray[Any]:
        y = slice(y.start, min(y.stop, self.shape[0]))
        x = slice(x.start, min(x.stop, self.shape[1]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            pixels: NDArray[Any] = np.asarray(self.hdu.section[y, x])
        if pixels.shape != (y.stop - y.start, x.stop - x.start):
            raise CorruptFileError("a section comes out in the wrong shape")
        return pixels


def _rectangles(needed: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """Rectangles (y first, y end, x first, x end) of tiles that cover all True ones, each once.

    Equal rows are taken together: files with tiles of one image row have thousands of them.
    """
    found = []
    row = 0
    while row < len(needed):
        end = row + 1
        while end < len(needed) and np.array_equal(needed[end], needed[row]):
            end += 1
        steps = np.flatnonzero(
            np.diff(np.concatenate([[False], needed[row], [False]]).astype(np.int8))
        )
        found += [(row, end, int(a), int(b)) for a, b in steps.reshape(-1, 2)]
        row = end
    return found


def read_images(raw: bytes) -> list[TiledImage]:
    """All 2-D images of a FITS file, compressed or plain, wherever in the file they are.

    Raises
    ------
    CorruptFileError
        Where the bytes end before the file does, go on after it, cannot be parsed, or hold no
        image.
    """
    if not raw:
        raise CorruptFileError("it is empty")
    if raw.startswith(b"XTENSION"):  # Some tools drop the empty HDU 0.
        raw = fits.PrimaryHDU().header.tostring().encode() + raw
    if not raw.startswith(b"SIMPLE  ="):
        raise CorruptFileError("it does not begin as a FITS file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            hdus = fits.open(io.BytesIO(raw), lazy_load_hdus=False, memmap=False)
            _check_whole(hdus, raw)
            images = [_tiled(hdu) for hdu in hdus if hdu.is_image and len(hdu.shape) == 2]
    except CorruptFileError:
        raise
    except _BROKEN as error:
        text = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise CorruptFileError(
            f"it cannot be parsed as FITS ({text or type(error).__name__})"
        ) from error
    if not images:
        raise CorruptFileError("it holds no two-dimensional image")
    return images


def _check_whole(hdus: fits.HDUList, raw: bytes) -> None:
    info = hdus[-1].fileinfo()
    end = info["datLoc"] + info["datSpan"]
    if len(raw) < end:
        raise CorruptFileError(f"it is truncated: {len(raw)} bytes of {end}")
    # What follows the last HDU that astropy could parse is padding, or the start of a broken one.
    if raw[end:].strip(b"\0 "):
        raise CorruptFileError(f"its last {len(raw) - end} bytes are no part of a FITS file")


def _tiled(hdu: Any) -> TiledImage:
    shape = (int(hdu.shape[0]), int(hdu.shape[1]))
    if not all(0 < side <= MAX_SIDE for side in shape):
        raise CorruptFileError(f"its image claims {shape[1]} x {shape[0]} pixels")
    tile = getattr(hdu, "tile_shape", None) or (100, 100)
    return TiledImage(
        name=str(hdu.name).upper(),
        header=hdu.header,
        shape=shape,
        tile=(int(tile[0]), int(tile[1])),
        hdu=hdu,
    )
