"""Small pairs whose arcs are what their parameters say, with or without something planted beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from small_pairs import SIGMA, small_pairs

from darkhaloscope.lensing import Lens, Psf, Sersic, render
from darkhaloscope.variables import LENS_MODELS, PSF_MODELS, SOURCE_MODELS

SIZE = 32
PSF_ARCSEC = 0.9


def drawn_pairs(rows: int = 600, seed: int = 0, brightness: float = 40.0) -> xr.Dataset:
    """Rows of four to a region, half of the regions train and a quarter each val and test.

    ``brightness`` is the source's flux in units of the sky's sigma of a pixel. The arc lies to one side of
    its galaxy, a random one, at about 5 pixels.
    """
    cube = small_pairs(rows, seed=seed, size=SIZE)
    rng = np.random.default_rng([seed, 1])
    n = np.arange(rows)
    region = n // 4
    for name in ("brick", "region_id"):
        cube[name].values[:] = [f"r{k}" for k in region]
    injected = cube["lens_model"].values > 0
    angle = rng.uniform(0, 2 * np.pi, rows)
    numbers: dict[str, Any] = {
        "host_id": n, "region_split": np.array([0, 1, 0, 2])[region % 4],
        "ra": 10.0 + 0.1 * region, "dec": 0.01 * (n % 4),
        "src_dx": 0.35 * np.cos(angle), "src_dy": 0.35 * np.sin(angle),
        "lens_model": np.where(injected, LENS_MODELS.index("SIS"), 0),
        "theta_e": np.where(injected, 1.1, 0.0), "gamma1": 0.0, "gamma2": 0.0, "lens_dx": 0.0,
        "lens_dy": 0.0, "lens_q": 1.0, "lens_pa": 0.0, "src_model": SOURCE_MODELS.index("SERSIC"),
        "src_reff": 0.15, "src_n": 1.0, "src_q": 1.0, "src_pa": 0.0, "psf_beta": 3.5,
        "psf_model": PSF_MODELS.index("MOFFAT"), "pixel_response": 0, "psfsize": PSF_ARCSEC,
        "psf_fwhm_used": PSF_ARCSEC, "psf_fwhm_drawn": PSF_ARCSEC, "src_flux": brightness * SIGMA,
        "psfdepth": 1e4, "total_injected_flux": 1.0, "arc_flux_total": 1.0, "magnification": 5.0,
    }  # fmt: skip
    for name, value in numbers.items():
        cube[name].values[:] = np.reshape(
            value, np.shape(value) + (1,) * (cube[name].ndim - np.ndim(value))
        )
    psfs = [Psf("moffat", nea_fwhm=PSF_ARCSEC, beta=3.5)] * 3
    for i in np.flatnonzero(injected):
        row = cube.isel(pair=int(i))
        x, y, dx, dy = (float(row[k]) for k in ("target_x", "target_y", "src_dx", "src_dy"))
        source = Sersic([brightness * SIGMA] * 3, 0.15, n=1.0, dx=dx, dy=dy)
        drawn = render(
            Lens("SIS", theta_e=float(row["theta_e"])), source, psfs, size=SIZE, x=x, y=y
        )
        cube["arc"].values[i] = drawn.arc
    snr = np.sqrt((cube["arc"].values[:, 1].astype(float) ** 2).sum((1, 2))) / SIGMA
    cube["arc_snr"].values[:] = np.where(injected, snr, np.nan)
    return cube


def plant_corner(cube: xr.Dataset, sigma: float = 10.0) -> xr.Dataset:
    """Light in sixteen pixels of one corner of each stamp: far from any arc."""
    planted = cube.copy(deep=True)
    injected = planted["lens_model"].values > 0
    planted["arc"].values[injected, :, 1:5, 1:5] += sigma * SIGMA
    return planted


def plant_core(cube: xr.Dataset, sigma: float = 6.0) -> xr.Dataset:
    """A constant under the central four by four pixels of each stamp."""
    planted = cube.copy(deep=True)
    injected = planted["lens_model"].values > 0
    planted["arc"].values[injected, :, 14:18, 14:18] += sigma * SIGMA
    return planted
