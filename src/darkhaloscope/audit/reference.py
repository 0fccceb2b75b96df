"""An arc drawn a second time, from its recorded parameters, by other means than the renderer's.

The audit compares pixels with this. It shares no code with :mod:`darkhaloscope.lensing`, nor with
the axes of :mod:`darkhaloscope.geometry`: a mistake there must not be repeated here.

Sersic sources are integrated over the image plane by adaptive subdivision (:mod:`.reference_rays`),
the images of a point are the roots of one function of the angle (:mod:`.reference_points`), and the
light of a pixelised source comes on an even polar grid (:mod:`.reference_image`). The lens they share
is :mod:`.reference_lens`, the PSF :mod:`.reference_psf`.

Axes: (East, North) in arcsec, North up and East to the left, so ``x`` falls towards the East;
position angles in degrees east of north; pixel centres are integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft

from darkhaloscope.audit.reference_image import lay_image
from darkhaloscope.audit.reference_lens import ray_coefficients
from darkhaloscope.audit.reference_parameters import ArcParameters, Floats, require
from darkhaloscope.audit.reference_points import point_images
from darkhaloscope.audit.reference_psf import Grid, convolve, lay_points, profile_fwhm
from darkhaloscope.audit.reference_rays import (
    MAX_CELLS,
    lay_rays,
    root_rings,
    sersic_numbers,
    subdivide,
)


@dataclass(frozen=True)
class ReferenceArc:
    """What :func:`reference_arc` returns.

    Attributes
    ----------
    arc : ndarray (band, y, x)
        nMgy per pixel, after the PSF; zeros in bands without a PSF width.
    flux_total : ndarray (band,)
        Lensed flux of the whole plane before the PSF, nMgy: ``magnification * src_flux``.
    magnification : float
        Lensed over intrinsic flux.
    error_estimate : float
        Relative error of ``magnification``, estimated and on the safe side. More than the tolerance
        only where the limit of 400,000 cells was met.
    rays : int
        Source-plane evaluations spent.
    """

    arc: Floats
    flux_total: Floats
    magnification: float
    error_estimate: float
    rays: int


def reference_arc(
    p: ArcParameters,
    *,
    size: int,
    target_x: float,
    target_y: float,
    pixel_scale: float,
    tolerance: float = 1e-5,
) -> ReferenceArc:
    """Draw one arc to an estimated relative error of its flux.

    Parameters
    ----------
    p : ArcParameters
    size : int
        Pixels on a side of the stamp, 4 to 2048.
    target_x, target_y : float
        The target in stamp pixels (centres are integers); the lens centre is there plus
        ``(lens_dx, lens_dy)``.
    pixel_scale : float
        Arcsec per pixel.
    tolerance : float
        Relative error of the flux asked for, 1e-8 to 0.1.

    Returns
    -------
    ReferenceArc

    Raises
    ------
    ValueError
        Naming the parameter and what it may be.
    """
    require(isinstance(size, int | np.integer) and 4 <= size <= 2048, "size", "4 to 2048", size)
    require(0.0 < pixel_scale < math.inf, "pixel_scale", "more than 0 arcsec", pixel_scale)
    require(1e-8 <= tolerance <= 0.1, "tolerance", "in [1e-8, 0.1]", tolerance)
    for name, value in (("target_x", target_x), ("target_y", target_y)):
        require(-size <= value <= 2 * size, name, "within a stamp's size of the stamp", value)
    drawn = [width > 0.0 for width in p.psf_nea_fwhm]
    fwhms = np.array([profile_fwhm(p, w) / pixel_scale for w in p.psf_nea_fwhm if w > 0.0])
    for width in fwhms:
        require(1.0 <= width <= size, "psf_nea_fwhm", "a FWHM of 1 pixel to the stamp", width)

    lens_x = target_x - p.lens_dx / pixel_scale
    lens_y = target_y + p.lens_dy / pixel_scale
    lens = np.array([lens_x, lens_y, 1.0 / pixel_scale])
    grid = Grid.around(size, fwhms, p.psf_model) if any(drawn) else None
    if p.src_model == "point":
        laid = _point(p, lens, grid)
    elif p.src_model == "image":
        numbers = (0, 1, 0, 0) if grid is None else grid.numbers
        finest = 0.0 if grid is None else float(fwhms.min()) * pixel_scale
        plane, x, y, total, error, rays = lay_image(p, lens, numbers, finest, tolerance)
        laid = _Laid(plane, (x, y), total, error, rays)
    else:
        # The finest detail that survives the PSF: there exp(-(k sigma)^2 / 2) = 0.011.
        wavenumber = 3.0 * 2.3548 / (fwhms.min() * pixel_scale) if any(drawn) else 0.0
        reach = 1.0 + math.hypot(lens_x / size - 0.5, lens_y / size - 0.5)
        frame = reach * 1.5 * size * pixel_scale
        laid = _sersic(p, lens, grid, tolerance, wavenumber, frame)
    arc = np.zeros((len(drawn), size, size))
    if grid is not None:
        spectrum = scipy.fft.rfft2(laid.plane)
        for band in np.flatnonzero(drawn):
            width = p.psf_nea_fwhm[band] / pixel_scale
            arc[band] = p.src_flux[band] * convolve(p, grid, spectrum, width, *laid.centre)
    return ReferenceArc(
        arc=arc,
        flux_total=np.asarray(p.src_flux, dtype=float) * laid.magnification,
        magnification=laid.magnification,
        error_estimate=laid.error,
        rays=laid.rays,
    )


class _Laid(NamedTuple):
    """Light of unit intrinsic flux on the fine grid, its mean place in stamp pixels, and its sum."""

    plane: Floats
    centre: tuple[float, float]
    magnification: float
    error: float
    rays: int


def _sersic(
    p: ArcParameters,
    lens: Floats,
    grid: Grid | None,
    tolerance: float,
    wavenumber: float,
    frame: float,
) -> _Laid:
    coefficients, profile = ray_coefficients(p), sersic_numbers(p)
    cells, count, rays, error = subdivide(
        root_rings(p, tolerance), coefficients, profile, tolerance, wavenumber, frame, MAX_CELLS
    )
    magnification = float(cells[:count, 5].sum())
    plane, x, y = np.empty((0, 0)), 0.0, 0.0
    if grid is not None:
        plane, x, y = lay_rays(cells[:count], coefficients, profile, lens, *grid.numbers)
    error = error / magnification + 0.01 * tolerance
    return _Laid(plane, (x, y), magnification, error, int(rays))


def _point(p: ArcParameters, lens: Floats, grid: Grid | None) -> _Laid:
    east, north, flux = point_images(p)
    plane, x, y = np.empty((0, 0)), 0.0, 0.0
    if grid is not None:
        places = lens[0] - east * lens[2], lens[1] + north * lens[2]
        plane, x, y = lay_points(*places, flux, *grid.numbers)
    return _Laid(plane, (x, y), float(flux.sum()), 0.0, len(flux))
