"""The noiseless light of the synthetic sky's sources, in the pixels of one coadd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.geometry import PIXEL_SCALE, stamp_corner
from darkhaloscope.lensing import Psf, Sersic, psf_profile, render
from darkhaloscope.survey.skyconditions import PSF_BETA, PSF_RANGE, Conditions
from darkhaloscope.survey.skysources import FLUX_BANDS, Sources

REACH = 64
"""Pixels that a source's light reaches, on either axis."""

_NARROWEST = Psf("moffat", nea_fwhm=PSF_RANGE[0], beta=PSF_BETA).fwhm


def light_of(
    sources: Sources,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    seen: dict[str, Conditions],
    size: int,
) -> dict[str, NDArray[np.float64]]:
    """Noiseless pixels (y, x) of every band in nMgy."""
    bands = list(seen)
    out = {band: np.zeros((size, size)) for band in bands}
    column = [FLUX_BANDS.index(band) for band in bands]
    for k in range(len(sources)):
        side = _side(sources, k)
        x0, y0 = int(stamp_corner(x[k], side)), int(stamp_corner(y[k], side))
        ya, yb, xa, xb = max(y0, 0), min(y0 + side, size), max(x0, 0), min(x0 + side, size)
        if ya >= yb or xa >= xb:
            continue
        at = nearest_pixel(y[k], size), nearest_pixel(x[k], size)
        psfs = [Psf("moffat", nea_fwhm=float(c.width[at]), beta=PSF_BETA) for c in seen.values()]
        stamp = _stamp(sources, k, sources.flux[k, column], psfs, side, x[k] - x0, y[k] - y0)
        for band, plane in zip(bands, stamp[:, ya - y0 : yb - y0, xa - x0 : xb - x0], strict=True):
            # Rendered wings may be below zero by 1e-7 of the peak.
            out[band][ya:yb, xa:xb] += np.maximum(plane, 0.0)
    return out


def _side(sources: Sources, k: int) -> int:
    """Pixels on a side of the stamp that holds a source's light, as far as it shows."""
    if sources.type[k] == "PSF":
        return 128 if sources.flux[k].max() > 500.0 else 64
    reach = 8.0 if sources.n[k] > 2 else 5.0  # half-light radii
    # By 16: sides that Fourier transforms are fast at.
    return min(16 * math.ceil((reach * sources.reff[k] / PIXEL_SCALE + 8) / 8), 2 * REACH)


def _stamp(
    sources: Sources,
    k: int,
    flux: NDArray[np.float64],
    psfs: list[Psf],
    side: int,
    x: float,
    y: float,
) -> NDArray[np.float64]:
    if sources.type[k] == "PSF":
        axis = np.arange(side) * PIXEL_SCALE
        radius = np.hypot(axis - x * PIXEL_SCALE, (axis - y * PIXEL_SCALE)[:, None])
        profile = np.stack([psf_profile(radius, psf) * PIXEL_SCALE**2 for psf in psfs])
        return np.asarray(profile * flux[:, None, None])
    shape = sources.reff[k], sources.n[k], sources.q[k], sources.pa[k]
    source = Sersic(tuple(flux.tolist()), *shape)
    # Fine enough for any band: how finely one is rendered must not depend on the others.
    return render(None, source, psfs, size=side, x=x, y=y, narrowest=_NARROWEST).arc


def nearest_pixel(position: Any, size: int) -> Any:
    """The pixel of the image that is nearest to a position on one axis."""
    return np.clip(np.round(position), 0, size - 1).astype(int)
