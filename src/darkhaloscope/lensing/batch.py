"""Many arcs at once.

What takes the time (rays, spreading, transforms) runs outside Python's lock, so that threads of one
process share the work. Every arc is drawn by itself: the bytes do not depend on the number of
threads, nor on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.lensing.checks import require_in
from darkhaloscope.lensing.deflection import Lens
from darkhaloscope.lensing.pixel_psf import PixelPsf
from darkhaloscope.lensing.psf import Psf
from darkhaloscope.lensing.render import SUPERSAMPLE, Rendered, Source, render

MAX_THREADS = 256
"""Most threads that a batch may ask for."""


def render_many(
    lenses: Sequence[Lens | None],
    sources: Sequence[Source],
    psfs: Sequence[Sequence[Psf | PixelPsf | None]],
    *,
    size: int,
    x: ArrayLike,
    y: ArrayLike,
    pixel_scale: float = PIXEL_SCALE,
    supersample: int = SUPERSAMPLE,
    threads: int = 1,
) -> list[Rendered]:
    """Arcs of many pairs, as :func:`render` draws each.

    Parameters
    ----------
    lenses, sources, psfs : sequences of the same length
        For every pair what :func:`render` takes: a lens or None, a source, one PSF a band.
    size : int
        Pixels a side, 8 to 512, of all stamps.
    x, y : array_like
        The target in stamp pixels: one number for all pairs, or one a pair.
    pixel_scale, supersample
        As in :func:`render`.
    threads : int
        Threads that draw, 1 to 256. They share caches of PSF transforms, which pays where
        neighbouring pairs have the same PSFs.

    Returns
    -------
    list of Rendered
        In the order of the pairs.

    Raises
    ------
    UserError
        Lengths that differ, or what :func:`render` refuses, with the number of the pair (from 0).
    """
    require_in("threads", threads, 1, MAX_THREADS)
    count = len(lenses)
    for name, given in (("sources", sources), ("psfs", psfs)):
        if len(given) != count:
            raise UserError(f"{name} has {len(given)} entries; it must have one a lens, {count}.")
    places_x, places_y = _one_a_pair("x", x, count), _one_a_pair("y", y, count)

    def draw(pair: int) -> Rendered:
        try:
            return render(
                lenses[pair],
                sources[pair],
                psfs[pair],
                size=size,
                x=float(places_x[pair]),
                y=float(places_y[pair]),
                pixel_scale=pixel_scale,
                supersample=supersample,
            )
        except UserError as error:
            raise UserError(f"pair {pair}: {error}") from None

    if threads == 1:
        return [draw(pair) for pair in range(count)]
    with ThreadPoolExecutor(max_workers=int(threads)) as pool:
        return list(pool.map(draw, range(count)))


def _one_a_pair(name: str, value: ArrayLike, count: int) -> NDArray[np.float64]:
    values = np.asarray(value, dtype=float)
    if values.shape not in ((), (count,)):
        raise UserError(
            f"target {name} has shape {values.shape}; it must be one number, or one a pair, {count}."
        )
    return np.broadcast_to(values, (count,))
