"""What a fraction is plotted against: the axis, the columns it is made of, and its bins.

Bins are fixed numbers, so that the curves of two runs can be laid over each other. A row whose value is
missing (a failed row has no PSF) is in no bin, and is counted as such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.audit.spec import PSF_RATIO_EDGES, interval_labels
from darkhaloscope.variables import MAG_ZERO_POINT

Floats = NDArray[np.float64]


class Axis(NamedTuple):
    """One axis. ``edges`` are the inner ones: the first bin has no lower end, the last no upper."""

    name: str
    title: str
    unit: str
    reads: tuple[str, ...]
    edges: tuple[float, ...]
    value: Callable[[xr.Dataset, int], Floats]
    """Of columns (pair,) or (pair, band) and the number of the reference band: (pair,), NaN for none."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the bins."""
        return interval_labels(self.edges)

    def bins(self, values: Floats) -> NDArray[np.int64]:
        """The bin of each value; -1 where it is missing. A value on an edge is in the upper bin."""
        return np.where(np.isfinite(values), np.digitize(values, self.edges), -1).astype(np.int64)


def _column(name: str) -> Callable[[xr.Dataset, int], Floats]:
    def value(columns: xr.Dataset, band: int) -> Floats:
        return np.asarray(columns[name].values, float)

    return value


def _width(columns: xr.Dataset, band: int) -> Floats:
    """The map's own value in the reference band: raw, before any fallback; 0 means that it has none."""
    width = columns["psfsize"].values[:, band].astype(float)
    return np.where(width > 0, width, np.nan)


def _ratio(columns: xr.Dataset, band: int) -> Floats:
    return np.asarray(columns["theta_e"].values.astype(float) / _width(columns, band))


def _magnitude(name: str) -> Callable[[xr.Dataset, int], Floats]:
    def value(columns: xr.Dataset, band: int) -> Floats:
        return magnitude(columns[name].values[:, band].astype(float))

    return value


def _depth(columns: xr.Dataset, band: int) -> Floats:
    """Magnitude of a point source at 5 sigma: psfdepth is the inverse variance of its flux."""
    inverse = columns["psfdepth"].values[:, band].astype(float)
    known = inverse > 0
    return magnitude(np.where(known, 5.0 / np.sqrt(np.where(known, inverse, 1.0)), np.nan))


def magnitude(flux: Floats) -> Floats:
    """AB magnitude of a flux in nMgy; NaN where it is not positive."""
    known = flux > 0
    return np.where(known, MAG_ZERO_POINT - 2.5 * np.log10(np.where(known, flux, 1.0)), np.nan)


AXES: tuple[Axis, ...] = (
    Axis(
        "theta_e_over_psf", "θ_E / PSF (raw psfsize, reference band)", "",
        ("theta_e", "psfsize"), PSF_RATIO_EDGES, _ratio,
    ),
    Axis(
        "theta_e", "Einstein radius", "arcsec",
        ("theta_e",), (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5), _column("theta_e"),
    ),
    Axis(
        "arc_snr", "S/N of the arc (reference band)", "",
        ("arc_snr",), (1.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0), _column("arc_snr"),
    ),
    Axis(
        "src_mag", "source, unlensed (reference band)", "mag AB",
        ("src_flux",), (20.0, 21.0, 22.0, 23.0, 24.0, 25.0), _magnitude("src_flux"),
    ),
    Axis(
        "arc_mag", "arc, lensed, before the PSF (reference band)", "mag AB",
        ("arc_flux_total",), (18.0, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0), _magnitude("arc_flux_total"),
    ),
    Axis(
        "psfsize", "PSF (raw psfsize, reference band)", "arcsec",
        ("psfsize",), (0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.6), _width,
    ),
    Axis(
        "depth", "depth: point source at 5 σ (reference band)", "mag AB",
        ("psfdepth",), (23.0, 23.25, 23.5, 23.75, 24.0, 24.25, 24.5), _depth,
    ),
    Axis(
        "bad_pixel_frac", "bad pixels in the stamp", "fraction",
        ("bad_pixel_frac",), (0.001, 0.01, 0.05, 0.1, 0.2), _column("bad_pixel_frac"),
    ),
    Axis(
        "wise_brightmask_frac", "stamp under WISE's bright-star masks", "fraction",
        ("wise_brightmask_frac",), (0.001, 0.01, 0.05, 0.1, 0.2), _column("wise_brightmask_frac"),
    ),
)  # fmt: skip

BY_NAME = {axis.name: axis for axis in AXES}
