"""An arc drawn a second time, from its recorded parameters, by other means than the renderer's.

The audit compares pixels with this. It shares no code with :mod:`darkhaloscope.lensing`, nor with
the axes of :mod:`darkhaloscope.geometry`: a mistake there must not be repeated here.

Rays
    The image plane is integrated in polar coordinates about the lens centre. An elliptical power
    law deflects by a factor that depends on the direction only times ``r^(2 - slope)``, so that
    along a radius the source position is linear in ``r`` and that power; for an isothermal one it is
    linear in ``r``, and the lens centre no singularity. Each cell of (radius, angle)
    carries two quadratures, 3x3 Gauss points on the whole and on each quarter. Their difference is
    taken for the error of the finer, which it overestimates; where the source's centre may lie
    between the rays, what a peak there could hide is added (the cusp of n = 4 defeats differences).
    The worst cells are halved, or quartered, until all errors, added up without sign, are below
    ``tolerance`` times the flux. Rings grow geometrically out to the radius beyond which
    ``tolerance / 100`` of the source's light is left: the flux is that of the whole plane.

Convolution
    Each ray is laid on a grid of half a pixel or finer with a quintic B-spline, whose exact
    transform is divided out in Fourier space (a non-uniform Fourier transform; no ray is moved to
    a cell's centre). There the PSF is analytic: a Gaussian, or a Moffat as the Matern function
    ``2^(2-beta) / Gamma(beta-1) (k alpha)^(beta-1) K_{beta-1}(k alpha)``, and the pixel's response
    is its ``sinc``. Nothing is truncated or renormalised. Rays are laid on twice the stamp, in a
    box of at least three times the stamp, so the arc's periodic images stay 1.5 stamps away. What
    the wings of the eight nearest of a Moffat add from there, each like a point's, is subtracted in
    real space. Measured: a compact source is within 1e-5 of its peak, its wings within 5e-9 of its
    flux, for FWHM 0.5 to 2.5 arcsec on stamps of 31 and 64 pixels.

Axes: (East, North) in arcsec, North up and East to the left, so ``x`` falls towards the East;
position angles in degrees east of north; pixel centres are integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray
from scipy.special import gamma, gammainccinv, gammaincinv, gammaln, kv

Floats = NDArray[np.float64]

_MAX_CELLS = 400_000
_ANGLES = 8
_SPLINE = 6  # quintic: a spline of six nodes
_FINE_NODES_PER_FWHM = 7.0
_TABLE_STEP = 0.02
_GAUSS_NODE = math.sqrt(0.6)
_RAYS_PER_CELL = 45
_ALONG_R, _ALONG_PHI, _ALONG_BOTH = 0, 1, 2


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
        Sersic half-light radius sqrt(a b) in arcsec, index in [0.3, 8], axis ratio, position angle.
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
    slope: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self)[:13]:
            value = getattr(self, field.name)
            _require(math.isfinite(value), field.name, "a finite number", value)
        _require(self.theta_e >= 0.0, "theta_e", "0 arcsec or more", self.theta_e)
        _require(0.05 <= self.lens_q <= 1.0, "lens_q", "in [0.05, 1]", self.lens_q)
        _require(1.2 <= self.slope <= 2.8, "slope", "in [1.2, 2.8]", self.slope)
        shear = math.hypot(self.gamma1, self.gamma2)
        _require(shear < 0.9, "(gamma1, gamma2)", "shorter than 0.9", shear)
        _require(self.src_reff > 0.0, "src_reff", "more than 0 arcsec", self.src_reff)
        _require(0.3 <= self.src_n <= 8.0, "src_n", "in [0.3, 8]", self.src_n)
        _require(0.05 <= self.src_q <= 1.0, "src_q", "in [0.05, 1]", self.src_q)
        _one_of(self.psf_model, "psf_model", ("gaussian", "moffat"))
        _one_of(self.psf_width_is, "psf_width_is", ("nea", "fwhm"))
        _one_of(self.pixel, "pixel", ("effective", "integrate"))
        if self.psf_model == "moffat":
            _require(2.0 <= self.psf_beta <= 50.0, "psf_beta", "in [2, 50]", self.psf_beta)
        _require(
            len(self.src_flux) == len(self.psf_nea_fwhm) > 0,
            "psf_nea_fwhm",
            f"as many as src_flux ({len(self.src_flux)}), one a band",
            len(self.psf_nea_fwhm),
        )
        for flux, width in zip(self.src_flux, self.psf_nea_fwhm, strict=True):
            _require(math.isnan(width) or width >= 0.0, "psf_nea_fwhm", "0 or more", width)
            _require(not math.isinf(width), "psf_nea_fwhm", "a finite number", width)
            if width > 0.0 or not math.isnan(flux):
                _require(0.0 <= flux < math.inf, "src_flux", "0 nMgy or more", flux)


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
    _require(isinstance(size, int | np.integer) and 4 <= size <= 2048, "size", "4 to 2048", size)
    _require(0.0 < pixel_scale < math.inf, "pixel_scale", "more than 0 arcsec", pixel_scale)
    _require(1e-8 <= tolerance <= 0.1, "tolerance", "in [1e-8, 0.1]", tolerance)
    for name, value in (("target_x", target_x), ("target_y", target_y)):
        _require(-size <= value <= 2 * size, name, "within a stamp's size of the stamp", value)
    drawn = [width > 0.0 for width in p.psf_nea_fwhm]
    fwhms = np.array([_fwhm(p, w) / pixel_scale for w in p.psf_nea_fwhm if w > 0.0])
    for width in fwhms:
        _require(1.0 <= width <= size, "psf_nea_fwhm", "a FWHM of 1 pixel to the stamp", width)

    lens_x = target_x - p.lens_dx / pixel_scale
    lens_y = target_y + p.lens_dy / pixel_scale
    # The finest detail that survives the PSF: there exp(-(k sigma)^2 / 2) = 0.011.
    wavenumber = 3.0 * 2.3548 / (fwhms.min() * pixel_scale) if any(drawn) else 0.0
    frame = (1.0 + math.hypot(lens_x / size - 0.5, lens_y / size - 0.5)) * 1.5 * size * pixel_scale
    coefficients, profile = _ray_coefficients(p), _profile(p)
    cells, count, rays, error = _subdivide(
        _root_rings(p, tolerance), coefficients, profile, tolerance, wavenumber, frame, _MAX_CELLS
    )
    magnification = float(cells[:count, 5].sum())
    arc = np.zeros((len(drawn), size, size))
    if any(drawn):
        grid = _Grid.around(size, fwhms, p.psf_model)
        plane, first_x, first_y = _lay_rays(
            cells[:count],
            coefficients,
            profile,
            np.array([lens_x, lens_y, 1.0 / pixel_scale]),
            grid.margin,
            grid.per_pixel,
            grid.frame,
            grid.nodes,
        )
        spectrum = scipy.fft.rfft2(plane)
        for band in np.flatnonzero(drawn):
            width = p.psf_nea_fwhm[band] / pixel_scale
            arc[band] = p.src_flux[band] * _convolve(p, grid, spectrum, width, first_x, first_y)
    return ReferenceArc(
        arc=arc,
        flux_total=np.asarray(p.src_flux, dtype=float) * magnification,
        magnification=magnification,
        error_estimate=error / magnification + 0.01 * tolerance,
        rays=int(rays),
    )


def moffat_alpha(width: float, beta: float, width_is: str = "nea") -> float:
    """Core radius alpha of a Moffat ``(1 + r^2 / alpha^2)^-beta``, in the unit of ``width``.

    ``nea``: from equal noise-equivalent areas ``1 / sum P^2`` (King 1983, PASP 95, 163), the
    Moffat's ``pi alpha^2 (2 beta - 1) / (beta - 1)^2`` and ``4 pi sigma^2`` of the Gaussian of FWHM
    ``width``. ``fwhm``: ``width`` is the Moffat's own.
    """
    if width_is == "nea":
        return width * (beta - 1.0) / math.sqrt(2.0 * math.log(2.0) * (2.0 * beta - 1.0))
    return width / (2.0 * math.sqrt(2.0 ** (1.0 / beta) - 1.0))


def _fwhm(p: ArcParameters, width: float) -> float:
    """FWHM of the profile itself, for either meaning of its width."""
    if p.psf_model == "gaussian" or p.psf_width_is == "fwhm":
        return width
    return 2.0 * moffat_alpha(width, p.psf_beta) * math.sqrt(2.0 ** (1.0 / p.psf_beta) - 1.0)


def _require(condition: bool, name: str, allowed: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{name} must be {allowed}, and is {value}.")


def _one_of(value: str, name: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, name, " or ".join(repr(word) for word in allowed), repr(value))


# --- rays ------------------------------------------------------------


def _axes(pa: float) -> Floats:
    """Rows: major and minor axis of a position angle, as (East, North). Its own inverse."""
    s, c = math.sin(math.radians(pa)), math.cos(math.radians(pa))
    return np.array([[s, c], [c, -s]])


def _ray_coefficients(p: ArcParameters) -> Floats:
    """All that a ray needs: lens, source ellipse, the same after shear, source offset, slope."""
    ellipse = np.diag([math.sqrt(p.src_q), 1.0 / math.sqrt(p.src_q)]) @ _axes(p.src_pa)
    shear = np.array([[p.gamma1, p.gamma2], [p.gamma2, -p.gamma1]])
    lens = [p.theta_e * math.sqrt(p.lens_q), p.lens_q, math.sqrt(1.0 - p.lens_q**2)]
    return np.concatenate(
        [
            lens,
            _axes(p.lens_pa)[0],
            ellipse.ravel(),
            (ellipse @ (np.eye(2) - shear)).ravel(),
            [p.src_dx, p.src_dy, 2.0 - p.slope],
        ]
    )


def _profile(p: ArcParameters) -> Floats:
    """Sersic of unit flux: peak brightness, b_n, R_e^2, 1 / (2 n) (Graham & Driver 2005, eq. 4)."""
    n = p.src_n
    b = float(gammaincinv(2.0 * n, 0.5))
    log_area = math.log(2.0 * math.pi * n * p.src_reff**2) + gammaln(2.0 * n)
    return np.array([math.exp(2.0 * n * math.log(b) - log_area), b, p.src_reff**2, 0.5 / n])


def _root_rings(p: ArcParameters, tolerance: float) -> Floats:
    """Radii in arcsec of the first rings, out to where ``tolerance / 100`` of the light is left."""
    n = p.src_n
    b = gammaincinv(2.0 * n, 0.5)
    reach = p.src_reff * (gammainccinv(2.0 * n, 0.01 * tolerance) / b) ** n / math.sqrt(p.src_q)
    reach += math.hypot(p.src_dx, p.src_dy)
    reach = _image_radius(reach, p)
    first = 0.5 * p.theta_e if p.theta_e > 0.0 else p.src_reff
    count = max(1, math.ceil(math.log2(reach / first)))
    return np.concatenate([[0.0], first * 2.0 ** np.arange(count + 1)])


def _image_radius(reach: float, p: ArcParameters) -> float:
    """Radius beyond which nothing lands within ``reach`` of the axis on the source plane.

    The deflection at ``r`` is at most ``pull r^(2 - slope)``, found on a fine grid of directions.
    """
    free = 1.0 - math.hypot(p.gamma1, p.gamma2)
    if p.slope == 2.0:
        return (reach + p.theta_e / math.sqrt(p.lens_q)) / free
    c = _ray_coefficients(p)
    pulls = [abs(_power_law_pull(math.cos(a), math.sin(a), c)) for a in np.linspace(0.0, 1.6, 161)]
    pull, power = 1.001 * max(pulls), 2.0 - p.slope
    radius = reach + p.theta_e
    while free * radius - pull * radius**power < reach:
        radius *= 1.05
    return radius


@njit(cache=True, nogil=True)
def _power_law_pull(major: float, minor: float, c: Floats) -> complex:
    """Deflection by the power law at distance 1 in a direction on its axes, as major + i minor.

    Tessore & Metcalf (2015, A&A 580, A79), eq. 13, the terms of its series added until they are lost
    in rounding.
    """
    q, t = c[1], 1.0 - c[15]
    psi = math.sqrt(q * q * major * major + minor * minor)
    term = complex(q * major / psi, minor / psi)
    turn = -(1.0 - q) / (1.0 + q) * term * term
    total = term
    for n in range(1, 2000):
        term *= turn * ((2.0 * n - (2.0 - t)) / (2.0 * n + (2.0 - t)))
        total += term
        if abs(term) < 1e-16:
            break
    # c[0] is theta_e sqrt(q), the b of the paper
    return total * (2.0 * c[0] / (1.0 + q) * (c[0] / psi) ** (t - 1.0))


@njit(cache=True, nogil=True)
def _ray_line(phi: float, c: Floats) -> tuple[float, float, float, float, float, float]:
    """Source position along the ray at angle phi, on the ellipse's axes.

    (ax, dx, bx, ay, dy, by): it is ``r ax + r^(2 - slope) dx + bx``, and the same in y.
    """
    east, north = math.cos(phi), math.sin(phi)
    major = east * c[3] + north * c[4]
    minor = east * c[4] - north * c[3]
    if c[15] == 0.0:
        psi = math.sqrt(c[1] * c[1] * major * major + minor * minor)
        u, v = major / psi, minor / psi
        e = c[2]
        if e > 1e-4:  # else the next term is below e^2 / 3
            u, v = math.atan(e * u) / e, math.atanh(e * v) / e
        u, v = c[0] * u, c[0] * v
    else:
        pull = _power_law_pull(major, minor, c)
        u, v = pull.real, pull.imag
    pull_east = u * c[3] + v * c[4]
    pull_north = u * c[4] - v * c[3]
    return (
        c[9] * east + c[10] * north,
        -c[5] * pull_east - c[6] * pull_north,
        -c[5] * c[13] - c[6] * c[14],
        c[11] * east + c[12] * north,
        -c[7] * pull_east - c[8] * pull_north,
        -c[7] * c[13] - c[8] * c[14],
    )


@njit(cache=True, nogil=True)
def _nodes(low: float, high: float, points: Floats, weights: Floats) -> None:
    """Three Gauss points on each half of an interval, then three on the whole of it."""
    quarter = 0.25 * (high - low)
    for part in range(3):
        half_width = quarter if part < 2 else 2.0 * quarter
        middle = low + (2 * part + 1) * quarter if part < 2 else low + 2.0 * quarter
        for i in range(3):
            points[3 * part + i] = middle + (i - 1) * _GAUSS_NODE * half_width
            weights[3 * part + i] = half_width * (8.0 if i == 1 else 5.0) / 9.0


@njit(cache=True, nogil=True)
def _light(x: float, y: float, profile: Floats) -> float:
    """Sersic brightness at a place on the ellipse's axes."""
    return profile[0] * math.exp(-profile[1] * ((x * x + y * y) / profile[2]) ** profile[3])


@njit(cache=True, nogil=True)
def _evaluate(cell: Floats, c: Floats, profile: Floats, k: float, frame: float) -> None:
    """Fill a cell (r0, r1, phi0, phi1, error, flux, how to split) from its 45 rays.

    The error has three parts: the difference of the two quadratures; where the source's centre may
    lie between the rays, what a peak there would add to one ray's share of the area; and what the
    PSF would feel, the error ``(k w)^6 / 2,016,000`` of three Gauss points on half the cell, for
    the wave ``k``.
    """
    radii, radial, angles, angular = np.empty(9), np.empty(9), np.empty(9), np.empty(9)
    _nodes(cell[0], cell[1], radii, radial)
    _nodes(cell[2], cell[3], angles, angular)
    powers = radii ** c[15]
    across_nodes = (cell[1] - cell[0]) / (radii[5] - radii[0])
    flux, coarse, nearest = 0.0, 0.0, np.inf
    along_r, along_phi = 0.0, 0.0  # extent on the source plane, squared
    first_x, first_y = np.zeros(6), np.zeros(6)
    for i in range(6):
        ax, dx, bx, ay, dy, by = _ray_line(angles[i], c)
        for j in range(6):
            x = radii[j] * ax + powers[j] * dx + bx
            y = radii[j] * ay + powers[j] * dy + by
            flux += _light(x, y, profile) * radii[j] * radial[j] * angular[i]
            nearest = min(nearest, x * x + y * y)
            if i == 0:
                first_x[j], first_y[j] = x, y
            along_phi = max(along_phi, (x - first_x[j]) ** 2 + (y - first_y[j]) ** 2)
        long_x = ax * (radii[5] - radii[0]) + dx * (powers[5] - powers[0])
        long_y = ay * (radii[5] - radii[0]) + dy * (powers[5] - powers[0])
        along_r = max(along_r, (long_x * long_x + long_y * long_y) * across_nodes**2)
    for i in range(6, 9):
        ax, dx, bx, ay, dy, by = _ray_line(angles[i], c)
        for j in range(6, 9):
            x = radii[j] * ax + powers[j] * dx + bx
            y = radii[j] * ay + powers[j] * dy + by
            coarse += _light(x, y, profile) * radii[j] * radial[j] * angular[i]
    error = abs(flux - coarse)
    extent2 = max(along_r, along_phi)
    if extent2 > 9.0 * nearest:
        ray_area = 0.5 * (cell[1] ** 2 - cell[0] ** 2) * (cell[3] - cell[2]) / 36.0
        error += (profile[0] - _light(math.sqrt(nearest), 0.0, profile)) * ray_area
    split_r, split_phi = along_r > 0.25 * along_phi, along_phi > 0.25 * along_r
    if cell[0] < frame:
        wide, long = cell[1] - cell[0], cell[1] * (cell[3] - cell[2])
        felt = flux * min(1.0, (0.5 * k * max(wide, long)) ** 6 / 2.016e6)
        if felt > 0.5 * error:
            split_r, split_phi = split_r or wide > 0.5 * long, split_phi or long > 0.5 * wide
        error += felt
    cell[4], cell[5] = error, flux
    cell[6] = _ALONG_BOTH if split_r and split_phi else (_ALONG_R if split_r else _ALONG_PHI)


@njit(cache=True, nogil=True)
def _threshold(cells: Floats, allowed: float) -> float:
    """The error above which cells are split: those below add up to half of what is allowed."""
    low, high = 0.0, cells[:, 4].max()
    for _ in range(24):
        middle = 0.5 * (low + high) if low > 0.0 else high / 64.0
        total = 0.0
        for i in range(cells.shape[0]):
            if cells[i, 4] <= middle:
                total += cells[i, 4]
        if total > 0.5 * allowed:
            high = middle
        else:
            low = middle
    return low


@njit(cache=True, nogil=True)
def _subdivide(
    rings: Floats,
    c: Floats,
    profile: Floats,
    tolerance: float,
    k: float,
    frame: float,
    limit: int,
) -> tuple[Floats, int, int, float]:
    """Split cells until their errors add up to less than the tolerance.

    Returns the cells, their number, the rays spent and the summed error (intrinsic flux 1).
    """
    cells = np.empty((limit, 7))
    count = 0
    step = 2.0 * math.pi / _ANGLES
    for ring in range(rings.size - 1):
        for sector in range(_ANGLES):
            cells[count, 0], cells[count, 1] = rings[ring], rings[ring + 1]
            cells[count, 2], cells[count, 3] = sector * step, (sector + 1) * step
            _evaluate(cells[count], c, profile, k, frame)
            count += 1
    evaluated = count
    while True:
        flux, error = cells[:count, 5].sum(), cells[:count, 4].sum()
        if error <= tolerance * flux or count + 3 > limit:
            return cells, count, _RAYS_PER_CELL * evaluated, error
        threshold = _threshold(cells[:count], tolerance * flux)
        for i in range(count):
            if cells[i, 4] <= threshold or count + 3 > limit:
                continue
            r0, r1, phi0, phi1 = cells[i, 0], cells[i, 1], cells[i, 2], cells[i, 3]
            radial_parts = 1 if cells[i, 6] == _ALONG_PHI else 2
            angular_parts = 1 if cells[i, 6] == _ALONG_R else 2
            dr, dphi = (r1 - r0) / radial_parts, (phi1 - phi0) / angular_parts
            new = i
            for a in range(radial_parts):
                for b in range(angular_parts):
                    cells[new, 0], cells[new, 1] = r0 + a * dr, r0 + (a + 1) * dr
                    cells[new, 2], cells[new, 3] = phi0 + b * dphi, phi0 + (b + 1) * dphi
                    _evaluate(cells[new], c, profile, k, frame)
                    evaluated += 1
                    new = count if new == i else new + 1
            count += radial_parts * angular_parts - 1


# --- convolution -----------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """The periodic box: ``per_pixel`` nodes to a pixel, the stamp begins at ``margin``."""

    size: int
    per_pixel: int
    margin: int
    frame: int
    pixels: int

    @property
    def nodes(self) -> int:
        return self.per_pixel * self.pixels

    @staticmethod
    def around(size: int, fwhms: Floats, model: str) -> _Grid:
        """Laid on: twice the stamp. Box: three times, or wide enough for a very wide PSF."""
        margin = (size + 1) // 2
        frame = size + 2 * margin
        pixels = max(frame + size, frame + math.ceil(8.0 * fwhms.max()))
        per_pixel = max(2, math.ceil(_FINE_NODES_PER_FWHM / fwhms.min()))
        return _Grid(size, per_pixel, margin, frame, scipy.fft.next_fast_len(pixels, real=True))


@njit(cache=True, nogil=True)
def _spline_weights(t: float, weights: Floats) -> None:
    """Quintic B-spline at the six nodes around a point, t above the third (Cox-de Boor)."""
    weights[:] = 0.0
    weights[0] = 1.0
    for degree in range(1, _SPLINE):
        left = 0.0
        for i in range(degree):
            share = weights[i] / degree
            weights[i] = left + (i + 1 - t) * share
            left = (t + degree - 1 - i) * share
        weights[degree] = left


@njit(cache=True, nogil=True)
def _lay_rays(
    cells: Floats,
    c: Floats,
    profile: Floats,
    place: Floats,
    margin: int,
    per_pixel: int,
    frame: int,
    nodes: int,
) -> tuple[Floats, float, float]:
    """All rays of all cells on the fine periodic grid.

    Returns the plane (its sum is the flux in the frame) and its flux-weighted mean in stamp pixels.
    """
    plane = np.zeros((nodes, nodes))
    wx, wy = np.empty(_SPLINE), np.empty(_SPLINE)
    radii, radial, angles, angular = np.empty(9), np.empty(9), np.empty(9), np.empty(9)
    total, mean_x, mean_y = 0.0, 0.0, 0.0
    for n in range(cells.shape[0]):
        cell = cells[n]
        if cell[5] < 1e-14:
            continue
        _nodes(cell[0], cell[1], radii, radial)
        _nodes(cell[2], cell[3], angles, angular)
        powers = radii ** c[15]
        for i in range(6):
            ax, dx, bx, ay, dy, by = _ray_line(angles[i], c)
            # x falls towards the East
            x_step, y_step = -math.cos(angles[i]) * place[2], math.sin(angles[i]) * place[2]
            for j in range(6):
                x, y = place[0] + radii[j] * x_step, place[1] + radii[j] * y_step
                if not (-margin <= x < frame - margin and -margin <= y < frame - margin):
                    continue
                sx = radii[j] * ax + powers[j] * dx + bx
                sy = radii[j] * ay + powers[j] * dy + by
                flux = _light(sx, sy, profile) * radii[j] * radial[j] * angular[i]
                total += flux
                mean_x += flux * x
                mean_y += flux * y
                fx, fy = (x + margin) * per_pixel, (y + margin) * per_pixel
                ix, iy = math.floor(fx), math.floor(fy)
                _spline_weights(fx - ix, wx)
                _spline_weights(fy - iy, wy)
                for a in range(_SPLINE):
                    row = plane[(iy + a - 2) % nodes]
                    share = flux * wy[a]
                    for b in range(_SPLINE):
                        row[(ix + b - 2) % nodes] += share * wx[b]
    if total > 0.0:
        mean_x /= total
        mean_y /= total
    return plane, mean_x, mean_y


@lru_cache(maxsize=16)
def _matern_table(beta: float) -> Floats:
    """Transform of a Moffat of unit flux, and its derivative, at steps of ``k alpha``."""
    nu = beta - 1.0
    x = np.arange(1, int((45.0 + 1.5 * nu) / _TABLE_STEP)) * _TABLE_STEP
    scale = 2.0 ** (1.0 - nu) / gamma(nu)
    value = np.concatenate([[1.0], scale * x**nu * kv(nu, x)])
    slope = np.concatenate([[0.0], -scale * x**nu * kv(nu - 1.0, x)])
    return np.stack([value, slope * _TABLE_STEP], axis=1)


@njit(cache=True, nogil=True)
def _filtered(
    spectrum: NDArray[np.complex128],
    k: Floats,
    factor: Floats,
    rows: int,
    width: float,
    table: Floats,
    step: float,
) -> NDArray[np.complex128]:
    """Spectrum times PSF and ``factor`` on both axes, folded to ``rows`` rows.

    ``width`` is sigma with an empty table (Gaussian), else alpha. Folding the spectrum along y is
    what sampling at every ``len(k) / rows``-th node does.
    """
    out = np.zeros((rows, spectrum.shape[1]), dtype=np.complex128)
    for i in range(spectrum.shape[0]):
        for j in range(spectrum.shape[1]):
            k2 = (k[i] * k[i] + k[j] * k[j]) * width * width
            if table.shape[0] == 0:
                psf = math.exp(-0.5 * k2)
            else:
                x = math.sqrt(k2) / step
                m = int(x)
                if m + 1 >= table.shape[0]:
                    continue
                t = x - m
                s = 1.0 - t
                psf = (s * (1.0 + 2.0 * t) * table[m, 0] + t * s * table[m, 1]) * s
                psf += (t * (1.0 + 2.0 * s) * table[m + 1, 0] - t * s * table[m + 1, 1]) * t
            out[i % rows, j] += spectrum[i, j] * (psf * factor[i] * factor[j])
    return out


def _convolve(
    p: ArcParameters,
    grid: _Grid,
    spectrum: NDArray[np.complex128],
    width: float,
    mean_x: float,
    mean_y: float,
) -> Floats:
    """Stamp of unit intrinsic flux for a PSF width in pixels."""
    frequency = scipy.fft.fftfreq(grid.nodes)
    factor = 1.0 / np.sinc(frequency) ** _SPLINE
    if p.pixel == "integrate":
        factor *= np.sinc(frequency * grid.per_pixel)
    k = 2.0 * np.pi * grid.per_pixel * frequency
    if p.psf_model == "gaussian":
        scale, table = width / (2.0 * math.sqrt(2.0 * math.log(2.0))), np.empty((0, 2))
    else:
        scale = moffat_alpha(width, p.psf_beta, p.psf_width_is)
        table = _matern_table(p.psf_beta)
    folded = _filtered(spectrum, k, factor, grid.pixels, scale, table, _TABLE_STEP)
    stamp = slice(grid.margin, grid.margin + grid.size)
    rows = scipy.fft.ifft(folded, axis=0)[stamp]
    # The fold adds per_pixel samples of the spectrum: the fine grid's 1/n, then density to pixels.
    fine = scipy.fft.irfft(rows, n=grid.nodes, axis=1) / grid.per_pixel
    image = fine[:, :: grid.per_pixel][:, stamp] * grid.per_pixel**2
    if p.psf_model == "moffat":
        flux = float(spectrum[0, 0].real)
        image -= flux * _image_wings(grid, scale, p.psf_beta, mean_x, mean_y)
    return image


def _image_wings(grid: _Grid, alpha: float, beta: float, x0: float, y0: float) -> Floats:
    """Moffat wings on the stamp of the eight nearest periodic images of a point at (x0, y0)."""
    axis = np.arange(grid.size, dtype=float)
    wings = np.zeros((grid.size, grid.size))
    for m in (-1, 0, 1):
        for n in (-1, 0, 1):
            if m or n:
                dx, dy = axis - x0 + m * grid.pixels, axis - y0 + n * grid.pixels
                wings += (1.0 + (dx[None, :] ** 2 + dy[:, None] ** 2) / alpha**2) ** -beta
    return wings * (beta - 1.0) / (np.pi * alpha**2)
