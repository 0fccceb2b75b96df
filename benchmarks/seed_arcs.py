"""Arcs as the seed experiment drew them, by its quoted conventions and by a converged renderer.

Axes are those of its arrays. A source's size is its semi-major half-light radius, the Sersic index 1, the
lens an SIE with shear at the centre of the stamp. ``fine`` is :mod:`darkhaloscope.lensing`; ``coarse``
takes one sample a pixel of the lensed image and convolves those samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

from darkhaloscope.geometry import FWHM_PER_SIGMA, PIXEL_SCALE, stamp_centre
from darkhaloscope.lensing import (
    Lens,
    Psf,
    Sersic,
    moffat_alpha,
    render,
    sersic_profile,
    shear,
    sie,
)

SIZE = 64
CENTRE = stamp_centre(SIZE)
CORE_RADIUS = 5.0
"""Pixels: what the seed experiment called the core."""

LENS_Q = (0.6, 1.0)
"""Not quoted by the seed experiment: the range of lens axis ratios that is assumed here."""

Floats = np.ndarray


class Draws(NamedTuple):
    """Parameters of arcs, one value a row: arcsec, degrees; ``reff`` is the semi-major radius."""

    theta_e: Floats
    lens_q: Floats
    lens_pa: Floats
    gamma1: Floats
    gamma2: Floats
    reff: Floats
    src_q: Floats
    src_pa: Floats
    dx: Floats
    dy: Floats

    def row(self, i: int) -> Draws:
        """One arc's parameters, as floats."""
        return Draws(*(float(v[i]) for v in self))


def draw(
    theta_e: Floats,
    rng: np.random.Generator,
    *,
    reff: tuple[float, float],
    offset: float = 0.4,
    src_e: float = 0.6,
    most_shear: float = 0.1,
) -> Draws:
    """Uniform draws of everything but ``theta_e`` from the quoted ranges.

    The same generator state gives the same uniforms whatever the ranges are, so that two models differ
    by what is changed alone.
    """
    u = rng.uniform(size=(9, len(theta_e)))
    size, turn = most_shear * u[2], 2.0 * np.pi * u[3]
    e = src_e * u[5]
    return Draws(
        np.asarray(theta_e, dtype=float),
        LENS_Q[0] + (LENS_Q[1] - LENS_Q[0]) * u[0],
        180.0 * u[1],
        size * np.cos(turn),
        size * np.sin(turn),
        reff[0] + (reff[1] - reff[0]) * u[4],
        (1.0 - e) / (1.0 + e),
        180.0 * u[6],
        offset * (2.0 * u[7] - 1.0),
        offset * (2.0 * u[8] - 1.0),
    )


def _source(d: Draws) -> Sersic:
    return Sersic(
        (1.0,), reff=d.reff * d.src_q**0.5, n=1.0, q=d.src_q, pa=d.src_pa, dx=d.dx, dy=d.dy
    )


def fine(d: Draws, psfs: Sequence[Psf | None]) -> tuple[Floats, float]:
    """Images (psf, y, x) of one arc of a source of 1 nMgy, and its magnification."""
    lens = Lens("SIE", d.theta_e, q=d.lens_q, pa=d.lens_pa, gamma1=d.gamma1, gamma2=d.gamma2)
    source = _source(d)
    same = Sersic((1.0,) * len(psfs), source.reff, 1.0, source.q, source.pa, source.dx, source.dy)
    out = render(lens, same, psfs, size=SIZE, x=CENTRE, y=CENTRE)
    return out.arc, out.magnification


_AXIS = PIXEL_SCALE * (np.arange(SIZE) - CENTRE)
# x of an array runs to the west.
_EAST, _NORTH = np.meshgrid(-_AXIS, _AXIS)
_GRID = next_fast_len(2 * SIZE)


def samples(d: Draws) -> tuple[Floats, float]:
    """One sample a pixel of the lensed source of 1 nMgy, and the sum of one a pixel without a lens."""
    source = _source(d)
    a = sie(_EAST, _NORTH, d.theta_e, d.lens_q, d.lens_pa)
    s = shear(_EAST, _NORTH, d.gamma1, d.gamma2)
    area = PIXEL_SCALE**2
    lensed = area * sersic_profile(_EAST - a[0] - s[0], _NORTH - a[1] - s[1], source)
    return lensed, float(area * sersic_profile(_EAST, _NORTH, source).sum())


def kernels(psfs: Sequence[Psf]) -> Floats:
    """Transforms of PSFs sampled once a pixel and normalised on the grid, (psf, y, x)."""
    axis = PIXEL_SCALE * np.minimum(np.arange(_GRID), _GRID - np.arange(_GRID))
    r2 = axis[:, None] ** 2 + axis[None, :] ** 2
    out = []
    for psf in psfs:
        if psf.model == "gaussian":
            image = np.exp(-0.5 * r2 * (FWHM_PER_SIGMA / psf.fwhm) ** 2)
        else:
            image = (1.0 + r2 / moffat_alpha(psf.fwhm, psf.beta) ** 2) ** -psf.beta
        out.append(rfft2(image / image.sum()))
    return np.array(out)


def coarse(d: Draws, transforms: Floats) -> tuple[Floats, float]:
    """As :func:`fine`, by one sample a pixel; the magnification is over the rendered source."""
    lensed, unlensed = samples(d)
    return convolved(lensed, transforms), float(lensed.sum() / unlensed)


def convolved(image: Floats, transforms: Floats) -> Floats:
    """An image (y, x) by each PSF of :func:`kernels`, (psf, y, x), on a grid that nothing wraps around."""
    out = irfft2(transforms * rfft2(image, (_GRID, _GRID)), (_GRID, _GRID))
    return np.asarray(out[:, :SIZE, :SIZE])


def quoted_convolution(image: Floats, kernel: Floats, shifted: bool = True) -> Floats:
    """``_fft_convolve2d`` as the seed experiment quoted it: the kernel lies in the corner of the grid.

    ``shifted`` says whether ``ifftshift`` is applied to that grid, as the quoted function does. The centre
    of a kernel of side k then is at (k - 1) / 2 + N / 2 instead of 0, so that every source moves by as much.
    """
    grid = np.zeros_like(image)
    grid[: kernel.shape[0], : kernel.shape[1]] = kernel
    if shifted:
        grid = np.fft.ifftshift(grid)
    return np.fft.ifft2(np.fft.fft2(image) * np.fft.fft2(grid)).real


def moffat_kernel(fwhm: float, side: int = 19, beta: float = 3.5) -> Floats:
    """A Moffat of that FWHM in arcsec, sampled once a pixel and normalised on ``side`` pixels."""
    axis = PIXEL_SCALE * (np.arange(side) - (side - 1) / 2)
    r2 = axis[:, None] ** 2 + axis[None, :] ** 2
    out = (1.0 + r2 / moffat_alpha(fwhm, beta) ** 2) ** -beta
    return out / out.sum()


def radius(centre: float = CENTRE) -> Floats:
    """Distance in pixels from (centre, centre), (y, x)."""
    axis = np.arange(SIZE) - centre
    return np.hypot(axis[None, :], axis[:, None])
