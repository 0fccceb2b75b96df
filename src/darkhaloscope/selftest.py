"""Physics checks of the renderer: what a user wants to know before a night of computing.

Each draws something whose answer a textbook gives, measures it on the pixels and compares. No peer
and no stored picture is needed, and no formula is taken from the renderer: the expected numbers are
written out here. Lengths are arcsec on the sky and pixels on the stamp, angles degrees east of north.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ellipk

from darkhaloscope import geometry, lensing
from darkhaloscope.lensing import Lens, PixelPsf, Point, Psf, Sersic

FloatArray = NDArray[np.float64]
Deflection = Callable[..., tuple[FloatArray, FloatArray]]

EVEN, ODD = 64, 63
SCALES = (0.262, 0.4)
"""Pixel scales in arcsec: two, so that a scale that is not used is noticed."""

KERNEL_SIZES = (9, 19, 33)
"""Sides in pixels of the pixelised PSFs; their half widths are even, odd and even."""

SIGMAS_PER_FWHM = 1.0 / math.sqrt(8.0 * math.log(2.0))


class Renderer(Protocol):
    """What :func:`darkhaloscope.lensing.render` is."""

    def __call__(
        self,
        lens: Lens | None,
        source: Any,
        psfs: Any,
        /,
        *,
        size: int,
        x: float,
        y: float,
        pixel_scale: float = ...,
    ) -> lensing.Rendered: ...


@dataclass(frozen=True)
class Check:
    """One number that physics gives, and what was measured.

    ``passed`` is ``|value - expected| <= tolerance``, all in ``unit``; a value that is not a number
    has not passed. ``says``: what is wrong where it fails.
    """

    name: str
    value: float
    expected: float
    tolerance: float
    unit: str
    passed: bool
    says: str


def check(
    name: str, value: float, expected: float, tolerance: float, unit: str, says: str
) -> Check:
    """A check, passed where the value is a number within the tolerance."""
    value = float(value)
    passed = abs(value - expected) <= tolerance
    return Check(name, value, float(expected), tolerance, unit, passed, says)


def run_checks(
    render: Renderer = lensing.render,
    *,
    sis: Deflection = lensing.sis,
    sie: Deflection = lensing.sie,
) -> list[Check]:
    """Every check, in the order of the table.

    Parameters
    ----------
    render : callable, as :func:`darkhaloscope.lensing.render`
    sis, sie : callable, as :func:`darkhaloscope.lensing.sis` and :func:`darkhaloscope.lensing.sie`
        What is tested.

    Returns
    -------
    list of Check
        The number of checks does not depend on what they find.
    """
    with np.errstate(all="ignore"):  # an image of nothing is a failed check, not a warning
        return [
            *_impulses(render),
            kernel_shape(render),
            *_centres(render),
            sky_axes(render),
            gaussian_width(render),
            psfsize_width(render),
            pixel_response(render),
            flux_of_source(render),
            flux_of_moffat(render),
            flux_from_outside(render),
            wrap_around(render),
            sis_deflection(sis),
            sie_deflection(sie),
            ring_radius(render),
            lens_angle(render),
            lens_slope(render),
            external_shear(render),
            source_angle(render),
            magnification_pair(render),
            magnification_single(render),
            magnification_ring(render),
        ]


def _furthest(values: ArrayLike, expected: float) -> float:
    """The value furthest from what is expected; NaN where one is (``max`` would pass over it)."""
    array = np.asarray(values, dtype=float)
    return float(array[np.abs(array - expected).argmax()])


def _centroid(image: FloatArray) -> tuple[float, float]:
    """Flux-weighted mean ``x, y`` in pixels."""
    flux = image.sum()
    x = image.sum(axis=0) @ np.arange(image.shape[1]) / flux
    y = image.sum(axis=1) @ np.arange(image.shape[0]) / flux
    return float(x), float(y)


def _landing(image: FloatArray, half: int = 8) -> tuple[float, float]:
    """Where the light is: the centroid of the pixels about the brightest.

    The centroid of the whole stamp would not do: faint wings of a kernel far outside are symmetric.
    """
    peak_y, peak_x = (int(i) for i in np.unravel_index(int(image.argmax()), image.shape))
    x0, y0 = max(peak_x - half, 0), max(peak_y - half, 0)
    x, y = _centroid(image[y0 : peak_y + half + 1, x0 : peak_x + half + 1])
    return x0 + x, y0 + y


def _mean_square_radius(image: FloatArray) -> float:
    """Mean ``r^2`` about the stamp's centre in pixels^2: ``2 sigma^2`` for a Gaussian there."""
    axis = np.arange(image.shape[0]) - (image.shape[0] - 1) / 2.0
    r2 = np.add.outer(axis**2, axis**2)
    return float((image * r2).sum() / image.sum())


def _sky_axes_of(size: int) -> tuple[FloatArray, FloatArray]:
    """East and North of each pixel from the stamp's centre, in pixels: East is towards smaller x."""
    axis = np.arange(size) - (size - 1) / 2.0
    return np.broadcast_to(-axis[None, :], (size, size)), np.broadcast_to(
        axis[:, None], (size, size)
    )


def gaussian_kernel(side: int, sigma: float, lobe: float = 0.0) -> FloatArray:
    """A Gaussian on a grid of odd side, sum 1, with a share of its light displaced up and right."""
    axis = np.arange(side) - side // 2
    bell = np.exp(-0.5 * (axis / sigma) ** 2)
    right, up = (np.exp(-0.5 * ((axis - by) / sigma) ** 2) for by in (2.0, 1.0))
    image = np.outer(bell, bell) + lobe * np.outer(up, right)
    return image / image.sum()


def _impulses(render: Renderer) -> Iterator[Check]:
    """A point is seen where it was put: analytic PSFs anywhere, pixelised ones on pixel centres."""
    analytic = [Psf("gaussian", fwhm=1.0), Psf("moffat", fwhm=1.0, beta=4.0)]
    for size, kind in ((EVEN, "even"), (ODD, "odd")):
        misses = [
            math.dist(_landing(image), place)
            for place in ((32.0, 32.0), (20.3, 40.8))
            for image in _point(render, analytic, size, *place)
        ]
        yield check(
            f"analytic PSF, {kind} stamp", _furthest(misses, 0.0), 0.0, 0.02, "px",
            "a point is not seen where it was put: the PSF's centre, or the target's pixel, is off "
            "by this much",
        )  # fmt: skip
    for side, (size, kind) in itertools.product(KERNEL_SIZES, ((EVEN, "even"), (ODD, "odd"))):
        psf = PixelPsf(gaussian_kernel(side, 1.7))
        misses = [
            math.dist(_landing(_point(render, [psf], size, *place)[0]), place)
            for place in ((32.0, 32.0), (20.0, 41.0))
        ]
        yield check(
            f"{side} px kernel, {kind} stamp", _furthest(misses, 0.0), 0.0, 0.02, "px",
            "a point is not seen where it was put: the kernel's centre is not at the origin of the "
            "transform (ifftshift of a padded kernel?)",
        )  # fmt: skip


def _point(render: Renderer, psfs: list[Any], size: int, x: float, y: float) -> FloatArray:
    """An unlensed point of unit flux through each PSF, (band, y, x)."""
    return render(None, Point((1.0,) * len(psfs)), psfs, size=size, x=x, y=y).arc


def kernel_shape(render: Renderer) -> Check:
    """The image of a point on a pixel is the kernel, neither mirrored nor turned."""
    errors = []
    for side in KERNEL_SIZES:
        kernel = gaussian_kernel(side, 1.7, lobe=0.08)
        half = side // 2
        image = _point(render, [PixelPsf(kernel)], EVEN, 32.0, 31.0)[0]
        seen = image[31 - half : 32 + half, 32 - half : 33 + half]
        errors.append(np.abs(seen - kernel).max() / kernel.max())
    return check(
        "image of a point is the kernel", _furthest(errors, 0.0), 0.0, 1e-3, "of peak",
        "a point on a pixel does not look like the kernel: moved, mirrored or rescaled",
    )  # fmt: skip


def _centres(render: Renderer) -> Iterator[Check]:
    """A target at the stamp's centre is in the middle of the array: pixel centres are integers."""
    for size, kind in ((EVEN, "even"), (ODD, "odd")):
        centre = geometry.stamp_centre(size)
        x, y = _centroid(_point(render, [Psf("gaussian", fwhm=1.0)], size, centre, centre)[0])
        middle = float(np.arange(size).mean())
        yield check(
            f"centre of an {kind} stamp", _furthest((x - middle, y - middle), 0.0), 0.0, 0.01, "px",
            "the centre of a stamp of N pixels is not (N - 1) / 2: half a pixel is lost somewhere",
        )  # fmt: skip


def sky_axes(render: Renderer) -> Check:
    """A source 2.1 arcsec East and 3.2 South is 2.1 / scale pixels left and 3.2 / scale down."""
    misses = []
    source = Sersic((1.0,), 0.05, dx=2.1, dy=-3.2)
    for scale in SCALES:
        psf = Psf("gaussian", fwhm=4.0 * scale)
        drawn = render(None, source, [psf], size=EVEN, x=33.0, y=30.5, pixel_scale=scale)
        place = (33.0 - 2.1 / scale, 30.5 - 3.2 / scale)
        misses.append(math.dist(_landing(drawn.arc[0]), place))
    return check(
        "offset in arcsec, East left", _furthest(misses, 0.0), 0.0, 0.03, "px",
        "a source is not where its offset says: pixels for arcsec, or East to the right",
    )  # fmt: skip


def gaussian_width(render: Renderer) -> Check:
    """FWHM of a Gaussian's image, from its second moment; expected the 1.2 arcsec asked for."""
    image = _point(render, [Psf("gaussian", fwhm=1.2)], ODD, 31.0, 31.0)[0]
    sigma = math.sqrt(abs(_mean_square_radius(image)) / 2.0) * geometry.PIXEL_SCALE
    return check(
        "Gaussian FWHM", sigma / SIGMAS_PER_FWHM, 1.2, 0.005, "arcsec",
        "the PSF does not have the width asked for: a FWHM taken for a sigma is 2.35 times too wide",
    )  # fmt: skip


def psfsize_width(render: Renderer) -> Check:
    """Width of a Moffat's image by its noise-equivalent area, as psfsize is defined.

    ``NEA = 1 / sum p^2 = 4 pi sigma^2`` (King 1983, PASP 95, 163); expected the 1.3 arcsec asked for.
    """
    image = _point(render, [Psf("moffat", nea_fwhm=1.3, beta=3.0)], ODD, 31.0, 31.0)[0]
    sigma = float(np.sqrt(1.0 / (4.0 * math.pi * np.square(image).sum())))
    return check(
        "psfsize of a Moffat, NEA width", sigma * geometry.PIXEL_SCALE / SIGMAS_PER_FWHM, 1.3, 0.01,
        "arcsec",
        "psfsize is the width of the Gaussian of equal noise-equivalent area; taken for a Moffat's "
        "FWHM the PSF is too wide",
    )  # fmt: skip


def pixel_response(render: Renderer) -> Check:
    """Peak of an effective Gaussian's image: ``scale^2 / (2 pi sigma^2)``, the pixel not twice."""
    image = _point(render, [Psf("gaussian", fwhm=0.8)], ODD, 31.0, 31.0)[0]
    sigma = 0.8 * SIGMAS_PER_FWHM / geometry.PIXEL_SCALE
    expected = 1.0 / (2.0 * math.pi * sigma**2)
    return check(
        "peak of an effective PSF", image.max(), expected, 2e-3 * expected, "of flux",
        "a width measured on pixels holds the pixel already, and it was averaged over once more",
    )  # fmt: skip


def flux_of_source(render: Renderer) -> Check:
    """All of an unlensed source's flux is in the stamp, band by band."""
    psfs = [Psf("gaussian", fwhm=width) for width in (0.9, 1.3, 1.8)]
    source = Sersic((1.0, 3.0, 10.0), 0.3, n=1.0, q=0.6, pa=40.0)
    drawn = render(None, source, psfs, size=EVEN, x=30.8, y=31.7)
    shares = drawn.arc.sum(axis=(1, 2)) / np.array([1.0, 3.0, 10.0])
    return check(
        "flux of a source in the stamp", _furthest(shares, 1.0), 1.0, 1e-3, "of flux",
        "the light drawn is not the source's flux",
    )  # fmt: skip


def flux_of_moffat(render: Renderer) -> Check:
    """Flux of a Moffat within 31 pixels: ``1 - (1 + r^2 / alpha^2)^(1 - beta)`` (Moffat 1969)."""
    fwhm, beta, radius = 1.8, 2.5, 31.0
    image = _point(render, [Psf("moffat", fwhm=fwhm, beta=beta)], ODD, 31.0, 31.0)[0]
    east, north = _sky_axes_of(ODD)
    inside = float(image[np.hypot(east, north) <= radius].sum())
    alpha = fwhm / geometry.PIXEL_SCALE / (2.0 * math.sqrt(2.0 ** (1.0 / beta) - 1.0))
    return check(
        "flux of a Moffat within 31 px", inside, 1.0 - (1.0 + (radius / alpha) ** 2) ** (1.0 - beta),
        5e-4, "of flux",
        "a Moffat has wings outside the stamp: it must not be renormalised on the grid",
    )  # fmt: skip


def flux_from_outside(render: Renderer) -> Check:
    """Flux that a Gaussian carries into the stamp from a point three pixels outside."""
    image = _point(render, [Psf("gaussian", fwhm=1.5)], EVEN, -3.0, 31.5)[0]
    sigma = 1.5 * SIGMAS_PER_FWHM / geometry.PIXEL_SCALE
    columns = np.exp(-0.5 * ((np.arange(EVEN) + 3.0) / sigma) ** 2)
    expected = float(columns.sum()) / (sigma * math.sqrt(2.0 * math.pi))
    return check(
        "flux from outside the stamp", image.sum(), expected, 1e-3, "of flux",
        "light outside the stamp must come in through the PSF, as much as reaches it",
    )  # fmt: skip


def wrap_around(render: Renderer) -> Check:
    """Light far from a point on an edge or outside: brightest pixel more than 20 px away, of peak.

    In units of the peak of the same point within the stamp. The Gaussian has 1e-11 of it there.
    """
    psf = Psf("gaussian", fwhm=1.5)
    peak = _point(render, [psf], EVEN, 31.0, 31.0)[0].max()
    leaks = []
    axis = np.arange(EVEN)
    for x, y in ((0.0, 32.0), (63.0, 63.0), (32.0, -6.0), (-20.0, 84.0)):
        image = _point(render, [psf], EVEN, x, y)[0]
        far = np.hypot(axis[None, :] - x, axis[:, None] - y) > 20.0
        leaks.append(np.abs(image[far]).max() / peak)
    return check(
        "light wrapped round", _furthest(leaks, 0.0), 0.0, 1e-6, "of peak",
        "light that leaves the stamp on one side comes back on the other: the transform is not padded",
    )  # fmt: skip


def sis_deflection(sis: Deflection) -> Check:
    """Deflection by an SIS on its Einstein ring, 1.5 arcsec, at eight angles."""
    angle = np.arange(8) * (math.pi / 4.0) + 0.1
    east, north = 1.5 * np.sin(angle), 1.5 * np.cos(angle)
    a_east, a_north = sis(east, north, 1.5)
    outwards = a_east * np.sin(angle) + a_north * np.cos(angle)
    return check(
        "SIS deflection at theta_E", _furthest(outwards, 1.5), 1.5, 1e-9, "arcsec",
        "a ray at the Einstein radius is not deflected by the Einstein radius",
    )  # fmt: skip


def sie_deflection(sie: Deflection) -> Check:
    """Mean outward deflection by an SIE on a circle, by Gauss' theorem.

    It is ``(1 / pi r)`` times the convergence inside. With ``kappa = theta_E / (2 sqrt(q x'^2 +
    y'^2 / q))`` (Kormann et al. 1994, A&A 284, 285) that is ``2 theta_E K(1 - q^-2) / (pi sqrt(q))``
    at any radius, K the complete elliptic integral.
    """
    theta_e, q = 1.5, 0.6
    angle = np.arange(720) * (2.0 * math.pi / 720.0)
    sin, cos = np.sin(angle), np.cos(angle)
    a_east, a_north = sie(theta_e * sin, theta_e * cos, theta_e, q, 30.0)
    expected = 2.0 * theta_e * float(ellipk(1.0 - q**-2)) / (math.pi * math.sqrt(q))
    return check(
        "SIE mean deflection at theta_E", (a_east * sin + a_north * cos).mean(), expected, 1e-6,
        "arcsec",
        "the SIE does not hold the mass that theta_E means on the intermediate axis",
    )  # fmt: skip


def ring_radius(render: Renderer) -> Check:
    """Radius of the Einstein ring of a small source behind an SIS, worst of two pixel scales.

    The image's mean ``r^2`` is ``theta_E^2`` and what the PSF adds, ``2 sigma^2``.
    """
    theta_e = 2.0
    radii = []
    for scale in SCALES:
        fwhm = 4.0 * scale
        drawn = render(
            Lens("SIS", theta_e), Sersic((1.0,), 0.02, n=0.5), [Psf("gaussian", fwhm=fwhm)],
            size=EVEN, x=31.5, y=31.5, pixel_scale=scale,
        )  # fmt: skip
        square = _mean_square_radius(drawn.arc[0]) * scale**2
        radii.append(math.sqrt(abs(square - 2.0 * (fwhm * SIGMAS_PER_FWHM) ** 2)))
    return check(
        "Einstein ring's radius", _furthest(radii, theta_e), theta_e, 0.005,
        "arcsec",
        "the ring is not where theta_E says: pixels for arcsec, a diameter, or a wrong PSF width",
    )  # fmt: skip


def lens_angle(render: Renderer) -> Check:
    """Position angle of an SIE, 30 degrees, by its four images of a source behind the centre.

    They lie on its two axes, so that the mean of ``exp(4 i angle)`` over the light gives the angle
    modulo 90 degrees.
    """
    drawn = render(
        Lens("SIE", 1.5, q=0.5, pa=30.0), Sersic((1.0,), 0.05, n=0.5), [Psf("gaussian", fwhm=0.6)],
        size=EVEN, x=31.5, y=31.5,
    )  # fmt: skip
    east, north = _sky_axes_of(EVEN)
    ring = np.hypot(east, north) * geometry.PIXEL_SCALE > 0.8
    turn = (drawn.arc[0] * ring * np.exp(4j * np.arctan2(east, north))).sum()
    return check(
        "lens position angle", math.degrees(float(np.angle(turn))) / 4.0, 30.0, 0.3, "deg",
        "position angles are degrees east of north: radians, or angles from another axis, are used",
    )  # fmt: skip


def lens_slope(render: Renderer) -> Check:
    """Image of a point by a round EPL of slope 2.3, 4 arcsec out: ``alpha = theta_E^1.3 / r^0.3``.

    A density ``rho ~ r^-2.3`` holds a projected mass ``~ r^0.7`` within r, and deflects by that over
    r; theta_E is where it deflects by itself.
    """
    theta_e, r = 2.0, 4.0
    beta = r - theta_e * (theta_e / r) ** 0.3
    lens, source = Lens("EPL", theta_e, slope=2.3), Point((1.0,), dx=-0.6 * beta, dy=0.8 * beta)
    image = render(lens, source, [Psf("gaussian", fwhm=1.0)], size=EVEN, x=30.0, y=29.5).arc[0]
    x, y = _landing(image)
    scale = geometry.PIXEL_SCALE
    return check(
        "place of an image, slope 2.3", math.hypot(x - 30.0, y - 29.5) * scale, r, 0.005, "arcsec",
        "the slope of an EPL is that of the density rho, 2 is isothermal: another one was drawn",
    )  # fmt: skip


def external_shear(render: Renderer) -> Check:
    """Image of a point by shear alone: where ``(1 - g1) E - g2 N, (1 + g1) N - g2 E`` is the point.

    The SIS that carries the shear, of 1e-4 arcsec, moves it by no more than that.
    """
    g1, g2, east, north = 0.08, 0.05, -2.0, 3.0
    beta = ((1.0 - g1) * east - g2 * north, (1.0 + g1) * north - g2 * east)
    lens, source = Lens("SIS", 1e-4, gamma1=g1, gamma2=g2), Point((1.0,), *beta)
    image = render(lens, source, [Psf("gaussian", fwhm=1.0)], size=EVEN, x=30.0, y=29.5).arc[0]
    scale = geometry.PIXEL_SCALE
    miss = math.dist(_landing(image), (30.0 - east / scale, 29.5 + north / scale))
    return check(
        "place of an image, shear", miss, 0.0, 0.03, "px",
        "external shear has another sign, size or axis than (gamma1, gamma2) in (East, North)",
    )  # fmt: skip


def source_angle(render: Renderer) -> Check:
    """Position angle of an unlensed source, 30 degrees, by its second moments."""
    source = Sersic((1.0,), 1.0, n=0.5, q=0.4, pa=30.0)
    image = render(None, source, [Psf("gaussian", fwhm=0.8)], size=EVEN, x=31.5, y=31.5).arc[0]
    east, north = _sky_axes_of(EVEN)
    xx, yy, xy = (float((image * m).sum()) for m in (east**2, north**2, east * north))
    return check(
        "source position angle", math.degrees(0.5 * math.atan2(2.0 * xy, yy - xx)), 30.0, 0.1, "deg",
        "position angles are degrees east of north: radians, or angles from another axis, are used",
    )  # fmt: skip


def _magnification(render: Renderer, name: str, source: Sersic, expected: float) -> Check:
    """Lensed over intrinsic flux behind an SIS of 1 arcsec, as told and on the stamp: the worse."""
    drawn = render(Lens("SIS", 1.0), source, [Psf("gaussian", fwhm=1.0)], size=EVEN, x=31.5, y=31.5)
    values = (drawn.magnification, drawn.arc.sum())
    return check(
        name, _furthest(values, expected), expected, 1e-3 * expected, "",
        "the flux of the arc is not the source's times the magnification of an SIS",
    )  # fmt: skip


def magnification_pair(render: Renderer) -> Check:
    """A small source at ``beta = theta_E / 2``: two images, together ``2 theta_E / beta = 4``."""
    source = Sersic((1.0,), 0.01, n=0.5, dx=0.3, dy=0.4)
    return _magnification(render, "SIS magnification, two images", source, 4.0)


def magnification_single(render: Renderer) -> Check:
    """A small source at ``beta = 1.5 theta_E``: one image, ``1 + theta_E / beta = 5/3``."""
    source = Sersic((1.0,), 0.01, n=0.5, dx=-0.9, dy=1.2)
    return _magnification(render, "SIS magnification, one image", source, 5.0 / 3.0)


def magnification_ring(render: Renderer) -> Check:
    """A Gaussian source behind the centre: ``2 theta_E <1 / beta> = 2 theta_E sqrt(pi ln 2) / R_e``.

    A Sersic profile of n = 1/2 is ``exp(-ln 2 (beta / R_e)^2)``; none of it reaches theta_E.
    """
    expected = 2.0 * math.sqrt(math.pi * math.log(2.0)) / 0.2
    source = Sersic((1.0,), 0.2, n=0.5)
    return _magnification(render, "SIS magnification, ring", source, expected)
