"""Noise in ``stamp - ctrl`` that no arc explains: how much there is, and more that is like it.

Stored arcs are noiseless. Where only noisy stamps exist, or one class was given noise of its own, closure
must know what noise alone does to its figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from darkhaloscope.audit.intervals import Floats, generator
from darkhaloscope.compiled import compiled

NOISY = 0.01
"""Scatter in sky sigma from which a difference is called noisy: the rounding of ctrl is 0.02."""

LOUD, SOME = 0.1, 0.9
"""Scatter from which a tenth of the images makes it so: one class may be noisy in some of its rows."""

FAINTEST = 20.0
"""S/N of a re-rendered arc below which, in noise, its own fit says nothing: at 20 its flux is known to
5 %, and the fit is still linear."""

PARTS = (0.05, 0.3, 1.0)
"""Of an arc's peak: between which its faint and its bright pixels lie."""

SAME_GAIN, UNLIKE, FEWEST_IMAGES = 2.0, 0.25, 20
"""How near the variance of both, in units of their light, must be; how much neighbours may be alike."""

CERTAIN = 4.0
"""Standard errors by which a variance in proportion to the light must stand out: one chance in 30,000."""

SAME_LEVEL = 0.06
"""Relative scatter of a level measured in the faint half of a stamp: 0.03 of 64 pixels a side, 0.05 of 41."""

FEWEST_PIXELS = 50
UNCORRELATED = 0.05
TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation of a normal law."""


@dataclass(frozen=True)
class Noise:
    """``level`` (image,) in the unit of the images, and the ``correlation`` of neighbours.

    ``photons``: variance that a unit of an arc's own light adds to its pixel, uncorrelated.
    """

    level: Floats
    correlation: float
    photons: float = 0.0

    @property
    def there(self) -> bool:
        """Whether this is more than rounding and wings."""
        if self.photons > 0:
            return True
        rough = self.level * np.sqrt(1.0 - self.correlation)
        if len(rough) == 0:
            return False
        return bool(np.median(rough) > NOISY or np.quantile(rough, SOME) > LOUD)

    def draw(self, arc: Floats, seed: int, stream: int) -> Floats:
        """Gaussian noise like it for images of ``arc`` (image, y, x): neighbours are about as much alike."""
        random = generator(seed, stream)
        out = random.normal(size=arc.shape)
        if self.correlation > UNCORRELATED:
            # White noise smoothed by g has exp(-1 / 4 g^2) between neighbours.
            g = 0.5 / np.sqrt(-np.log(min(self.correlation, 0.95)))
            out = gaussian_filter(out, (0, g, g), mode="wrap")
            out /= out.std()
        out *= self.level[:, None, None]
        if self.photons > 0:
            out += np.sqrt(self.photons * np.maximum(arc, 0.0)) * random.normal(size=arc.shape)
        return np.asarray(out)

    def __getitem__(self, use: NDArray[np.bool_]) -> Noise:
        return Noise(self.level[use], self.correlation, self.photons)


def flat(images: NDArray[Any]) -> NDArray[Any]:
    """The pixels of each image in a row; of no images as well, where numpy cannot tell how many."""
    return images.reshape(len(images), math.prod(images.shape[1:]))


def medians(values: Floats) -> Floats:
    """Median of the numbers in each row of ``values`` (row, n), NaN where there is none.

    What :func:`numpy.nanmedian` gives, which takes the rows one by one.
    """
    if values.shape[1] == 0:
        return np.full(len(values), np.nan)
    ordered, count = np.sort(values, axis=1), np.isfinite(values).sum(axis=1)
    low, high = (np.maximum(v, 0)[:, None] for v in ((count - 1) // 2, count // 2))
    low, high = (np.take_along_axis(ordered, v, axis=1)[:, 0] for v in (low, high))
    return np.asarray(np.where(count > 0, 0.5 * (low + high), np.nan))


def scatter(values: Floats, use: NDArray[np.bool_]) -> Floats:
    """Robust standard deviation of the pixels in ``use`` of each image; 0 where they are too few."""
    return np.asarray(_scatter(flat(np.asarray(values, dtype=float)), flat(use)))


@compiled
def _scatter(values: Floats, use: NDArray[np.bool_]) -> Floats:
    out = np.zeros(len(values))
    known = np.empty(values.shape[1])
    for i in range(len(values)):
        asked, count = 0, 0
        for j in range(values.shape[1]):
            if use[i, j]:
                asked += 1
                if np.isfinite(values[i, j]):
                    known[count] = values[i, j]
                    count += 1
        if asked < FEWEST_PIXELS:
            continue
        out[i] = np.nan
        if count > 0:
            far = np.abs(known[:count] - np.median(known[:count]))
            out[i] = TO_SIGMA * np.median(far)
    return out


def faint_pixels(arc: Floats, good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The half of the good pixels in which an arc is faintest, with a good neighbour in x.

    Parameters
    ----------
    arc, good : ndarray (image, y, x)

    Returns
    -------
    ndarray of bool (image, y, x - 1)
    """
    both = good[..., 1:] & good[..., :-1]
    light = flat(np.where(both, arc[..., 1:], np.nan))
    some = flat(both).any(axis=1)
    limit = np.full(len(arc), -np.inf)
    limit[some] = medians(light[some])
    return np.asarray(both & (arc[..., 1:] <= limit[:, None, None]))


def deviation(values: Floats) -> float:
    """Robust standard deviation of ``values``: :data:`TO_SIGMA` times their median absolute deviation."""
    return TO_SIGMA * float(np.median(np.abs(values - np.median(values))))


def noise_of(difference: Floats, arc: Floats, good: NDArray[np.bool_]) -> Noise:
    """Noise of ``difference`` (image, y, x): far from ``arc``, and of the arc's own photons."""
    afar = _noise_afar(difference, arc, good)
    photons = _photons(afar, difference, arc, good)
    return Noise(_pooled(afar.level), afar.correlation, photons)


def _noise_afar(difference: Floats, arc: Floats, good: NDArray[np.bool_]) -> Noise:
    """From neighbours' differences and sums, whose variances are 2 s^2 (1 -+ correlation).

    What is smooth, as the wings of an arc, is not in the first.
    """
    use = faint_pixels(arc, good)
    left, right = difference[..., :-1], difference[..., 1:]
    minus, plus = scatter(right - left, use) ** 2, scatter(right + left, use) ** 2
    whole = np.median(minus + plus) if len(minus) else 0.0
    correlation = float(np.median(plus - minus) / whole) if whole > 0 else 0.0
    correlation = float(np.clip(correlation, 0.0, 0.95))
    return Noise(np.sqrt(minus / (2.0 * (1.0 - correlation))), correlation)


def _pooled(level: Floats) -> Floats:
    """One level for all images, if theirs scatter by no more than what so few pixels make of one."""
    if len(level) < FEWEST_IMAGES:
        return level
    middle = float(np.median(level))
    return np.full(len(level), middle) if deviation(level) < SAME_LEVEL * middle else level


def _photons(noise: Noise, difference: Floats, arc: Floats, good: NDArray[np.bool_]) -> float:
    """Variance that a unit of the arcs' own light adds to ``difference`` (image, y, x); 0 where none shows.

    Beyond the noise elsewhere neighbours differ by a variance in proportion to the arc's light (as the square
    root of what errors of the arc leave), certainly so in its faint and in its bright part, and are not alike
    (as these are). ``noise`` has a level for each image: its errors are then in the scatter over images.
    """
    both = good[..., 1:] & good[..., :-1]
    left, right = difference[..., :-1], difference[..., 1:]
    light = 0.5 * (arc[..., 1:] + arc[..., :-1])
    peak = arc.max(axis=(1, 2), initial=0.0)[:, None, None]
    elsewhere = (2.0 * noise.level**2 * (1.0 - noise.correlation))[:, None, None]
    found = []
    for lowest, highest in pairwise(PARTS):
        use = both & (light > lowest * peak) & (light <= highest * peak)
        more = (((right - left) ** 2 - elsewhere) * use).sum(axis=(1, 2))
        found.append(_middle(more, 2.0 * (light * use).sum(axis=(1, 2))))
    use = both & (light > PARTS[0] * peak)
    product, square = (
        (v * use).sum(axis=(1, 2)) for v in (left * right, 0.5 * (left**2 + right**2))
    )
    (faint, faint_error), (bright, bright_error) = found
    if not (faint > CERTAIN * faint_error and bright > CERTAIN * bright_error):
        return 0.0
    if max(faint, bright) >= SAME_GAIN * min(faint, bright):
        return 0.0
    if _middle(product, square)[0] > UNLIKE:
        return 0.0
    return float(np.sqrt(faint * bright))


def _middle(top: Floats, bottom: Floats) -> tuple[float, float]:
    """Median of a ratio over images, and its error; NaN where these are too few.

    Of the half of the images with most ``bottom``, if they are enough: others tell little. The error
    is that of a normal law's median; that of a law with longer wings is less.
    """
    known = bottom > 0
    if known.sum() < FEWEST_IMAGES:
        return float("nan"), float("nan")
    if known.sum() >= 2 * FEWEST_IMAGES:
        known &= bottom >= np.median(bottom[known])
    ratio = top[known] / bottom[known]
    return float(np.median(ratio)), deviation(ratio) * math.sqrt(0.5 * math.pi / len(ratio))


def stands_out(again: Floats, good: NDArray[np.bool_], noise: Noise) -> NDArray[np.bool_]:
    """Which re-rendered arcs (image, y, x) stand out of the noise that their stored ones have."""
    return np.asarray(signal_of(again, good, noise) > FAINTEST)


def signal_of(again: Floats, good: NDArray[np.bool_], noise: Noise, least: float = 0.0) -> Floats:
    """S/N of arcs (image, y, x) in noise, of which ``least`` is granted: sqrt(sum of arc^2 / variance)."""
    level = np.maximum(noise.level, least)[:, None, None]
    variance = level**2 + noise.photons * np.maximum(again, 0.0)
    each = np.divide(again**2, variance, out=np.zeros_like(again), where=variance > 0)
    return np.asarray(np.sqrt(each.sum(axis=(1, 2), where=good)))
