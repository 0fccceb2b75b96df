"""PSF widths beside an image, or as what batches are stratified by: known alike of both classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.geometry import FWHM_PER_SIGMA, PIXEL_SCALE

Floats = NDArray[np.float32]


def used_widths(psfdepth: NDArray[Any], sky_sigma: NDArray[Any]) -> Floats:
    """``psf_fwhm_used`` of every row, controls as well, (row, band) arcsec; NaN where there is none.

    The column itself is missing on controls, which would tell the classes apart. It is taken back, for both
    alike, from ``psfdepth = 1 / (sky_sigma^2 NEA)`` with ``NEA = 4 pi (width / 2.3548)^2``.

    Parameters
    ----------
    psfdepth : ndarray (row, band)
        1 / nMgy^2.
    sky_sigma : ndarray (row, band)
        nMgy.
    """
    flux_variance = np.asarray(psfdepth, float) * np.asarray(sky_sigma, float) ** 2
    known = flux_variance > 0
    area = np.divide(1.0, flux_variance, out=np.full(known.shape, np.nan), where=known)
    return (FWHM_PER_SIGMA * PIXEL_SCALE * np.sqrt(area / (4.0 * np.pi))).astype(np.float32)


def standardised(values: Floats, mean: NDArray[Any], std: NDArray[Any]) -> Floats:
    """Columns in units of their spread, (row, band); 0, the mean, where a value is missing."""
    return np.nan_to_num((values - mean) / std).astype(np.float32)


def strata(width: Floats, rows: NDArray[np.int64], bins: int) -> NDArray[np.int16]:
    """Bin of every row by its width: quantiles of the widths of ``rows``; ``bins`` where it has none."""
    known = width[rows][np.isfinite(width[rows])]
    if len(known) == 0:
        return np.full(len(width), bins, dtype=np.int16)
    edges = np.quantile(known, np.arange(1, bins) / bins)
    found = np.searchsorted(edges, width, side="right")
    return np.where(np.isfinite(width), found, bins).astype(np.int16)
