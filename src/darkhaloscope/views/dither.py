"""The comb that the store's rounding leaves, taken off again: noise one step wide, of both classes alike.

The store rounds ``ctrl`` to multiples of a step, a sixteenth of the sky's sigma or less, and a stamp is
``ctrl + arc``: wherever the arc has the faintest wing the sum lies between two multiples. So the share of
pixels on the comb tells a stamp from its ctrl far from any arc. Uniform noise one step wide hides that:
modulo the step, a multiple plus the noise and anything else plus the noise have the same, flat law (Schuchman
1964, IEEE Trans. Commun. Technol. 12, 162). What is left of a wing is its light, as in a sky that nobody
rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.compiled import compiled
from darkhaloscope.variables import CTRL_STEPS_PER_SIGMA

Images = NDArray[np.float32]

SECOND = 2
"""The second look's number beside ``CTRL`` and ``STAMP``: it has noise of its own."""

_KEY = 0xD17_4E6
_WEYL, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def rounding_step(sky_sigma: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Step of which the store's ``ctrl`` is a multiple, nMgy; 0 where sigma is not known (not rounded).

    Parameters
    ----------
    sky_sigma : ndarray
        The column of that name, nMgy.
    """
    sigma = np.asarray(sky_sigma, float)
    known = sigma > 0  # not NaN either
    power = np.floor(np.log2(np.where(known, sigma, 1.0) / CTRL_STEPS_PER_SIGMA))
    return np.where(known, np.exp2(power), 0.0)


def dithered(
    images: Images,
    sky_sigma: NDArray[np.floating[Any]],
    row: NDArray[np.integer[Any]],
    image: NDArray[np.integer[Any]],
) -> Images:
    """Images with uniform noise of mean 0, one rounding step wide, in every pixel.

    An image's noise is a pure function of its row, of which of the row's images it is, of band and pixel:
    the same in every epoch, for every seed, loader and machine. It adds 1 part in 3,000 to the sky's
    variance at most.

    Parameters
    ----------
    images : ndarray (image, band, y, x)
        nMgy, as the store has them: ``ctrl``, or ``ctrl + arc (+ extra)``.
    sky_sigma : ndarray (image, band)
        nMgy.
    row : ndarray (image,)
        Row of the data set.
    image : ndarray (image,)
        ``CTRL``, ``STAMP`` or :data:`SECOND`.
    """
    n, bands = images.shape[:2]
    flat = np.ascontiguousarray(images, np.float32).reshape(n, bands, -1)
    step = np.ascontiguousarray(rounding_step(sky_sigma))
    out = _dithered(flat, step, np.asarray(row, np.uint64), np.asarray(image, np.uint64))
    return out.reshape(images.shape)


@compiled
def _mixed(state: np.uint64) -> np.uint64:
    """A bijection of 64 bits that leaves no pattern (splitmix64; Steele et al. 2014, OOPSLA, fig. 17)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_MIX1)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_MIX2)
    return state ^ (state >> np.uint64(31))


@compiled
def _dithered(
    images: Images, step: NDArray[np.float64], row: NDArray[np.uint64], image: NDArray[np.uint64]
) -> Images:
    out = np.empty_like(images)
    weyl = np.uint64(_WEYL)
    for i in range(images.shape[0]):
        state = _mixed(_mixed(np.uint64(_KEY) + weyl * row[i]) + weyl * (image[i] + np.uint64(1)))
        for b in range(images.shape[1]):
            for p in range(images.shape[2]):
                state += weyl
                # 24 bits, in the middle of their cells: from -1/2 to 1/2, mean exactly 0.
                u = (np.float64(_mixed(state) >> np.uint64(40)) + 0.5) / 16777216.0 - 0.5
                out[i, b, p] = np.float32(np.float64(images[i, b, p]) + step[i, b] * u)
    return out
