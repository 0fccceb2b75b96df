"""Lensed arcs on pixels: pure functions on arrays, usable alone.

>>> from darkhaloscope.lensing import Lens, Psf, Sersic, render
>>> lens = Lens("SIE", theta_e=1.2, q=0.8, pa=30.0)
>>> source = Sersic(flux=(1.0, 2.0, 3.0), reff=0.3, dx=0.1, dy=0.2)
>>> psfs = [Psf("moffat", nea_fwhm=width) for width in (1.5, 1.3, 1.2)]
>>> render(lens, source, psfs, size=64, x=31.5, y=31.5).arc.shape
(3, 64, 64)

Lengths are arcsec, fluxes nMgy, offsets (East, North), position angles degrees east of north;
arrays are (band, y, x) with pixel centres at integers.
"""

from darkhaloscope.lensing.batch import render_many
from darkhaloscope.lensing.deflection import Lens, epl, shear, sie, sis
from darkhaloscope.lensing.photometry import (
    arc_snr,
    flux_from_mag,
    gain_from_invvar,
    poisson_noise,
    snr_matched_filter,
    snr_peak,
    snr_region,
)
from darkhaloscope.lensing.pixel_psf import PixelPsf
from darkhaloscope.lensing.pixel_source import PixelSource
from darkhaloscope.lensing.points import Images, Point, image_positions
from darkhaloscope.lensing.psf import (
    Psf,
    gaussian_profile,
    kernel,
    moffat_alpha,
    moffat_alpha_from_nea,
    moffat_fwhm,
    moffat_nea_fwhm,
    moffat_profile,
    psf_profile,
)
from darkhaloscope.lensing.render import Components, Rendered, render, warm
from darkhaloscope.lensing.sources import Sersic, sersic_b, sersic_profile

__all__ = [
    "Components",
    "Images",
    "Lens",
    "PixelPsf",
    "PixelSource",
    "Point",
    "Psf",
    "Rendered",
    "Sersic",
    "arc_snr",
    "epl",
    "flux_from_mag",
    "gain_from_invvar",
    "gaussian_profile",
    "image_positions",
    "kernel",
    "moffat_alpha",
    "moffat_alpha_from_nea",
    "moffat_fwhm",
    "moffat_nea_fwhm",
    "moffat_profile",
    "poisson_noise",
    "psf_profile",
    "render",
    "render_many",
    "sersic_b",
    "sersic_profile",
    "shear",
    "sie",
    "sis",
    "snr_matched_filter",
    "snr_peak",
    "snr_region",
    "warm",
]
