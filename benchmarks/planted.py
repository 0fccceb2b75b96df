"""Defects planted into clean pairs, each with an axis of sizes and the names that an audit may give it.

Every defect changes pixels or bookkeeping and leaves the parameters of the arcs, so that arcs drawn again
for the clean pairs serve them all. Arcs are drawn by :mod:`darkhaloscope.lensing`, never by the audit's
own integrator.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from audit_pairs import BETA, SCALE, SIZE, SKY, Ds, draw, nea_psf, with_arc
from scipy.ndimage import shift as moved
from scipy.signal import fftconvolve

from darkhaloscope.geometry import FWHM_PER_SIGMA, stamp_centre
from darkhaloscope.lensing import Psf, Sersic, moffat_alpha_from_nea, sersic_profile, shear, sie

UNIT = SKY[None, :, None, None]
DRAWN = (
    "theta_e", "lens_q", "lens_pa", "gamma1", "gamma2", "lens_dx", "lens_dy", "src_reff", "src_n",
    "src_q", "src_pa", "src_dx", "src_dy",
)  # fmt: skip
Columns = dict[str, np.ndarray]
Plant = Callable[[Ds, float], Ds]
NOISELESS, NOISY, UNPAIRED = "noiseless", "noisy", "unpaired"


@dataclass(frozen=True)
class Defect:
    """``plant(ds, size)``; ``reference`` is the size that an audit must find, ``sizes`` others beside it.

    ``names``: the cause, or its degenerate family. ``unit`` says what a size is; a discrete defect
    has one. ``kinds`` are the sets it can be planted into: those whose columns and pixels show it.
    """

    plant: Plant
    reference: float
    unit: str
    names: frozenset[str]
    sizes: tuple[float, ...] = ()
    kinds: frozenset[str] = field(default=frozenset({NOISELESS, NOISY}))

    @property
    def axis(self) -> tuple[float, ...]:
        """All sizes, ascending."""
        return tuple(sorted({self.reference, *self.sizes}))


def _random(ds: Ds, stream: int) -> np.random.Generator:
    """Random numbers of this set of pairs: other sets have others."""
    return np.random.default_rng([stream, zlib.crc32(ds["theta_e"].values.tobytes())])


# --- arcs that are drawn otherwise ----------------------------------------------------------------


def drawn_otherwise(
    ds: Ds,
    change: Callable[[Columns], Mapping[str, np.ndarray]] = lambda _: {},
    psf_of: Callable[[float], Psf] = nea_psf,
    widths: Callable[[np.ndarray], np.ndarray] = lambda w: w,
    moved_by: Callable[[np.ndarray], np.ndarray] = lambda t: t,
    size: int = SIZE,
) -> np.ndarray:
    """Arcs (injection, band, y, x) of the same rows by another convention, another PSF or elsewhere."""
    rows = np.flatnonzero(ds["lens_model"].values != 0)
    columns = {name: ds[name].values.astype(float) for name in DRAWN}
    columns |= change(columns)
    target = moved_by(np.stack([ds["target_x"].values, ds["target_y"].values], axis=1))
    target = target + (size - SIZE) / 2
    flux, psfsize = ds["src_flux"].values, widths(ds["psfsize"].values)
    return np.array([draw(columns, flux, psfsize, target, i, psf_of, size)[0] for i in rows])


def _redrawn(change: Callable[[Columns], Mapping[str, np.ndarray]]) -> Plant:
    return lambda ds, _: with_arc(ds, lambda __: drawn_otherwise(ds, change))


def _mirrored(c: Columns) -> Columns:
    return {"lens_pa": 180 - c["lens_pa"], "src_dx": -c["src_dx"], "gamma2": -c["gamma2"]}


def _upside_down(c: Columns) -> Columns:
    both = {name: 180 - c[name] for name in ("lens_pa", "src_pa")}
    return both | {"gamma2": -c["gamma2"], "src_dy": -c["src_dy"], "lens_dy": -c["lens_dy"]}


def _turned(ds: Ds, angle: float) -> Ds:
    arcs = drawn_otherwise(ds, lambda c: {"lens_pa": c["lens_pa"] + angle})
    return with_arc(ds, lambda _: arcs)


def _psf(psf_of: Callable[[float], Psf]) -> Plant:
    return lambda ds, _: with_arc(ds, lambda __: drawn_otherwise(ds, psf_of=psf_of))


def _wider(ds: Ds, factor: float) -> Ds:
    return with_arc(ds, lambda _: drawn_otherwise(ds, widths=lambda w: factor * w))


def _one_band_psf(ds: Ds, _: float) -> Ds:
    return with_arc(ds, lambda __: drawn_otherwise(ds, widths=lambda w: w[:, [1, 1, 1]]))


def _shifted(ds: Ds, size: float) -> Ds:
    return with_arc(ds, lambda _: drawn_otherwise(ds, moved_by=lambda t: t + np.array([size, 0.0])))


def _half_pixel(ds: Ds, size: float) -> Ds:
    return with_arc(ds, lambda _: drawn_otherwise(ds, moved_by=lambda t: t + size))


def _rounded(ds: Ds, _: float) -> Ds:
    at = stamp_centre(SIZE)
    return with_arc(ds, lambda __: drawn_otherwise(ds, moved_by=lambda t: np.full_like(t, at)))


def _wrapped(ds: Ds, _: float) -> Ds:
    """Convolved on a grid as small as the stamp: what leaves it comes in again."""
    wide = drawn_otherwise(ds, size=3 * SIZE)
    arcs = wide.reshape(*wide.shape[:2], 3, SIZE, 3, SIZE).sum(axis=(2, 4))
    return with_arc(ds, lambda __: arcs)


def careless(ds: Ds, samples: int, blurred: bool) -> np.ndarray:
    """Arcs from so many samples a pixel side, each a share of it, then convolved on the pixels or not."""
    rows = np.flatnonzero(ds["lens_model"].values != 0)
    columns = {name: ds[name].values.astype(float) for name in DRAWN}
    step = (np.arange(samples * SIZE) + 0.5) / samples - 0.5
    axis = np.arange(-SIZE, SIZE + 1) * SCALE
    radius2 = axis[:, None] ** 2 + axis[None, :] ** 2
    out = np.zeros((len(rows), 3, SIZE, SIZE))
    for k, i in enumerate(rows):
        c = {name: float(values[i]) for name, values in columns.items()}
        east = -SCALE * (step - float(ds["target_x"].values[i])) - c["lens_dx"]
        north = SCALE * (step - float(ds["target_y"].values[i])) - c["lens_dy"]
        e, n = np.meshgrid(east, north)
        pulls = (sie(e, n, c["theta_e"], c["lens_q"], c["lens_pa"]),
                 shear(e, n, c["gamma1"], c["gamma2"]))  # fmt: skip
        source = Sersic(
            (1.0,), reff=c["src_reff"], n=c["src_n"], q=c["src_q"], pa=c["src_pa"], dx=c["src_dx"],
            dy=c["src_dy"],
        )  # fmt: skip
        light = sersic_profile(
            e - sum(p[0] for p in pulls), n - sum(p[1] for p in pulls), source
        ).reshape(SIZE, samples, SIZE, samples)
        light = light.sum(axis=(1, 3)) * (SCALE / samples) ** 2
        for b in range(3):
            image = light
            if blurred:
                alpha = moffat_alpha_from_nea(float(ds["psfsize"].values[i, b]), BETA)
                kernel = (1.0 + radius2 / alpha**2) ** -BETA
                image = fftconvolve(light, kernel / kernel.sum(), mode="same")
            out[k, b] = float(ds["src_flux"].values[i, b]) * image
    return out


def _careless(samples: int, blurred: bool) -> Plant:
    return lambda ds, _: with_arc(ds, lambda __: careless(ds, samples, blurred))


# --- light that is added or taken away ------------------------------------------------------------


def _times(ds: Ds, factor: float) -> Ds:
    return with_arc(ds, lambda arc: factor * arc)


def _times_magnification(power: float) -> Plant:
    def plant(ds: Ds, _: float) -> Ds:
        gain = ds["magnification"].values[ds["lens_model"].values != 0].astype(float) ** power
        return with_arc(ds, lambda arc: arc * gain[:, None, None, None])

    return plant


def _everywhere(ds: Ds, size: float) -> Ds:
    return with_arc(ds, lambda arc: arc + size * UNIT)


def _core(ds: Ds, size: float) -> Ds:
    box = np.zeros((SIZE, SIZE))
    box[SIZE // 2 - 5 : SIZE // 2 + 5, SIZE // 2 - 5 : SIZE // 2 + 5] = size
    return with_arc(ds, lambda arc: arc + UNIT * box)


def _one_band(ds: Ds, size: float) -> Ds:
    return with_arc(ds, lambda arc: arc + size * UNIT * np.array([1, 0, 0])[None, :, None, None])


def _missing(ds: Ds, fraction: float) -> Ds:
    """Arcs that hold no light."""
    rows = _some(ds, fraction)

    def change(arc: np.ndarray) -> np.ndarray:
        arc[rows] = 0.0
        return arc

    return with_arc(ds, change)


def _noise(ds: Ds, size: float) -> Ds:
    rng = _random(ds, 5)
    return with_arc(ds, lambda arc: arc + size * UNIT * rng.normal(size=arc.shape))


def _flipped(ds: Ds, _: float) -> Ds:
    """The array of pixels was read from its other end: the target's own place is mirrored too."""
    return with_arc(ds, lambda arc: arc[..., ::-1])


def _upended(ds: Ds, _: float) -> Ds:
    return with_arc(ds, lambda arc: arc[..., ::-1, ::-1])


def _kernel_centre(ds: Ds, size: float) -> Ds:
    return with_arc(ds, lambda arc: np.roll(arc, (int(size), int(size)), axis=(-2, -1)))


# --- rows that are not their own ------------------------------------------------------------------


def _some(ds: Ds, fraction: float) -> np.ndarray:
    """Injections, a fraction of them, by a rule that follows nothing."""
    n = int((ds["lens_model"].values != 0).sum())
    return np.sort(_random(ds, 8).permutation(n)[: max(2, round(fraction * n))])


def _shuffled(ds: Ds, fraction: float) -> Ds:
    rows = _some(ds, fraction)

    def change(arc: np.ndarray) -> np.ndarray:
        arc[rows] = arc[np.roll(rows, 1)]
        return arc

    return with_arc(ds, change)


def _other_target(ds: Ds, fraction: float) -> Ds:
    """Stamps keep their sky, ctrl is that of another row: stamp - ctrl holds both."""
    rows = _some(ds, fraction)
    injected = np.flatnonzero(ds["lens_model"].values != 0)
    out = ds.copy(deep=True)
    ctrl = ds["ctrl"].values
    other = injected[np.roll(rows, len(rows) // 2)]
    gap = (ctrl[injected[rows]] - ctrl[other]).astype(float)
    out["ctrl"].values[injected[rows]] = ctrl[other]

    def change(arc: np.ndarray) -> np.ndarray:
        arc[rows] += gap
        return arc

    return with_arc(out, change)


def _other_place(ds: Ds, size: float) -> Ds:
    ctrl = ds["ctrl"].values[ds["lens_model"].values != 0].astype(float)
    # One image after the other: of all at once a spline is laid through pairs and bands too.
    images = ctrl.reshape(-1, SIZE, SIZE)
    elsewhere = [moved(image, (0, size), order=3, mode="nearest") for image in images]
    gap = np.reshape(elsewhere, ctrl.shape) - ctrl
    return with_arc(ds, lambda arc: arc + gap)


def _controls(ds: Ds, size: float) -> Ds:
    out = ds.copy(deep=True)
    out["psfsize"].values[ds["lens_model"].values == 0] *= np.float32(size)
    return out


def _controls_as(ds: Ds, change: Callable[[np.ndarray], np.ndarray]) -> Ds:
    """The same pairs with other pixels on the controls."""
    out = ds.copy(deep=True)
    controls = ds["lens_model"].values == 0
    out["ctrl"].values[controls] = change(ds["ctrl"].values[controls].astype(float))
    return out


def _controls_noisier(ds: Ds, size: float) -> Ds:
    rng = _random(ds, 6)
    return _controls_as(ds, lambda ctrl: ctrl + size * UNIT * rng.normal(size=ctrl.shape))


def _controls_brighter(ds: Ds, factor: float) -> Ds:
    return _controls_as(ds, lambda ctrl: factor * ctrl)


def _split(ds: Ds, size: float) -> Ds:
    out = ds.copy(deep=True)
    rows = slice(0, int(size))
    out["region_split"].values[rows] = (out["region_split"].values[rows] + 1) % 3
    return out


# --- the list -------------------------------------------------------------------------------------


def _defect(
    plant: Plant, reference: float, unit: str, *names: str, sizes: tuple[float, ...] = ()
) -> Defect:
    return Defect(plant, reference, unit, frozenset(names), sizes)


def _of_columns(
    plant: Plant, reference: float, unit: str, name: str, sizes: tuple[float, ...] = ()
) -> Defect:
    kinds = frozenset({NOISELESS, NOISY, UNPAIRED})
    return Defect(plant, reference, unit, frozenset({name}), sizes, kinds)


def _of_classes(
    plant: Plant, reference: float, unit: str, name: str, sizes: tuple[float, ...]
) -> Defect:
    """What sets show whose arcs cannot be drawn again."""
    return Defect(plant, reference, unit, frozenset({name}), sizes, frozenset({UNPAIRED}))


ANGLE, BLUR = "angle_convention", "blur"
DISCRETE = ""
CONSTANTS = (0.002, 0.005, 0.05)

DEFECTS: dict[str, Defect] = {
    "pedestal": _defect(_everywhere, 0.01, "sky sigma", "pedestal", sizes=CONSTANTS),
    "pedestal in the core": _defect(_core, 0.02, "sky sigma", "core_pedestal", sizes=CONSTANTS),
    "sky offset in one band": _defect(_one_band, 0.02, "sky sigma", "pedestal", sizes=CONSTANTS),
    "shift by 1 px": _defect(_shifted, 1.0, "px", "shift", sizes=(0.06, 0.1, 0.25)),
    "shift by half a px": _defect(_half_pixel, 0.5, "px in x and y", "shift"),
    "target rounded": _defect(_rounded, 1.0, DISCRETE, "target_rounded", "shift"),
    "lens offset ignored": _defect(
        _redrawn(lambda c: {"lens_dx": 0 * c["lens_dx"], "lens_dy": 0 * c["lens_dy"]}),
        1.0, DISCRETE, "lens_offset", "shift"),
    "kernel centre by ifftshift": _defect(
        _kernel_centre, SIZE // 2 - 1, "px in x and y", "kernel_centre", sizes=(5, 12)),
    "FFT wrap-around": _defect(_wrapped, 1.0, DISCRETE, "fft_wrap"),
    "PSF wider": _defect(_wider, 1.1, "width ratio", BLUR, sizes=(1.03, 1.05)),
    "FWHM taken for sigma": _defect(
        _psf(lambda w: nea_psf(FWHM_PER_SIGMA * w)), 1.0, DISCRETE, "psf_fwhm_as_sigma", BLUR),
    "psfsize as Moffat FWHM": _defect(
        _psf(lambda w: Psf("moffat", fwhm=w, beta=BETA)), 1.0, DISCRETE, "psf_as_moffat_fwhm", BLUR),
    "PSF not applied": _defect(_careless(4, False), 1.0, DISCRETE, "psf_not_applied"),
    "PSF of one band for all": _defect(_one_band_psf, 1.0, DISCRETE, "psf_of_one_band"),
    "PSF of another beta": _defect(
        _psf(lambda w: Psf("moffat", nea_fwhm=w, beta=2.5)), 1.0, DISCRETE, "psf_profile", BLUR),
    "R_e on the major axis": _defect(
        _redrawn(lambda c: {"src_reff": c["src_reff"] * np.sqrt(c["src_q"])}), 1.0, DISCRETE,
        "source_size_convention", BLUR),
    "flux doubled": _defect(_times, 2.0, "factor", "flux_scale"),
    "zero point": _defect(_times, 1.05, "factor", "flux_scale", sizes=(1.015, 1.02)),
    "magnification twice": _defect(
        _times_magnification(1.0), 1.0, DISCRETE, "magnification_twice"),
    "normalised after lensing": _defect(
        _times_magnification(-1.0), 1.0, DISCRETE, "flux_normalised_after_lensing"),
    "theta_e in pixels": _defect(
        _redrawn(lambda c: {"theta_e": SCALE * c["theta_e"]}), 1.0, DISCRETE, "theta_e_unit"),
    "theta_e on the major axis": _defect(
        _redrawn(lambda c: {"theta_e": c["theta_e"] * np.sqrt(c["lens_q"])}), 1.0, DISCRETE,
        "theta_e_convention"),
    "lens ellipticity": _defect(
        _redrawn(lambda c: {"lens_q": c["lens_q"] ** 2}), 1.0, DISCRETE, "ellipticity_convention"),
    "source ellipticity": _defect(
        _redrawn(lambda c: {"src_q": c["src_q"] / (2 - c["src_q"])}), 1.0, DISCRETE,
        "ellipticity_convention"),
    "angles mirrored": _defect(_redrawn(_mirrored), 1.0, DISCRETE, ANGLE),
    "north for south": _defect(_redrawn(_upside_down), 1.0, DISCRETE, ANGLE),
    "lens angle turned": _defect(_turned, 90.0, "degrees", ANGLE, sizes=(3.0, 10.0, 30.0)),
    "source angle from the other axis": _defect(
        _redrawn(lambda c: {"src_pa": 90 - c["src_pa"]}), 1.0, DISCRETE, ANGLE),
    "shear with the other sign": _defect(
        _redrawn(lambda c: {"gamma1": -c["gamma1"], "gamma2": -c["gamma2"]}), 1.0, DISCRETE, ANGLE),
    "pixels mirrored": _defect(_flipped, 1.0, DISCRETE, "pixels_flipped", ANGLE),
    "pixels turned by 180 degrees": _defect(_upended, 1.0, DISCRETE, "pixels_flipped", ANGLE),
    "arcs without light": _defect(
        _missing, 0.05, "fraction of rows", "single_arcs", sizes=(0.005, 0.02)),
    "controls with noise of their own": _defect(
        _controls_noisier, 1.0, "sky sigma", "controls_differ", sizes=(0.3, 0.5)),
    "controls brighter": _defect(_controls_brighter, 1.5, "factor", "controls_differ", sizes=(1.1, 1.2)),
    "one sample a pixel": _defect(_careless(1, True), 1.0, DISCRETE, "one_sample_a_pixel"),
    "rows shuffled": _defect(
        _shuffled, 1.0, "fraction of rows", "rows_shuffled", sizes=(0.03, 0.1, 0.3)),
    "ctrl of another target": _defect(
        _other_target, 1.0, "fraction of rows", "other_target", sizes=(0.1, 0.3)),
    "ctrl of another place": _defect(
        _other_place, 0.4, "px", "stamp_displaced", sizes=(0.1, 0.2)),
    "noise in one class": _defect(
        _noise, 0.7, "sky sigma", "noise_one_class", sizes=(0.15, 0.3)),
    "sky level of one class": _of_classes(
        _everywhere, 2.0, "sky sigma", "leak", sizes=(0.1, 0.3, 1.0)),
    "noise of one class": _of_classes(
        _noise, 1.0, "sky sigma", "noise_one_class", sizes=(0.3, 0.5)),
    "region in two splits": _of_columns(_split, 1.0, "rows", "split_leak"),
    "controls selected": _of_columns(
        _controls, 1.3, "seeing ratio", "selection_shortcut", sizes=(1.05, 1.1)),
}  # fmt: skip


def planted(ds: Ds, name: str, size: float | None = None) -> Ds:
    """The pairs with one defect, at its reference size where none is said."""
    defect = DEFECTS[name]
    return defect.plant(ds, defect.reference if size is None else size)
