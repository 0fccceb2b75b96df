"""One arc as a data set records it: what the independent integrator draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_PLACES = (
    "theta_e", "lens_q", "lens_pa", "gamma1", "gamma2", "lens_dx", "lens_dy", "src_dx", "src_dy",
)  # fmt: skip
_SHAPES = {
    "sersic": ("src_reff", "src_n", "src_q", "src_pa"),
    "point": (),
    "image": ("src_scale", "src_rotation"),
}


@dataclass(frozen=True)
class ArcParameters:
    """One arc as it is recorded in a data set.

    Parameters
    ----------
    theta_e : float
        Einstein radius in arcsec, 0 for no lens; intermediate-axis convention,
        ``kappa = theta_e / (2 sqrt(q x^2 + y^2 / q))`` with x along the major axis
        (Kormann et al. 1994, A&A 284, 285; lenstronomy ``SIE``); ``slope`` for other powers.
    lens_q, lens_pa : float
        Axis ratio in (0, 1] (an SIS has 1) and position angle in degrees.
    gamma1, gamma2 : float
        External shear, not reduced: ``alpha = (g1 E + g2 N, g2 E - g1 N)`` about the lens centre.
    lens_dx, lens_dy : float
        Lens centre minus target, (East, North) arcsec.
    src_reff, src_n, src_q, src_pa : float
        Sersic half-light radius sqrt(a b) in arcsec, index in [0.3, 8], axis ratio, position angle;
        not read for points and images.
    src_dx, src_dy : float
        Source minus lens centre, (East, North) arcsec.
    src_flux : tuple of float
        Intrinsic flux per band, nMgy; missing (NaN) only where the band is not drawn.
    psf_model : 'gaussian' or 'moffat'
    psf_beta : float
        Moffat exponent, in [2, 50]; not read for a Gaussian.
    psf_nea_fwhm : tuple of float
        Width per band in arcsec; 0 or NaN where the band is not drawn.
    psf_width_is : 'nea' or 'fwhm'
        ``nea``: the FWHM of the Gaussian with the same noise-equivalent area; ``fwhm``: the PSF's.
    pixel : 'effective' or 'integrate'
        ``effective``: the PSF holds the pixel already, the image is sampled at pixel centres.
    src_model : 'sersic', 'point' or 'image'
    src_image : ndarray (y, x), optional
        Of an image: its pixels, divided by their sum to become the source.
    src_scale, src_rotation : float
        Of an image: arcsec a pixel, and position angle of its y axis in degrees; its x axis falls
        towards the East at 0. ``(src_dx, src_dy)`` is its middle, ``((nx - 1)/2, (ny - 1)/2)``.
    slope : float
        Slope of the density ``rho ~ r^-slope``, in [1.2, 2.8]; 2 is isothermal. The convergence is
        ``(3 - slope)/2 (theta_e / sqrt(q x^2 + y^2/q))^(slope - 1)`` (Tessore & Metcalf 2015,
        A&A 580, A79; lenstronomy ``EPL``).

    Raises
    ------
    ValueError
        Naming the parameter and what it may be.
    """

    theta_e: float
    lens_q: float
    lens_pa: float
    gamma1: float
    gamma2: float
    lens_dx: float
    lens_dy: float
    src_reff: float
    src_n: float
    src_q: float
    src_pa: float
    src_dx: float
    src_dy: float
    src_flux: tuple[float, ...]
    psf_model: Literal["gaussian", "moffat"]
    psf_beta: float
    psf_nea_fwhm: tuple[float, ...]
    psf_width_is: Literal["nea", "fwhm"] = "nea"
    pixel: Literal["effective", "integrate"] = "effective"
    src_model: Literal["sersic", "point", "image"] = "sersic"
    src_image: Floats | None = None
    src_scale: float = math.nan
    src_rotation: float = math.nan
    slope: float = 2.0

    def __post_init__(self) -> None:
        one_of(self.src_model, "src_model", tuple(_SHAPES))
        for name in (*_PLACES, *_SHAPES[self.src_model]):
            value = getattr(self, name)
            require(math.isfinite(value), name, "a finite number", value)
        require(self.theta_e >= 0.0, "theta_e", "0 arcsec or more", self.theta_e)
        require(0.05 <= self.lens_q <= 1.0, "lens_q", "in [0.05, 1]", self.lens_q)
        require(1.2 <= self.slope <= 2.8, "slope", "in [1.2, 2.8]", self.slope)
        shear = math.hypot(self.gamma1, self.gamma2)
        require(shear < 0.9, "(gamma1, gamma2)", "shorter than 0.9", shear)
        if self.src_model == "sersic":
            require(self.src_reff > 0.0, "src_reff", "more than 0 arcsec", self.src_reff)
            require(0.3 <= self.src_n <= 8.0, "src_n", "in [0.3, 8]", self.src_n)
            require(0.05 <= self.src_q <= 1.0, "src_q", "in [0.05, 1]", self.src_q)
        if self.src_model == "image":
            require(self.src_scale > 0.0, "src_scale", "more than 0 arcsec", self.src_scale)
            total = 0.0 if self.src_image is None else float(self.src_image.sum())
            require(0.0 < total < math.inf, "src_image", "pixels with a positive sum", total)
        one_of(self.psf_model, "psf_model", ("gaussian", "moffat"))
        one_of(self.psf_width_is, "psf_width_is", ("nea", "fwhm"))
        one_of(self.pixel, "pixel", ("effective", "integrate"))
        if self.psf_model == "moffat":
            require(2.0 <= self.psf_beta <= 50.0, "psf_beta", "in [2, 50]", self.psf_beta)
        require(
            len(self.src_flux) == len(self.psf_nea_fwhm) > 0,
            "psf_nea_fwhm",
            f"as many as src_flux ({len(self.src_flux)}), one a band",
            len(self.psf_nea_fwhm),
        )
        for flux, width in zip(self.src_flux, self.psf_nea_fwhm, strict=True):
            require(math.isnan(width) or width >= 0.0, "psf_nea_fwhm", "0 or more", width)
            require(not math.isinf(width), "psf_nea_fwhm", "a finite number", width)
            if width > 0.0 or not math.isnan(flux):
                require(0.0 <= flux < math.inf, "src_flux", "0 nMgy or more", flux)


def require(condition: bool, name: str, allowed: str, value: Any) -> None:
    """A ValueError that names the parameter and what it may be, unless ``condition``."""
    if not condition:
        raise ValueError(f"{name} must be {allowed}, and is {value}.")


def one_of(value: str, name: str, allowed: tuple[str, ...]) -> None:
    """A ValueError unless ``value`` is one of the ``allowed``."""
    require(value in allowed, name, " or ".join(repr(word) for word in allowed), repr(value))
