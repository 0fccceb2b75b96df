"""From a lens, a source and PSFs to a noiseless arc on a stamp.

Rays carry the lensed light (:mod:`rays` for a Sersic source, :mod:`points` for an unresolved one,
:mod:`pixel_source` for an image), and the stamp is what each PSF makes of them (:mod:`convolve`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE, pixel_to_sky, sky_to_pixel
from darkhaloscope.lensing.checks import require_in
from darkhaloscope.lensing.convolve import convolve, frame
from darkhaloscope.lensing.deflection import Lens
from darkhaloscope.lensing.pixel_psf import PixelPsf
from darkhaloscope.lensing.pixel_source import PixelSource, trace_pixels
from darkhaloscope.lensing.points import Point, image_positions
from darkhaloscope.lensing.psf import Psf
from darkhaloscope.lensing.rays import FWHM_PER_CELL, Rays, trace
from darkhaloscope.lensing.sources import Sersic

FloatArray = NDArray[np.float64]

SUPERSAMPLE = 128
"""Finest sampling allowed by default: rays per pixel side where the brightness has a cusp."""

MAX_SIZE = 512
"""Largest stamp, pixels a side."""


@dataclass(frozen=True)
class Components:
    """A source made of several: a bulge and a disc, a galaxy and its active nucleus.

    Parameters
    ----------
    parts : sequence of Sersic, Point or PixelSource
        Each with its own fluxes per band, shape and position; all with the same number of bands.

    Raises
    ------
    UserError
        No parts, a part that is none of the three, or parts of different numbers of bands.
    """

    parts: Sequence[Sersic | Point | PixelSource]

    def __post_init__(self) -> None:
        given = self.parts if isinstance(self.parts, Sequence) else (None,)
        object.__setattr__(self, "parts", tuple(given))
        if not self.parts:
            raise UserError("source parts is empty; it must hold at least one source.")
        if not all(isinstance(part, Sersic | Point | PixelSource) for part in self.parts):
            raise UserError("source parts must be a list of Sersic, Point or PixelSource.")
        bands = sorted({len(part.flux) for part in self.parts})
        if len(bands) > 1:
            raise UserError(
                f"source parts have {' and '.join(map(str, bands))} fluxes; each must have one "
                "for every band."
            )

    @property
    def flux(self) -> tuple[float, ...]:
        """Total flux of the parts in nMgy, one value a band."""
        return tuple(
            float(sum(fluxes)) for fluxes in zip(*(part.flux for part in self.parts), strict=True)
        )


Source = Sersic | Point | PixelSource | Components


@dataclass(frozen=True)
class Rendered:
    """A noiseless arc, and what it is made of.

    Attributes
    ----------
    arc : ndarray, shape (band, y, x)
        nMgy per pixel, after the PSF; 0 in a band without a PSF. Not clipped: where the light fades
        it may be below zero by about 1e-7 of the peak.
    arc_flux_total : ndarray, shape (band,)
        Lensed flux in nMgy before the PSF, over the whole plane.
    magnification : float
        ``arc_flux_total`` over the source's flux; 1 without a lens. For a source of several parts,
        whose colours make it differ from band to band, that of the fluxes summed over the bands.
        Right to 1e-3; slow where a source of n >= 3 lies within 0.001 arcsec of a round lens's
        centre: the cusp is then a whole ring.
    supersample : int
        Rays per pixel side in the finest part of the image plane, at least 1.
    magnification_band : ndarray, shape (band,)
        ``arc_flux_total`` over the source's flux in each band: the parts' magnifications weighted
        by their fluxes. Missing (NaN) in a band where several parts have no flux at all. Not given,
        it is ``magnification`` in every band.
    """

    arc: FloatArray
    arc_flux_total: FloatArray
    magnification: float
    supersample: int
    magnification_band: FloatArray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        if self.magnification_band.size == 0:
            same = np.full(self.arc_flux_total.shape, self.magnification)
            object.__setattr__(self, "magnification_band", same)


def render(
    lens: Lens | None,
    source: Source,
    psfs: Sequence[Psf | PixelPsf | None],
    *,
    size: int,
    x: float,
    y: float,
    pixel_scale: float = PIXEL_SCALE,
    supersample: int = SUPERSAMPLE,
    narrowest: float = math.inf,
) -> Rendered:
    """The noiseless image of a lensed (or, without a lens, unlensed) source in several bands.

    Parameters
    ----------
    lens : Lens or None
        Its centre is ``(dx, dy)`` from the target. None draws the source itself.
    source : Sersic, Point, PixelSource or Components
        One flux a band in nMgy; its position counts from the lens centre (from the target without a
        lens).
    psfs : sequence of Psf, PixelPsf or None
        One a band; None draws nothing in that band.
    size : int
        Pixels a side, 8 to 512.
    x, y : float
        The target in stamp pixels: pixel centres are integers, any fraction is kept. Within half a
        stamp of the stamp.
    pixel_scale : float
        arcsec per pixel.
    supersample : int
        Finest sampling allowed, rays per pixel side: a power of two, 2 to 128.
    narrowest : float
        FWHM in arcsec for which rays and grid are fine enough, where no PSF here is narrower. With one
        that no band of a set falls below, a band's pixels depend on no other band's PSF.

    Returns
    -------
    Rendered

    Raises
    ------
    UserError
        A parameter out of its range, NaN included; a lens or source position outside the frame;
        what is no lens, source or PSF; numbers of fluxes and PSFs that differ; a point source on a
        caustic; a pixelised PSF larger than the stamp, or of another pixel scale.
    """
    _check_kinds(lens, source, psfs)
    _check(psfs, source, size, x, y, pixel_scale, supersample)
    size, supersample = int(size), int(supersample)
    dx, dy = (0.0, 0.0) if lens is None else (lens.dx, lens.dy)
    lens_x, lens_y = (float(value) for value in sky_to_pixel(dx, dy, x, y, pixel_scale))
    around = frame(size)
    low, high = -float(around), size - 1.0 + around
    parts = source.parts if isinstance(source, Components) else (source,)
    for part in parts:
        source_x, source_y = sky_to_pixel(part.dx, part.dy, lens_x, lens_y, pixel_scale)
        if not (low <= source_x <= high and low <= source_y <= high):
            raise UserError(
                f"source dx, dy put the source at pixel ({source_x:.1f}, {source_y:.1f}); on each "
                f"axis it must be between {low:g} and {high:g} for a stamp of {size} pixels."
            )
    east, north = pixel_to_sky([high, low], [low, high], lens_x, lens_y, pixel_scale)
    inside = (east[0], east[1], north[0], north[1])
    narrowest = min([narrowest, *(psf.fwhm for psf in psfs if psf is not None)])
    resolution = narrowest / FWHM_PER_CELL
    arc = np.zeros((len(psfs), size, size))
    total = np.zeros(len(psfs))
    finest = math.inf
    for part in parts:
        rays = _rays(lens, part, inside, pixel_scale, resolution, supersample)
        ray_x, ray_y = sky_to_pixel(rays.east, rays.north, lens_x, lens_y, pixel_scale)
        flux = np.asarray(part.flux)
        arc += flux[:, None, None] * convolve(
            ray_x, ray_y, rays.flux, psfs, size, pixel_scale, narrowest
        )
        total += flux * rays.total
        finest = min(finest, rays.finest)
    if len(parts) == 1:
        magnification, by_band = rays.total, np.empty(0)
    else:
        flux = np.asarray(source.flux)
        by_band = np.divide(total, flux, out=np.full(flux.shape, math.nan), where=flux > 0.0)
        magnification = float(total.sum() / flux.sum()) if flux.any() else math.nan
    supersampled = max(1, round(2.0 * pixel_scale / finest))
    return Rendered(arc, total, magnification, supersampled, by_band)


def _rays(
    lens: Lens | None,
    source: Sersic | Point | PixelSource,
    inside: tuple[float, float, float, float],
    pixel_scale: float,
    resolution: float,
    supersample: int,
) -> Rays:
    """The light of one source of unit flux, as rays about the lens centre; see :func:`rays.trace`."""
    if isinstance(source, Point):
        if lens is None:
            east, north, flux = np.array([source.dx]), np.array([source.dy]), np.ones(1)
        else:
            east, north, flux = image_positions(lens, source.dx, source.dy)
        flux = np.abs(flux)
        return Rays(east, north, flux, float(flux.sum()), 2.0 * pixel_scale)
    if isinstance(source, PixelSource):
        return trace_pixels(
            lens,
            source,
            frame=inside,
            pixel_scale=pixel_scale,
            resolution=resolution,
            supersample=supersample,
        )
    return trace(
        lens,
        source,
        frame=inside,
        pixel_scale=pixel_scale,
        resolution=resolution,
        supersample=supersample,
    )


def _check_kinds(lens: object, source: object, psfs: object) -> None:
    """See that everything is of a kind that is drawn, whatever a type checker was not asked."""
    if not isinstance(lens, Lens | None):
        raise UserError(f"lens is a {type(lens).__name__}; it must be a Lens or None.")
    if not isinstance(source, Sersic | Point | PixelSource | Components):
        raise UserError(
            f"source is a {type(source).__name__}; it must be a Sersic, Point, PixelSource or Components."
        )
    if not isinstance(psfs, Sequence):
        raise UserError(
            f"psfs is a {type(psfs).__name__}; it must be a list with a PSF for each band."
        )
    for psf in psfs:
        if not isinstance(psf, Psf | PixelPsf | None):
            raise UserError(
                f"psfs holds a {type(psf).__name__}; it must hold Psf, PixelPsf or None."
            )


def _check(
    psfs: Sequence[Psf | PixelPsf | None],
    source: Source,
    size: int,
    x: float,
    y: float,
    pixel_scale: float,
    supersample: int,
) -> None:
    require_in("size", size, 8, MAX_SIZE, unit="pixels")
    if int(size) != size:
        raise UserError(f"size is {size:g} pixels; it must be a whole number of pixels.")
    require_in("pixel_scale", pixel_scale, 0.01, 10.0, unit="arcsec")
    require_in("target x", x, -0.5 * size, 1.5 * size, unit="pixels")
    require_in("target y", y, -0.5 * size, 1.5 * size, unit="pixels")
    require_in("supersample", supersample, 2, 128)
    if supersample not in (2, 4, 8, 16, 32, 64, 128):
        raise UserError(f"supersample is {supersample}; it must be a power of two from 2 to 128.")
    if len(psfs) != len(source.flux):
        raise UserError(
            f"{len(psfs)} PSFs were given for {len(source.flux)} source fluxes; "
            "there must be one of each for every band."
        )
    for psf in psfs:
        if isinstance(psf, PixelPsf):
            side = psf.image.shape[0]
            if side > size:
                raise UserError(
                    f"PSF image is {side} pixels a side; for a stamp of {size} pixels it must be at "
                    f"most {size}: cut its wings off, or draw larger stamps."
                )
            if abs(psf.pixel_scale / pixel_scale - 1.0) > 1e-3:
                raise UserError(
                    f"PSF pixel_scale is {psf.pixel_scale:g} arcsec; it must be the stamp's, "
                    f"{pixel_scale:g} arcsec."
                )


def warm() -> None:
    """Compile (or load from numba's cache) everything that :func:`render` runs."""
    psfs = [Psf("moffat", nea_fwhm=1.3), Psf("gaussian", fwhm=1.3)]
    source = Sersic((1.0, 1.0), reff=0.3)
    for lens in (
        None,
        Lens("SIS", 1.0),
        Lens("SIE", 1.0, q=0.7),
        Lens("EPL", 1.0, q=0.7, slope=2.1),
    ):
        for drawn in (source, Point((1.0, 1.0), dx=0.3), PixelSource((1.0, 1.0), np.eye(4), 0.1)):
            render(lens, drawn, psfs, size=16, x=7.5, y=7.5)
