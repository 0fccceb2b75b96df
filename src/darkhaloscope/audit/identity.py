"""Is every audit row a row of its own? Rows are known by (brick, slot), and evidence counts each once."""

from __future__ import annotations

import numpy as np

from darkhaloscope.audit.causes import Cause
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.noise import flat
from darkhaloscope.audit.verdict import BUG
from darkhaloscope.variables import SPLITS

NOT_UNIQUE, REPEATED = "rows_not_unique", "rows_repeated"

FEWEST_VALUES = 16
"""Different numbers that the core of a ctrl holds at least: below it, equal pixels are no surprise."""


def repeated(stats: Arrays) -> list[Cause]:
    """Audit rows that share their identity with others, or all their core pixels in stamp and ctrl.

    Rows of equal pixels are one row that is counted often, whatever their names: intervals are then too
    narrow. Rows of other pixels under one name cannot be told apart, and no arc is drawn again for them.
    """
    n = len(stats["row_hash"])
    if n == 0:
        return []
    name = _group(stats["row_hash"].astype(np.uint64))
    arc = stats["row_core_arc"].reshape(n, -1)
    lit = (arc != 0).any(axis=1)
    pixels = _alike(np.concatenate([stats["row_core_ctrl"].reshape(n, -1), arc], axis=1))
    # A row whose name is another's, but not with its pixels.
    shared = np.bincount(name)[name] > 1
    twins = (np.bincount(pixels)[pixels] > 1) & lit
    out = []
    for cause, rows, what in (
        (NOT_UNIQUE, shared & ~twins, "share their brick and slot with other rows"),
        (REPEATED, twins, "hold the pixels of another row, stamp and ctrl"),
    ):
        k = int(rows.sum())
        if k:
            says = f"{k} of {n} audit rows {what}"
            out.append(Cause(cause, k / n, (k / n, k / n), says, BUG, 1.0, says))
    return out


def skies_in_two_splits(stats: Arrays, size: int) -> int:
    """How many different ctrl, by their core pixels in all bands, lie in more than one split.

    The same pixels are the same sky, whatever their rows are called, and mirrored or turned as well. A row of
    ``guard`` is in no split. ``size`` is that of the stamps, in pixels.
    """
    used = stats["row_region_split"] != SPLITS.index("guard")
    split = stats["row_region_split"][used]
    ctrl = stats["row_core_ctrl"][used]
    if len(ctrl) == 0:
        return 0
    # Beside a centre pixel the core lies half a pixel low: without its first line it is centred.
    first = (size - ctrl.shape[-1]) % 2
    ctrl = ctrl[..., first:, first:]
    ordered = np.sort(ctrl.reshape(len(ctrl), -1), axis=1)
    told = 1 + (np.diff(ordered, axis=1) > 0).sum(axis=1) >= FEWEST_VALUES
    sky = _alike(upright(ctrl[told]))
    both = np.unique(np.stack([sky, split[told]], axis=1), axis=0)[:, 0]
    return int((np.bincount(both, minlength=1) > 1).sum())


def upright(images: np.ndarray) -> np.ndarray:
    """One of the eight images that mirrors and turns by 90 degrees make of each, the same for all eight.

    Parameters
    ----------
    images : ndarray (row, band, n, n)
        The bands of a row are mirrored together.

    Returns
    -------
    ndarray of unsigned int (row, pixel)
        Bytes of the pixels, the lowest of the eight.
    """
    pixels = np.ascontiguousarray(images).view(f"u{images.dtype.itemsize}")
    turned = (np.rot90(v, k, axes=(2, 3)) for v in (pixels, pixels[..., ::-1]) for k in range(4))
    lowest = flat(next(turned))
    for image in turned:
        other = flat(image)
        first = (other != lowest).argmax(axis=1)[:, None]
        less = np.take_along_axis(other, first, 1) < np.take_along_axis(lowest, first, 1)
        lowest = np.where(less, other, lowest)
    return lowest


def _alike(pixels: np.ndarray) -> np.ndarray:
    """Number of the group of equal pixels (row, pixel) that each row is in."""
    rows = np.ascontiguousarray(pixels)
    return _group(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0])


def _group(keys: np.ndarray) -> np.ndarray:
    """Number of the group of equal keys that each row is in."""
    _, group = np.unique(keys, return_inverse=True)
    return group.reshape(-1)
