"""``dhs selftest``: all checks pass, and each fails when a mistake that people make is planted."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import darkhaloscope.lensing.deflection as deflection_module
import darkhaloscope.lensing.psf as psf_module
import darkhaloscope.lensing.sources as sources_module
from darkhaloscope import cli, commands, geometry, lensing
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.lensing import Lens, PixelPsf, Point, Psf, Sersic
from darkhaloscope.selftest import KERNEL_SIZES, check, gaussian_kernel, run_checks

# The package exports functions of the same names, which hide the modules.
render_module = importlib.import_module("darkhaloscope.lensing.render")
convolve_module = importlib.import_module("darkhaloscope.lensing.convolve")

ANALYTIC = {"analytic PSF, even stamp", "analytic PSF, odd stamp"}
KERNEL = {
    side: {f"{side} px kernel, {kind} stamp" for kind in ("even", "odd")} for side in KERNEL_SIZES
}
KERNELS = set().union(*KERNEL.values())
CENTRES = {"centre of an even stamp", "centre of an odd stamp"}
MAGNIFICATIONS = {f"SIS magnification, {name}" for name in ("two images", "one image", "ring")}

Plant = Callable[[pytest.MonkeyPatch], object]


@pytest.fixture(autouse=True)
def fresh_transfers():
    """Transfer functions of PSFs are cached: what a defect made must not outlive it."""
    lensing.warm()
    psf_module.transfer.cache_clear()
    yield
    psf_module.transfer.cache_clear()


def failed(**functions: object) -> set[str]:
    return {one.name for one in run_checks(**functions) if not one.passed}


def test_every_check_passes():
    assert failed() == set()
    assert len({one.name for one in run_checks()}) == len(run_checks())


# Mistakes in the middle of a renderer.


def kernel_by_ifftshift(patch):
    """Kernel in the corner of the grid, then ifftshift of the grid: its centre is not at 0, 0."""

    def pixel_transfer(psf, pixels):
        grid = np.zeros((pixels, pixels))
        side = psf.image.shape[0]
        grid[:side, :side] = psf.image
        return np.fft.rfft2(np.fft.ifftshift(grid))

    patch.setattr(convolve_module, "pixel_transfer", pixel_transfer)


def kernel_moved(by):
    """Every kernel, pixelised or not, with its centre ``by`` pixels from 0, 0 on both axes."""

    def moved(function):
        def spectrum(*args):
            hat = function(*args)
            f, half = np.fft.fftfreq(hat.shape[0]), np.fft.rfftfreq(hat.shape[0])
            return hat * np.exp(-2j * np.pi * by * (f[:, None] + half[None, :]))

        return spectrum

    def plant(patch):
        for name in ("_to_pixels", "pixel_transfer"):
            patch.setattr(convolve_module, name, moved(getattr(convolve_module, name)))

    plant.__name__ = f"kernel_moved_by_{by}"
    return plant


def kernel_mirrored(patch):
    """Correlation for convolution."""
    original = convolve_module.pixel_transfer
    patch.setattr(convolve_module, "pixel_transfer", lambda *args: np.conj(original(*args)))


def fwhm_as_sigma(patch):
    patch.setattr(Psf, "sigma", property(lambda psf: psf.fwhm))


def psfsize_as_moffat_fwhm(patch):
    patch.setattr(psf_module, "moffat_alpha_from_nea", psf_module.moffat_alpha)


def pixel_twice(patch):
    original = convolve_module.transfer

    def transfer(psf, nodes, per_pixel, scale):
        response = np.sinc(np.arange(nodes // 2 + 1) * per_pixel / nodes)
        return original(psf, nodes, per_pixel, scale) * np.multiply.outer(response, response)

    patch.setattr(convolve_module, "transfer", transfer)


def psf_width_in_pixels(patch):
    original = convolve_module.transfer
    patch.setattr(
        convolve_module,
        "transfer",
        lambda psf, nodes, per_pixel, scale: original(psf, nodes, per_pixel, 1.0),
    )


def kernel_renormalised(patch):
    original = render_module.convolve

    def convolve(*args):
        arc = original(*args)
        return arc / arc.sum(axis=(1, 2), keepdims=True)

    patch.setattr(render_module, "convolve", convolve)


def no_padding(patch):
    def grid_pixels(psfs, extent, size, scale):
        return size + size % 2

    patch.setattr(convolve_module, "_grid_pixels", grid_pixels)


def stamp_alone(patch):
    """Rays outside the stamp are left out before the PSF is applied."""
    patch.setattr(convolve_module, "frame", lambda size: 0)


def degrees_as_radians_in(module):
    """Only what runs in Python: what is compiled keeps the true functions."""

    def plant(patch):
        plain = {name: getattr(math, name) for name in ("sin", "cos", "exp", "log", "pi", "sqrt")}
        patch.setattr(module, "math", SimpleNamespace(radians=lambda angle: angle, **plain))

    plant.__name__ = f"degrees_as_radians_in_{module.__name__.rsplit('.', 1)[1]}"
    return plant


def places_by(name, function):
    def plant(patch):
        patch.setattr(render_module, "sky_to_pixel", function)

    plant.__name__ = name
    return plant


pixels_as_arcsec = places_by(
    "pixels_as_arcsec", lambda e, n, x, y, scale: geometry.sky_to_pixel(e, n, x, y, 1.0)
)
one_scale_for_all = places_by(
    "one_scale_for_all", lambda e, n, x, y, scale: geometry.sky_to_pixel(e, n, x, y)
)
half_pixel = places_by(
    "half_pixel",
    lambda e, n, x, y, scale: geometry.sky_to_pixel(e, n, x + 0.25, y + 0.25, scale),
)
east_to_the_right = places_by(
    "east_to_the_right",
    lambda e, n, x, y, scale: (x + np.asarray(e) / scale, y + np.asarray(n) / scale),
)


def centre_at_half_the_size(patch):
    patch.setattr(geometry, "stamp_centre", lambda size: size / 2.0)


def numbers_with(cls, index, factor):
    """A lens or a source whose number at that place is a multiple of the true one."""

    def plant(patch):
        original = cls.numbers

        def numbers(self):
            values = original(self)
            values[index] *= factor(self)
            return values

        patch.setattr(cls, "numbers", numbers)

    return plant


einstein_diameter = numbers_with(Lens, 0, lambda lens: 2.0)
slope_of_another_kind = numbers_with(Lens, 6, lambda lens: 1.1 if lens.model == "EPL" else 1.0)
shear_of_the_other_sign = numbers_with(Lens, 4, lambda lens: -1.0)
shear_crossed = numbers_with(Lens, 5, lambda lens: -1.0)
reff_on_the_major_axis = numbers_with(Sersic, 8, lambda source: source.q)

DEFECTS: dict[str, tuple[Plant, set[str]]] = {
    "kernel by ifftshift": (kernel_by_ifftshift, KERNELS | {"image of a point is the kernel"}),
    **{
        f"kernel moved by {by:g} px": (kernel_moved(by), ANALYTIC | KERNELS | CENTRES)
        for by in (0.5, 1.0, -1.0, 9.0, -19.0, 41.0)
    },
    "kernel mirrored": (kernel_mirrored, {"image of a point is the kernel"}),
    "FWHM as sigma": (fwhm_as_sigma, {"Gaussian FWHM", "peak of an effective PSF"}),
    "psfsize as Moffat FWHM": (psfsize_as_moffat_fwhm, {"psfsize of a Moffat, NEA width"}),
    "pixel twice": (pixel_twice, {"peak of an effective PSF"}),
    "PSF width in pixels": (
        psf_width_in_pixels,
        {"Gaussian FWHM", "psfsize of a Moffat, NEA width", "Einstein ring's radius"},
    ),
    "kernel renormalised": (
        kernel_renormalised,
        {"flux of a Moffat within 31 px", "flux from outside the stamp"},
    ),
    "no padding": (no_padding, {"light wrapped round"}),
    "stamp alone": (stamp_alone, {"flux from outside the stamp"}),
    "lens angle in radians": (degrees_as_radians_in(deflection_module), {"lens position angle"}),
    "source angle in radians": (degrees_as_radians_in(sources_module), {"source position angle"}),
    "pixels as arcsec": (
        pixels_as_arcsec,
        {"offset in arcsec, East left", "Einstein ring's radius"},
    ),
    "one scale for all": (
        one_scale_for_all,
        {"offset in arcsec, East left", "Einstein ring's radius"},
    ),
    "half a pixel": (half_pixel, ANALYTIC | KERNELS | CENTRES | {"image of a point is the kernel"}),
    "centre at N / 2": (centre_at_half_the_size, CENTRES),
    "East to the right": (
        east_to_the_right,
        {"offset in arcsec, East left", "lens position angle", "source position angle"},
    ),
    "Einstein diameter": (
        einstein_diameter,
        MAGNIFICATIONS
        | {
            "SIS deflection at theta_E",
            "SIE mean deflection at theta_E",
            "Einstein ring's radius",
        },
    ),
    "slope of another kind": (slope_of_another_kind, {"place of an image, slope 2.3"}),
    "shear of the other sign": (shear_of_the_other_sign, {"place of an image, shear"}),
    "shear with North down": (shear_crossed, {"place of an image, shear"}),
    "R_e on the major axis": (reff_on_the_major_axis, {"flux of a source in the stamp"}),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_fails_its_checks(monkeypatch, name):
    plant, expected = DEFECTS[name]
    plant(monkeypatch)
    assert expected <= failed()


def test_every_check_has_a_defect_that_fails_it():
    planted = set().union(*(names for _, names in DEFECTS.values()))
    assert planted == {one.name for one in run_checks()}


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("kernel mirrored", {"image of a point is the kernel"}),
        ("psfsize as Moffat FWHM", {"psfsize of a Moffat, NEA width"}),
        ("lens angle in radians", {"lens position angle"}),
        ("source angle in radians", {"source position angle"}),
        ("centre at N / 2", CENTRES),
        ("slope of another kind", {"place of an image, slope 2.3"}),
        ("shear of the other sign", {"place of an image, shear"}),
        ("R_e on the major axis", {"flux of a source in the stamp"}),
    ],
)
def test_a_defect_fails_nothing_else(monkeypatch, name, others):
    """The table points at what is wrong: where one convention is broken, no other check fails."""
    DEFECTS[name][0](monkeypatch)
    assert failed() == others


@pytest.mark.parametrize("side", KERNEL_SIZES)
def test_the_ifftshift_mistake_is_the_one_that_people_make(monkeypatch, side):
    """Without padding, an impulse at 32, 32 lands at 9, 9 for a 19 px kernel on a 64 px stamp."""
    kernel_by_ifftshift(monkeypatch)
    no_padding(monkeypatch)
    psf = PixelPsf(gaussian_kernel(side, 1.7))
    spectrum = convolve_module.pixel_transfer(psf, 64)
    grid = np.fft.irfft2(spectrum, s=(64, 64))
    centre = (side // 2 - 32) % 64
    assert np.unravel_index(grid.argmax(), grid.shape) == (centre, centre)
    arc = lensing.render(None, Point((1.0,)), [psf], size=64, x=32.0, y=32.0).arc[0]
    assert np.unravel_index(arc.argmax(), arc.shape) == (side // 2, side // 2)
    if side == 19:
        assert (centre, side // 2) == (41, 9)
    names = failed()
    assert names >= KERNEL[side]
    assert not names & ANALYTIC


# Mistakes in front of a renderer, in what it is given: the checks take any renderer.


def given(change):
    def render(lens, source, psfs, **places):
        return lensing.render(*change(lens, source, psfs), **places)

    return render


def gaussians(change):
    def changed(psf):
        return change(psf) if isinstance(psf, Psf) and psf.model == "gaussian" else psf

    return given(lambda lens, source, psfs: (lens, source, [changed(psf) for psf in psfs]))


def moffats(change):
    def changed(psf):
        return change(psf) if isinstance(psf, Psf) and psf.model == "moffat" else psf

    return given(lambda lens, source, psfs: (lens, source, [changed(psf) for psf in psfs]))


def lenses(**change):
    def changed(lens):
        return lens and replace(lens, **{k: f(getattr(lens, k)) for k, f in change.items()})

    return given(lambda lens, source, psfs: (changed(lens), source, psfs))


def half_pixel_up(lens, source, psfs, *, x, y, **places):
    return lensing.render(lens, source, psfs, x=x + 0.5, y=y + 0.5, **places)


@pytest.mark.parametrize(
    ("render", "names"),
    [
        (half_pixel_up, ANALYTIC | KERNELS | CENTRES),
        (gaussians(lambda psf: Psf("gaussian", fwhm=psf.fwhm * 2.3548)), {"Gaussian FWHM"}),
        (gaussians(lambda psf: Psf("gaussian", fwhm=psf.fwhm / PIXEL_SCALE)), {"Gaussian FWHM"}),
        (
            moffats(lambda psf: Psf("moffat", fwhm=psf.nea_fwhm, beta=psf.beta)),
            {"psfsize of a Moffat, NEA width"},
        ),
        (lenses(pa=math.radians), {"lens position angle"}),
        (
            lenses(theta_e=lambda theta_e: theta_e * PIXEL_SCALE),
            MAGNIFICATIONS | {"Einstein ring's radius"},
        ),
    ],
    ids=["half pixel", "fwhm for sigma", "psf in px", "psfsize", "radians", "theta_e in px"],
)
def test_a_renderer_given_the_wrong_numbers_fails(render, names):
    assert names <= failed(render=render)


def test_deflections_in_the_wrong_unit_fail():
    def in_pixels(deflection):
        return lambda *args: tuple(a / PIXEL_SCALE for a in deflection(*args))

    names = failed(sis=in_pixels(lensing.sis), sie=in_pixels(lensing.sie))
    assert names == {"SIS deflection at theta_E", "SIE mean deflection at theta_E"}


@pytest.mark.parametrize("light", [0.0, math.nan])
def test_an_image_of_nothing_passes_no_check(light):
    def render(*args, **places):
        drawn = lensing.render(*args, **places)
        return replace(drawn, arc=np.full_like(drawn.arc, light), magnification=light)

    of_rays = {"SIS deflection at theta_E", "SIE mean deflection at theta_E"}
    assert failed(render=render) == {one.name for one in run_checks()} - of_rays


@pytest.mark.parametrize("value", [1.2, 0.8, math.nan, math.inf])
def test_outside_the_tolerance_is_failed(value):
    assert not check("x", value, 1.0, 0.1, "px", "wrong").passed
    assert check("x", 1.05, 1.0, 0.1, "px", "wrong").passed


def selftest(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["dhs", "selftest"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0), capfd.readouterr().out


def test_the_command_prints_a_table(monkeypatch, capfd):
    code, out = selftest(monkeypatch, capfd)
    assert code == 0
    for one in run_checks():
        assert one.name in out
    assert "FAILED" not in out
    assert out.strip().endswith(f"{len(run_checks())} of {len(run_checks())} checks passed")


def test_the_command_exits_1_and_says_what_is_wrong(monkeypatch, capfd):
    psfsize_as_moffat_fwhm(monkeypatch)
    code, out = selftest(monkeypatch, capfd)
    assert code == commands.EXIT_BUG == 1
    assert out.count("FAILED") == 1
    assert "psfsize of a Moffat, NEA width: psfsize is the width of the Gaussian" in out
