"""Point-spread functions: circular Gaussian and Moffat, their widths, their transfer functions.

Two widths are in use and they differ for a Moffat. ``fwhm`` is the full width at half maximum of
the profile. ``nea_fwhm`` is the FWHM of the *Gaussian* with the same noise-equivalent area (King
1983, PASP 95, 163), which is what the ``psfsize`` maps of the Legacy Surveys hold: for a Moffat it
is 1.15 (beta 4.765) to 1.39 (beta 2.5) times the FWHM. A profile integrates to 1 over the plane and
is never renormalised on a grid. Widths are arcsec.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from darkhaloscope.compiled import compiled
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import FWHM_PER_SIGMA, PIXEL_SCALE
from darkhaloscope.lensing.checks import require_choice, require_in

FloatArray = NDArray[np.float64]


def moffat_alpha_from_nea(nea_fwhm: float, beta: float) -> float:
    """Scale ``alpha`` of the Moffat whose noise-equivalent area is that of a Gaussian.

    ``P(r) = (beta - 1) / (pi alpha^2) (1 + r^2 / alpha^2)^-beta`` (Moffat 1969, A&A 3, 455) has
    ``NEA = 1 / int P^2 = pi alpha^2 (2 beta - 1) / (beta - 1)^2``, a Gaussian ``4 pi sigma^2``, so
    ``alpha = 2 (beta - 1) sigma / sqrt(2 beta - 1)`` with ``sigma = nea_fwhm / 2.3548``.

    Parameters
    ----------
    nea_fwhm : float
        FWHM of the Gaussian of equal noise-equivalent area, arcsec.
    beta : float
        Moffat index, above 1.

    Returns
    -------
    float
        alpha in arcsec.
    """
    return 2.0 * (beta - 1.0) * nea_fwhm / (FWHM_PER_SIGMA * math.sqrt(2.0 * beta - 1.0))


def moffat_nea_fwhm(alpha: float, beta: float) -> float:
    """FWHM of the Gaussian with a Moffat's noise-equivalent area; undoes the function above."""
    return FWHM_PER_SIGMA * alpha * math.sqrt(2.0 * beta - 1.0) / (2.0 * (beta - 1.0))


def moffat_fwhm(alpha: float, beta: float) -> float:
    """FWHM of a Moffat profile, in the unit of alpha: ``2 alpha sqrt(2^(1/beta) - 1)``."""
    return 2.0 * alpha * math.sqrt(2.0 ** (1.0 / beta) - 1.0)


def moffat_alpha(fwhm: float, beta: float) -> float:
    """alpha of a Moffat of that FWHM, in the unit of fwhm."""
    return fwhm / (2.0 * math.sqrt(2.0 ** (1.0 / beta) - 1.0))


@dataclass(frozen=True, init=False)
class Psf:
    """A circular analytic PSF, with one way to say its width and its pixel response stated.

    Parameters
    ----------
    model : 'gaussian' or 'moffat'
    fwhm, nea_fwhm : float
        The width in arcsec, exactly one of the two, in (0, 20]. Both are attributes: the one that
        is not given follows from the other.
    beta : float
        Moffat index, in [1.1, 100]; the Gaussian has none and ignores it.
    pixel : 'effective' or 'integrate'
        'effective': the profile already holds the pixel response (a width measured on pixels, as
        psfsize is), and the convolved image is sampled at pixel centres. 'integrate': it is the
        optics and the air alone, and the image is averaged over each pixel.

    Raises
    ------
    UserError
        No width or two of them, or a parameter out of its range.
    """

    model: Literal["gaussian", "moffat"]
    fwhm: float
    nea_fwhm: float
    beta: float
    pixel: Literal["effective", "integrate"]

    def __init__(
        self,
        model: Literal["gaussian", "moffat"],
        *,
        fwhm: float | None = None,
        nea_fwhm: float | None = None,
        beta: float = 3.5,
        pixel: Literal["effective", "integrate"] = "effective",
    ) -> None:
        require_choice("PSF model", model, ("gaussian", "moffat"))
        require_choice("PSF pixel", pixel, ("effective", "integrate"))
        require_in("PSF beta", beta, 1.1, 100.0)
        if (fwhm is None) == (nea_fwhm is None):
            raise UserError("A PSF takes exactly one width: fwhm or nea_fwhm, in arcsec.")
        if fwhm is not None:
            require_in("PSF fwhm", fwhm, 0.0, 20.0, unit="arcsec", open_low=True)
            nea = moffat_nea_fwhm(moffat_alpha(fwhm, beta), beta) if model == "moffat" else fwhm
            widths = (float(fwhm), float(nea))
        else:
            assert nea_fwhm is not None
            require_in("PSF nea_fwhm", nea_fwhm, 0.0, 20.0, unit="arcsec", open_low=True)
            alpha = moffat_alpha_from_nea(nea_fwhm, beta)
            core = moffat_fwhm(alpha, beta) if model == "moffat" else nea_fwhm
            widths = (float(core), float(nea_fwhm))
        for name, value in (
            ("model", model),
            ("fwhm", widths[0]),
            ("nea_fwhm", widths[1]),
            ("beta", float(beta)),
            ("pixel", pixel),
        ):
            object.__setattr__(self, name, value)

    @property
    def sigma(self) -> float:
        """Standard deviation in arcsec of the Gaussian of this FWHM."""
        return self.fwhm / FWHM_PER_SIGMA

    @property
    def alpha(self) -> float:
        """Moffat scale in arcsec for this FWHM and beta."""
        return moffat_alpha(self.fwhm, self.beta)


def gaussian_profile(radius: FloatArray, sigma: float) -> FloatArray:
    """Gaussian of unit integral over the plane at these radii, in the unit of ``sigma``."""
    r2 = np.square(np.asarray(radius, dtype=float) / sigma)
    return np.exp(-0.5 * r2) / (2.0 * math.pi * sigma**2)


def moffat_profile(radius: FloatArray, alpha: float, beta: float) -> FloatArray:
    """Moffat profile of unit integral over the plane at these radii (Moffat 1969)."""
    r2 = np.square(np.asarray(radius, dtype=float) / alpha)
    return (beta - 1.0) / (math.pi * alpha**2) * (1.0 + r2) ** -beta


def psf_profile(radius: FloatArray, psf: Psf) -> FloatArray:
    """The PSF at these radii (arcsec), per arcsec^2; its integral over the plane is 1."""
    if psf.model == "gaussian":
        return gaussian_profile(radius, psf.sigma)
    return moffat_profile(radius, psf.alpha, psf.beta)


def kernel(psf: Psf, half_width: int, pixel_scale: float = PIXEL_SCALE) -> FloatArray:
    """The profile at pixel centres, times the pixel's area: odd, centred, not renormalised.

    Parameters
    ----------
    psf : Psf
    half_width : int
        Pixels on each side of the centre; the array has ``2 half_width + 1`` on a side.
    pixel_scale : float
        arcsec per pixel.

    Returns
    -------
    ndarray
        Fraction of the flux per pixel. The sum is below 1 by what lies outside the array.
    """
    axis = np.arange(-half_width, half_width + 1) * pixel_scale
    return psf_profile(np.hypot(axis[:, None], axis[None, :]), psf) * pixel_scale**2


@compiled
def _moffat_quadrant(half: int, step_over_alpha: float, beta: float) -> FloatArray:
    """``(1 + r^2)^-beta`` on nodes 0 .. half of both axes; the profile is symmetric in x and y."""
    out = np.empty((half + 1, half + 1))
    scale = step_over_alpha * step_over_alpha
    for j in range(half + 1):
        for i in range(j + 1):
            value = (1.0 + scale * (i * i + j * j)) ** -beta
            out[j, i] = value
            out[i, j] = value
    return out


@lru_cache(maxsize=8)
def transfer(psf: Psf, nodes: int, per_pixel: int, pixel_scale: float) -> FloatArray:
    """Transfer function on a square grid of ``nodes`` nodes a side, ``per_pixel`` to the pixel.

    The profile is sampled at the nodes out to half the grid, in every direction, and transformed.
    It is even on both axes, so its transform is real and even, a cosine transform of one quadrant,
    and no convention of where a kernel's centre lies can go wrong.

    Returns
    -------
    ndarray, shape (nodes / 2 + 1, nodes / 2 + 1)
        Factor by frequency index (y, x), 0 .. nodes/2. Applied to the transform of a grid of
        fluxes it gives flux per *pixel* at the nodes. 'integrate' adds the transform of the square
        pixel.
    """
    half = nodes // 2
    step = pixel_scale / per_pixel
    if psf.model == "gaussian":
        row = np.exp(-0.5 * np.square(np.arange(half + 1) * (step / psf.sigma)))
        line = dctn(row, type=1)
        hat = np.multiply.outer(line, line) * (pixel_scale**2 / (2.0 * math.pi * psf.sigma**2))
    else:
        peak = (psf.beta - 1.0) / math.pi * (pixel_scale / psf.alpha) ** 2
        hat = dctn(_moffat_quadrant(half, step / psf.alpha, psf.beta), type=1, overwrite_x=True)
        hat *= peak
    if psf.pixel == "integrate":
        response = np.sinc(np.arange(half + 1) * (per_pixel / nodes))
        hat *= response[:, None] * response[None, :]
    hat.setflags(write=False)
    return hat
