"""Mistakes that people make: each, planted in the renderer, makes a check fail; bad input is told.

A check takes no peer and no stored picture: it compares with what the parameters promise.
"""

import importlib
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import darkhaloscope.lensing.deflection as deflection_module
import darkhaloscope.lensing.psf as psf_module
import darkhaloscope.lensing.sources as sources_module
from darkhaloscope import geometry
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.lensing import Components, Lens, Psf, Sersic, render, sis, warm

# The package exports the function of the same name, which hides the module.
render_module = importlib.import_module("darkhaloscope.lensing.render")
convolve_module = importlib.import_module("darkhaloscope.lensing.convolve")

DOT = Sersic((1.0,), 0.01, n=0.5)


def second_moment(image, x, y):
    """Mean square distance from a point, in arcsec^2: 2 sigma^2 for a Gaussian."""
    axis = np.arange(image.shape[-1])
    r2 = (axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2
    return (image * r2).sum() / image.sum() * PIXEL_SCALE**2


def centroid(image):
    axis = np.arange(image.shape[-1])
    return np.array([(image * axis).sum(), (image.T * axis).sum()]) / image.sum()


def check_gaussian_width():
    image = render(None, DOT, [Psf("gaussian", fwhm=1.2)], size=64, x=31.5, y=31.5).arc[0]
    assert second_moment(image, 31.5, 31.5) == pytest.approx(2 * (1.2 / 2.3548) ** 2, rel=2e-3)


def check_moffat_nea():
    """Sum of squares of the image of a dot: 1 / NEA, from the width that the survey's map has."""
    psf = Psf("moffat", nea_fwhm=1.3)
    image = render(None, DOT, [psf], size=64, x=31.5, y=31.5).arc[0]
    nea = 4 * math.pi * (1.3 / 2.3548 / PIXEL_SCALE) ** 2
    assert 1.0 / np.square(image).sum() == pytest.approx(nea, rel=3e-3)


def check_flux_is_not_renormalised():
    """A Moffat of beta 2.5 has 1 + r^2 / alpha^2 to the power -1.5 of its flux outside r."""
    psf = Psf("moffat", fwhm=1.8, beta=2.5)
    image = render(None, DOT, [psf], size=65, x=32, y=32).arc[0]
    axis = np.arange(65) - 32.0
    inside = image[np.hypot(axis[:, None], axis[None, :]) <= 32].sum()
    missing = (1 + (32 * PIXEL_SCALE / psf.alpha) ** 2) ** -1.5
    assert 1 - inside == pytest.approx(missing, rel=0.05)


def check_source_angle():
    """30 degrees east of north: East is at smaller x, so x y is negative in the mean."""
    source = Sersic((1.0,), 1.0, n=0.5, q=0.4, pa=30.0)
    image = render(None, source, [Psf("gaussian", fwhm=0.8)], size=64, x=31.5, y=31.5).arc[0]
    axis = np.arange(64) - 31.5
    east, north = -axis[None, :], axis[:, None]
    xx, yy, xy = ((image * m).sum() for m in (east**2, north**2, east * north))
    assert math.degrees(0.5 * math.atan2(2 * xy, yy - xx)) == pytest.approx(30.0, abs=0.1)


def check_lens_angle():
    """Four images of a source in the centre of an SIE at 30 degrees: on its two axes."""
    lens = Lens("SIE", 1.5, q=0.5, pa=30.0)
    source = Sersic((1.0,), 0.05, n=0.5)
    image = render(lens, source, [Psf("gaussian", fwhm=0.6)], size=64, x=31.5, y=31.5).arc[0]
    axis = np.arange(64) - 31.5
    radius = np.hypot(axis[None, :], axis[:, None]) * PIXEL_SCALE
    angle = np.arctan2(-axis[None, :], axis[:, None])  # east of north
    turn = (image * np.where(radius > 0.8, 1, 0) * np.exp(4j * angle)).sum()
    assert math.degrees(np.angle(turn)) / 4 == pytest.approx(30.0, abs=0.5)


def check_ring_radius():
    lens, source = Lens("SIS", 2.0), Sersic((1.0,), 0.05, n=0.5)
    image = render(lens, source, [Psf("gaussian", fwhm=0.8)], size=64, x=31.5, y=31.5).arc[0]
    expected = 4.0 + 2 * (0.8 / 2.3548) ** 2
    assert second_moment(image, 31.5, 31.5) == pytest.approx(expected, rel=5e-3)


def check_deflection_at_einstein_radius():
    assert np.hypot(*sis(0.9, 1.2, 1.5)) == pytest.approx(1.5)


def check_place():
    """The centroid is where the target is, on even and odd stamps, at any fraction of a pixel."""
    for size, x, y in ((64, 31.5, 31.5), (63, 31.0, 31.0), (64, 30.9, 31.7)):
        image = render(None, DOT, [Psf("gaussian", fwhm=1.0)], size=size, x=x, y=y).arc[0]
        np.testing.assert_allclose(centroid(image), [x, y], atol=0.01)


def check_offset():
    source = Sersic((1.0,), 0.05, dx=1.31, dy=-2.62)
    image = render(None, source, [Psf("gaussian", fwhm=1.0)], size=64, x=31.5, y=31.5).arc[0]
    np.testing.assert_allclose(centroid(image), [26.5, 21.5], atol=0.01)


def check_no_wrap():
    image = render(None, DOT, [Psf("gaussian", fwhm=1.5)], size=64, x=0.0, y=32.0).arc[0]
    assert np.abs(image[:, 32:]).max() < 1e-6 * image.max()


def check_pixel_once():
    """An effective PSF's peak is its profile's, not its profile's mean over the pixel."""
    image = render(None, DOT, [Psf("gaussian", fwhm=0.8)], size=33, x=16, y=16).arc[0]
    peak = PIXEL_SCALE**2 / (2 * math.pi * (0.8 / 2.3548) ** 2)
    assert image.max() == pytest.approx(peak, rel=5e-3)


def check_magnification():
    source = Sersic((1.0,), 0.01, n=0.5, dx=0.5)
    ours = render(Lens("SIS", 1.0), source, [Psf("gaussian", fwhm=1.0)], size=64, x=31.5, y=31.5)
    assert ours.magnification == pytest.approx(4.0, rel=1e-3)
    assert ours.arc.sum() == pytest.approx(4.0, rel=1e-3)


CHECKS = [value for name, value in sorted(globals().items()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check_passes(check):
    check()


def fwhm_as_sigma(patch):
    patch.setattr(Psf, "sigma", property(lambda psf: psf.fwhm))


def nea_as_moffat_fwhm(patch):
    patch.setattr(psf_module, "moffat_alpha_from_nea", psf_module.moffat_alpha)


def renormalised_kernel(patch):
    def convolve(*args):
        arc = original(*args)
        return arc / arc.sum(axis=(1, 2), keepdims=True)

    original = render_module.convolve
    patch.setattr(render_module, "convolve", convolve)


def degrees_as_radians_in(module):
    """Only what runs in Python: what is compiled keeps the true functions."""

    def plant(patch):
        plain = {name: getattr(math, name) for name in ("sin", "cos", "exp", "log", "pi", "sqrt")}
        patch.setattr(module, "math", SimpleNamespace(radians=lambda angle: angle, **plain))

    plant.__name__ = f"degrees_as_radians_in_{module.__name__.rsplit('.', 1)[1]}"
    return plant


def sky_to_pixel_as(function):
    def plant(patch):
        patch.setattr(render_module, "sky_to_pixel", function)

    return plant


def pixels_as_arcsec(patch):
    sky_to_pixel_as(lambda e, n, x, y, scale: geometry.sky_to_pixel(e, n, x, y, 1.0))(patch)


def half_pixel_centre(patch):
    sky_to_pixel_as(
        lambda e, n, x, y, scale: geometry.sky_to_pixel(e, n, x + 0.25, y + 0.25, scale)
    )(patch)


def east_to_the_right(patch):
    sky_to_pixel_as(lambda e, n, x, y, scale: (x + np.asarray(e) / scale, y + n / scale))(patch)


def kernel_shifted(by):
    """What ifftshift for fftshift does: the kernel's centre is not at node 0."""

    def plant(patch):
        original = convolve_module._to_pixels

        def shifted(light, hat, per_pixel):
            spectrum = original(light, hat, per_pixel)
            f = np.fft.fftfreq(spectrum.shape[0])
            half = np.fft.rfftfreq(spectrum.shape[0])
            return spectrum * np.exp(-2j * np.pi * by * (f[:, None] + half[None, :]))

        patch.setattr(convolve_module, "_to_pixels", shifted)

    plant.__name__ = f"kernel_shifted_by_{by}"
    return plant


def no_padding(patch):
    patch.setattr(convolve_module, "_grid_pixels", lambda psfs, extent, size, scale: size)


def pixel_twice(patch):
    patch.setattr(convolve_module, "transfer", doubled(convolve_module.transfer))


def doubled(transfer):
    def with_pixel(psf, nodes, per_pixel, scale):
        response = np.sinc(np.arange(nodes // 2 + 1) * per_pixel / nodes)
        return transfer(psf, nodes, per_pixel, scale) * response[:, None] * response[None, :]

    return with_pixel


def einstein_diameter(patch):
    numbers_of = Lens.numbers

    def doubled_numbers(lens):
        numbers = numbers_of(lens)
        numbers[0] *= 2.0
        return numbers

    patch.setattr(Lens, "numbers", doubled_numbers)


DEFECTS = [
    (fwhm_as_sigma, check_gaussian_width),
    (nea_as_moffat_fwhm, check_moffat_nea),
    (renormalised_kernel, check_flux_is_not_renormalised),
    (degrees_as_radians_in(sources_module), check_source_angle),
    (degrees_as_radians_in(deflection_module), check_lens_angle),
    (pixels_as_arcsec, check_ring_radius),
    (pixels_as_arcsec, check_offset),
    (half_pixel_centre, check_place),
    (east_to_the_right, check_offset),
    (east_to_the_right, check_source_angle),
    (kernel_shifted(0.5), check_place),
    (kernel_shifted(9), check_place),
    (kernel_shifted(-19), check_place),
    (no_padding, check_no_wrap),
    (pixel_twice, check_pixel_once),
    (einstein_diameter, check_ring_radius),
    (einstein_diameter, check_magnification),
    (einstein_diameter, check_deflection_at_einstein_radius),
]


@pytest.mark.parametrize(
    ("defect", "check"), DEFECTS, ids=lambda function: getattr(function, "__name__", "")
)
def test_planted_defect_is_seen(monkeypatch, defect, check):
    warm()
    psf_module.transfer.cache_clear()
    try:
        defect(monkeypatch)
        with pytest.raises(AssertionError):
            check()
    finally:
        psf_module.transfer.cache_clear()


NAN, INF = float("nan"), float("inf")
SOURCE, PSF = Sersic((1.0,), 0.3), Psf("gaussian", fwhm=1.0)


def drawn(**changes):
    arguments = {"size": 64, "x": 31.5, "y": 31.5} | changes
    psfs = arguments.pop("psfs", [PSF])
    source = arguments.pop("source", SOURCE)
    return render(arguments.pop("lens", None), source, psfs, **arguments)


BAD = {
    "theta_e zero": (lambda: Lens("SIS", 0.0), "theta_e"),
    "theta_e negative": (lambda: Lens("SIS", -1.0), "theta_e"),
    "theta_e NaN": (lambda: Lens("SIE", NAN), "theta_e"),
    "theta_e huge": (lambda: Lens("SIE", INF), "theta_e"),
    "theta_e text": (lambda: Lens("SIE", "one"), "theta_e"),
    "lens q zero": (lambda: Lens("SIE", 1.0, q=0.0), "lens q"),
    "lens q above 1": (lambda: Lens("SIE", 1.0, q=1.2), "lens q"),
    "lens q NaN": (lambda: Lens("SIE", 1.0, q=NAN), "lens q"),
    "an SIS with q": (lambda: Lens("SIS", 1.0, q=0.8), "SIS"),
    "lens pa": (lambda: Lens("SIE", 1.0, pa=NAN), "lens pa"),
    "lens model": (lambda: Lens("NFW", 1.0), "lens model"),
    "shear": (lambda: Lens("SIE", 1.0, gamma1=0.9), "gamma1"),
    "shear NaN": (lambda: Lens("SIE", 1.0, gamma2=NAN), "gamma2"),
    "lens offset": (lambda: Lens("SIE", 1.0, dx=INF), "lens dx"),
    "reff zero": (lambda: Sersic((1.0,), 0.0), "reff"),
    "reff negative": (lambda: Sersic((1.0,), -0.1), "reff"),
    "reff NaN": (lambda: Sersic((1.0,), NAN), "reff"),
    "n small": (lambda: Sersic((1.0,), 0.3, n=0.2), "source n"),
    "n large": (lambda: Sersic((1.0,), 0.3, n=8.0), "source n"),
    "source q": (lambda: Sersic((1.0,), 0.3, q=1.5), "source q"),
    "source pa": (lambda: Sersic((1.0,), 0.3, pa=INF), "source pa"),
    "source offset": (lambda: Sersic((1.0,), 0.3, dy=NAN), "source dy"),
    "flux NaN": (lambda: Sersic((1.0, NAN), 0.3), "flux"),
    "flux negative": (lambda: Sersic((-1.0,), 0.3), "flux"),
    "flux text": (lambda: Sersic(("bright",), 0.3), "flux"),
    "flux empty": (lambda: Sersic((), 0.3), "flux"),
    "PSF model": (lambda: Psf("airy", fwhm=1.0), "PSF model"),
    "no width": (lambda: Psf("moffat"), "exactly one width"),
    "two widths": (lambda: Psf("moffat", fwhm=1.0, nea_fwhm=1.2), "exactly one width"),
    "width zero": (lambda: Psf("gaussian", fwhm=0.0), "PSF fwhm"),
    "width NaN": (lambda: Psf("moffat", nea_fwhm=NAN), "PSF nea_fwhm"),
    "beta": (lambda: Psf("moffat", fwhm=1.0, beta=1.0), "PSF beta"),
    "pixel": (lambda: Psf("moffat", fwhm=1.0, pixel="twice"), "PSF pixel"),
    "size zero": (lambda: drawn(size=0), "size"),
    "size huge": (lambda: drawn(size=100_000), "size"),
    "size NaN": (lambda: drawn(size=NAN), "size"),
    "size half": (lambda: drawn(size=63.5), "size"),
    "target x": (lambda: drawn(x=NAN), "target x"),
    "target y outside": (lambda: drawn(y=300.0), "target y"),
    "pixel scale": (lambda: drawn(pixel_scale=0.0), "pixel_scale"),
    "supersample": (lambda: drawn(supersample=3), "supersample"),
    "source outside": (lambda: drawn(source=Sersic((1.0,), 0.3, dx=40.0)), "dx"),
    "lens outside": (lambda: drawn(lens=Lens("SIS", 1.0, dy=-40.0)), "dy"),
    "PSF narrower than the pixels": (lambda: drawn(psfs=[Psf("moffat", fwhm=0.1)]), "PSF fwhm"),
    "too large for a narrow PSF": (
        lambda: drawn(size=512, x=255, y=255, psfs=[Psf("moffat", fwhm=0.3)]),
        "size",
    ),
    "one PSF for two bands": (lambda: drawn(source=Sersic((1.0, 2.0), 0.3)), "PSFs"),
    "parts that are no list": (lambda: Components(SOURCE), "source parts"),
    "parts of parts": (lambda: Components([Components([SOURCE])]), "source parts"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name):
    call, word = BAD[name]
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert word in message
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 200


def test_a_whole_number_may_be_a_float():
    np.testing.assert_array_equal(drawn(size=64.0).arc, drawn(size=64).arc)


@pytest.mark.parametrize(
    ("lens", "source", "psfs", "sentence"),
    [
        ({}, Sersic((1.0,), 0.3), [None], "lens is a dict; it must be a Lens or None"),
        (None, 1.0, [None], "source is a float; it must be a Sersic, Point"),
        (None, Sersic((1.0,), 0.3), Psf("gaussian", fwhm=1.0), "psfs is a Psf; it must be a list"),
        (
            None,
            Sersic((1.0,), 0.3),
            [1.0],
            "psfs holds a float; it must hold Psf, PixelPsf or None",
        ),
    ],
)
def test_what_is_of_no_kind_is_named(lens: Any, source: Any, psfs: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        render(lens, source, psfs, size=32, x=15.5, y=15.5)
