"""Pixelised point-spread functions, such as the coadd PSFs that a survey publishes.

A PSF made from pixels is *effective*: it holds the pixel's response, and the image of a point at
the centre of a pixel is the kernel itself (Anderson & King 2000, PASP 112, 1360). Between pixel
centres it is interpolated with a limited band (the sinc of the sampling theorem), which is exact
for a kernel without power beyond half a cycle a pixel, and leaves the kernel's sum as it is.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import rfft2

from darkhaloscope.errors import UserError
from darkhaloscope.geometry import FWHM_PER_SIGMA, PIXEL_SCALE
from darkhaloscope.lensing.checks import require_choice, require_in

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

SUM_ERROR = 1e-4
"""How far a kernel's sum may be from 1."""

OFF_CENTRE = 0.25
"""How far a kernel's centroid may be from its central pixel, in pixels on each axis. That of a real
coadd is off by up to 0.15 without being misplaced, by its asymmetry."""


class PixelPsf:
    """An effective PSF given as pixels.

    Parameters
    ----------
    image : array_like, shape (y, x)
        Fraction of a point's flux in each pixel, on the stamp's axes: square, odd, at least 3
        pixels a side, with its peak on the central pixel and a sum of 1.
    pixel_scale : float
        arcsec per pixel; that of the stamps it is used on.
    pixel : 'effective'
        Stated, and nothing else is allowed: the kernel holds the pixel's response already.

    Attributes
    ----------
    image : ndarray
        The kernel, read only.
    nea_fwhm : float
        FWHM in arcsec of the Gaussian with its noise-equivalent area ``1 / sum image^2`` (King
        1983, PASP 95, 163).
    fwhm : float
        The same value: what the renderer takes for the width of its finest detail.

    Raises
    ------
    UserError
        A kernel that is not square, has an even side, holds a NaN, is not normalised or is not
        centred.
    """

    image: FloatArray
    pixel_scale: float
    pixel: Literal["effective"]
    nea_fwhm: float
    fwhm: float

    def __init__(
        self,
        image: ArrayLike,
        *,
        pixel_scale: float = PIXEL_SCALE,
        pixel: Literal["effective"] = "effective",
    ) -> None:
        require_in("PSF pixel_scale", pixel_scale, 0.01, 10.0, unit="arcsec")
        require_choice("pixel of a PSF made from pixels", pixel, ("effective",))
        kernel = np.array(image, dtype=float)
        _check_kernel(kernel)
        kernel.setflags(write=False)
        self.image = kernel
        self.pixel_scale = float(pixel_scale)
        self.pixel = pixel
        area = 1.0 / float(np.square(kernel).sum())
        self.nea_fwhm = FWHM_PER_SIGMA * math.sqrt(area / (4.0 * math.pi)) * self.pixel_scale
        self.fwhm = self.nea_fwhm

    @property
    def half_width(self) -> int:
        """Pixels on each side of the central one."""
        return self.image.shape[0] // 2


def _check_kernel(kernel: FloatArray) -> None:
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise UserError(f"PSF image has shape {kernel.shape}; it must be square, (y, x).")
    side = kernel.shape[0]
    if side % 2 == 0 or side < 3:
        raise UserError(f"PSF image is {side} pixels a side; it must be an odd number from 3 on.")
    if not np.isfinite(kernel).all():
        raise UserError("PSF image holds NaN or infinity; every pixel must be a finite number.")
    total = float(kernel.sum())
    if abs(total - 1.0) > SUM_ERROR:
        raise UserError(
            f"PSF image sums to {total:.6g}; it must sum to 1 within {SUM_ERROR:g}: divide it by "
            "its sum, if it holds all of the PSF."
        )
    peak_y, peak_x = (int(i) for i in np.unravel_index(kernel.argmax(), kernel.shape))
    middle = side // 2
    if (peak_y, peak_x) != (middle, middle):
        raise UserError(
            f"PSF image has its peak at x, y = {peak_x}, {peak_y}; it must be on the central pixel, "
            f"{middle}, {middle}."
        )
    offsets = np.arange(side) - middle
    x, y = float((kernel.sum(axis=0) * offsets).sum()), float((kernel.sum(axis=1) * offsets).sum())
    if max(abs(x), abs(y)) > OFF_CENTRE:
        raise UserError(
            f"PSF image has its centroid {x:.3f}, {y:.3f} pixels (x, y) off the central pixel; it "
            f"must be within {OFF_CENTRE:g} on each axis."
        )


@lru_cache(maxsize=16)
def pixel_transfer(psf: PixelPsf, pixels: int) -> ComplexArray:
    """Transform of the kernel on a periodic grid of pixels, its centre on pixel (0, 0).

    Returns
    -------
    ndarray, shape (pixels, pixels / 2 + 1)
        Half transform (y, x); its value at frequency 0 is the kernel's sum.
    """
    side = psf.image.shape[0]
    grid = np.zeros((pixels, pixels))
    grid[:side, :side] = psf.image
    hat = rfft2(np.roll(grid, (-psf.half_width, -psf.half_width), axis=(0, 1)))
    hat.setflags(write=False)
    return np.asarray(hat)


def limit_band(light: ComplexArray, per_pixel: int) -> ComplexArray:
    """The frequencies of a half transform that a grid ``per_pixel`` times coarser holds.

    The highest, half a cycle a pixel, stands for a wave and its mirror image: it gets half of each.
    """
    nodes = light.shape[0]
    small = nodes // per_pixel
    half = small // 2
    rows = np.concatenate([np.arange(half + 1), np.arange(nodes - half + 1, nodes)])
    out = light[rows, : half + 1]
    mirrored = np.conj(light[(nodes - rows) % nodes, half])
    out[:, half] = 0.5 * (out[:, half] + mirrored)
    upper, lower = light[half, : half + 1], light[nodes - half, : half + 1]
    out[half] = 0.5 * (upper + lower)
    out[half, half] = 0.5 * (upper[half].real + lower[half].real)
    return out
