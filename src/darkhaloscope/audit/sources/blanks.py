"""Pixels that are there in one image of a pair only: whoever sees which, knows the class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPECKLED = 0.05
"""Share of neighbours of which one alone is 0: above it zeros are ordinary values (integers, clipped sky)."""

NOISY = 0.1
"""Share of pixels at which a line of them turns; 2/3 of white noise, and few of what is drawn."""

DUST = 4.0 * float(np.finfo(np.float32).eps)
"""Part of an image's brightest pixel below which a pixel is what a Fourier transform leaves of nothing."""

Images = NDArray[np.float32]
Mask = NDArray[np.bool_]


def one_sided(stamp: Images, ctrl: Images) -> dict[str, Mask]:
    """Rows (row,) by the check (:data:`~darkhaloscope.audit.integrity.CHECKS`) that they fail.

    Parameters
    ----------
    stamp, ctrl : ndarray
        Images (row, band, y, x) of the same rows, as they are stored: NaN or infinite where they are no
        numbers.
    """
    unknown_stamp, unknown_ctrl = ~np.isfinite(stamp), ~np.isfinite(ctrl)
    return {
        "no_data_in_stamp": _any_pixel(unknown_stamp & ~unknown_ctrl),
        "no_data_in_ctrl": _any_pixel(unknown_ctrl & ~unknown_stamp),
        "zeros_in_stamp": _zeros_in_one(stamp, ctrl),
        "zeros_in_ctrl": _zeros_in_one(ctrl, stamp),
    }


def _any_pixel(mask: Mask) -> Mask:
    return np.asarray(mask.any(axis=(1, 2, 3)))


def _zeros_in_one(image: Images, other: Images) -> Mask:
    """Rows where a patch of ``image`` is exactly 0 and ``other`` holds a noisy sky there.

    A patch is 3 by 3 pixels or 8 in a line. Where no sky is noisy 0 can be a right answer, as beside a
    galaxy that was drawn; where single pixels are 0 now and then, chance makes patches as well.
    """
    other = np.where(np.isfinite(other), other, np.float32(0))
    peak = np.abs(other).max(axis=(2, 3), keepdims=True)
    other = np.where(np.abs(other) > np.float32(DUST) * peak, other, np.float32(0))
    alone = (image == 0) & (other != 0)
    found = np.zeros(len(image), dtype=bool)
    rows = np.flatnonzero(np.count_nonzero(alone, axis=(1, 2, 3)) >= 8)
    for i, band in np.argwhere(_patches(alone[rows])):
        row = rows[i]
        pair = (image[row, band], other[row, band])
        found[row] |= _noisy(pair[1]) and not any(_speckled(p) for p in pair)
    return found


def _patches(mask: Mask) -> Mask:
    """Whether each (row, band) of a mask (row, band, y, x) holds a patch."""
    three = mask[..., 2:] & mask[..., 1:-1] & mask[..., :-2]
    block = three[..., 2:, :] & three[..., 1:-1, :] & three[..., :-2, :]
    return block.any(axis=(2, 3)) | _line(mask) | _line(mask.swapaxes(2, 3))


def _line(mask: Mask) -> Mask:
    """Whether eight neighbours along the last axis hold."""
    for reach in (1, 2, 4):
        mask = mask[..., reach:] & mask[..., :-reach]
    return np.asarray(mask.any(axis=(2, 3)))


def _speckled(image: Images) -> bool:
    zero = image == 0
    return bool((zero[:, 1:] != zero[:, :-1]).mean() > SPECKLED)


def _noisy(image: Images) -> bool:
    """Whether lines of pixels go up and down as noise does."""
    change = np.sign(np.diff(image, axis=1))
    return bool((change[:, 1:] * change[:, :-1] < 0).mean() > NOISY)
