"""Conventions that parameters are mistaken for: each says what a row would be if it were so.

An arc that was drawn by one of them is drawn again by it, and no other explains its pixels. Angles come
apart into those of lens, source, shear and offsets; sizes into the lens's, the source's and the PSF's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from darkhaloscope.audit.fit import moffat_width_ratio
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.geometry import FWHM_PER_SIGMA, stamp_centre
from darkhaloscope.variables import PIXEL_RESPONSES, PSF_MODELS

Change = Callable[[Arrays], Arrays]
"""From recorded columns to those that differ."""

GAUSSIAN, MOFFAT = PSF_MODELS.index("GAUSSIAN"), PSF_MODELS.index("MOFFAT")
INTEGRATE, EFFECTIVE = PIXEL_RESPONSES.index("INTEGRATE"), PIXEL_RESPONSES.index("EFFECTIVE")
SQUARE = ("theta_e", "lens_q")
LENS_PLACE = "lens offset"
"""Asked for beside other changes only: by itself it displaces arcs, and closure says so."""

PIXELS_FLIPPED = "pixels_flipped"
OTHER_BETAS = (2.5, 3.5, 4.765)


@dataclass(frozen=True)
class Alternative:
    """``change`` of the columns ``needs``; of one ``part`` only one can be true.

    ``cause`` is its name, ``says`` what was done to the arcs.
    """

    part: str
    cause: str
    says: str
    needs: tuple[str, ...]
    change: Change


def alternatives(spec: AuditSpec) -> list[Alternative]:
    """Every alternative that the columns of a data set allow to ask for."""
    known = [
        *_angles(spec.size),
        *_ellipticities("lens_q", "lens"),
        *_ellipticities("src_q", "source"),
        *_radii(spec.pixel_scale),
        *_sizes(),
        *_places(),
        *_psfs(spec.bands),
    ]
    return [a for a in known if not set(a.needs) & set(spec.lacks)]


def changed(rows: Arrays, chosen: list[Alternative]) -> Arrays:
    """The rows as they would be if all of ``chosen`` were true."""
    for alternative in chosen:
        rows = {**rows, **alternative.change(rows)}
    return rows


TURNS: dict[str, tuple[Callable[[Any], Any], int, int]] = {
    "mirrored": (lambda pa: 180.0 - pa, 1, -1),
    "turned by 90 degrees": (lambda pa: pa + 90.0, -1, -1),
    "counted from the other axis": (lambda pa: 90.0 - pa, -1, 1),
}
"""What becomes of a position angle, and the signs that gamma1 and gamma2 get."""

GRIDS = {
    "mirrored east for west": ((-1, 0), (0, 1), "mirrored"),
    "mirrored north for south": ((1, 0), (0, -1), "mirrored"),
    "turned by 180 degrees": ((-1, 0), (0, -1), ""),
    "turned by 90 degrees": ((0, 1), (-1, 0), "turned by 90 degrees"),
    "turned by -90 degrees": ((0, -1), (1, 0), "turned by 90 degrees"),
    "with its axes swapped": ((0, 1), (1, 0), "counted from the other axis"),
    "with its axes swapped and turned": ((0, -1), (-1, 0), "counted from the other axis"),
}
"""The new East and North of a vector, in the old ones, and what angles do with it."""


FLIPS = {
    "mirrored east for west": "mirrored left for right",
    "mirrored north for south": "mirrored top for bottom",
    "turned by 180 degrees": "turned by 180 degrees",
    "turned by 90 degrees": "turned by 90 degrees",
    "turned by -90 degrees": "turned by -90 degrees",
    "with its axes swapped": "with its axes swapped and turned",
    "with its axes swapped and turned": "with its axes swapped (y, x)",
}
"""What was done to the array of pixels where sky and target moved together; East is -x."""


def _angles(size: int) -> list[Alternative]:
    """Lens, source and shear apart; offsets; all of them together; and with the target, a flipped stamp."""
    name, out = "angle_convention", []
    turns: dict[str, list[Change]] = {"": []}
    for says, (turn, s1, s2) in TURNS.items():
        apart = {
            "lens angle": (_of("lens_pa", turn), ("lens_pa",)),
            "source angle": (_of("src_pa", turn), ("src_pa",)),
            "shear": (_scaled(("gamma1", s1), ("gamma2", s2)), ("gamma1", "gamma2")),
        }
        turns[says] = [change for change, _ in apart.values()]
        out += [
            Alternative(part, name, f"the {part} {says}", needs, change)
            for part, (change, needs) in apart.items()
        ]
    offset = ("src_dx", "src_dy")
    for says, (east, north, angles) in GRIDS.items():
        source, lens = (_moved(who, east, north) for who in ("src", "lens"))
        out += [
            Alternative("source offset", name, f"the source's offset {says}", offset, source),
            Alternative(LENS_PLACE, name, f"the lens's offset {says}", ("lens_dx", "lens_dy"), lens),
            Alternative("sky", name, f"the whole sky {says}", ("lens_pa", *offset),
                        _together(source, lens, *turns[angles])),
            Alternative("sky", PIXELS_FLIPPED, f"the stamp's pixels {FLIPS[says]}",
                        ("lens_pa", *offset, "target_x", "target_y"),
                        _together(source, lens, *turns[angles], _flipped(size, east, north))),
        ]  # fmt: skip
    return out


def _flipped(size: int, east: tuple[int, int], north: tuple[int, int]) -> Change:
    """Where the target comes to lie on a stamp whose pixels are flipped: its centre stays."""

    def change(rows: Arrays) -> Arrays:
        centre = stamp_centre(size)
        x, y = (rows[f"target_{v}"].astype(float) - centre for v in "xy")
        return {
            "target_x": centre + east[0] * x - east[1] * y,
            "target_y": centre - north[0] * x + north[1] * y,
        }

    return change


def _ellipticities(column: str, who: str) -> list[Alternative]:
    """Another ellipticity under the same name: e of (1 - q)/(1 + q), (1 - q^2)/(1 + q^2) and 1 - q."""
    forms: dict[str, Callable[[Any], Any]] = {
        "with q squared: e of (1 - q^2)/(1 + q^2) taken for (1 - q)/(1 + q)": lambda q: q**2,
        "with the root of q: e of (1 - q)/(1 + q) taken for (1 - q^2)/(1 + q^2)": np.sqrt,
        "with e of 1 - q taken for (1 - q)/(1 + q)": lambda q: q / (2.0 - q),
        "with e of (1 - q)/(1 + q) taken for 1 - q": lambda q: 2.0 * q / (1.0 + q),
        "with the ellipticity 1 - q taken for q": lambda q: 1.0 - q,
        "round": np.ones_like,
    }
    return [
        Alternative(f"{who} q", "ellipticity_convention", f"the {who} {says}", (column,),
                    _of(column, form))
        for says, form in forms.items()
    ]  # fmt: skip


def _radii(scale: float) -> list[Alternative]:
    factors = {
        "theta_e in arcsec taken for pixels": scale,
        "theta_e in pixels taken for arcsec": 1.0 / scale,
        "theta_e taken for a diameter": 0.5,
        "a diameter taken for theta_e": 2.0,
    }
    out = [
        Alternative("theta_e", "theta_e_unit", says, ("theta_e",), _scaled(("theta_e", factor)))
        for says, factor in factors.items()
    ]
    powers = {
        "theta_e on the major axis: times sqrt(q)": 0.5,
        "theta_e on the minor axis: divided by sqrt(q)": -0.5,
    }
    for says, power in powers.items():

        def change(rows: Arrays, power: float = power) -> Arrays:
            return {"theta_e": rows["theta_e"] * rows["lens_q"].astype(float) ** power}

        out.append(Alternative("theta_e", "theta_e_convention", says, SQUARE, change))
    return out


def _sizes() -> list[Alternative]:
    """The half-light radius along one axis; a scale length; a diameter."""
    powers = {
        "R_e recorded as sqrt(ab), drawn as the semi-major axis": 0.5,
        "R_e recorded as the semi-major axis' sqrt(ab), drawn larger by 1/sqrt(q)": -0.5,
    }
    out = []
    for says, power in powers.items():

        def change(rows: Arrays, power: float = power) -> Arrays:
            return {"src_reff": rows["src_reff"] * rows["src_q"].astype(float) ** power}

        needs = ("src_reff", "src_q")
        out.append(Alternative("source size", "source_size_convention", says, needs, change))
    for says, factor in (("a radius taken for a diameter", 0.5), ("a diameter for a radius", 2.0)):
        text, scaled = f"R_e: {says}", _scaled(("src_reff", factor))
        out.append(
            Alternative("source size", "source_size_convention", text, ("src_reff",), scaled)
        )
    return out


def _places() -> list[Alternative]:
    """The source counted from the target, or a lens that is not moved while its source is."""

    def from_target(rows: Arrays) -> Arrays:
        return {f"src_d{v}": rows[f"src_d{v}"] - rows[f"lens_d{v}"] for v in "xy"}

    def lens_kept(rows: Arrays) -> Arrays:
        still = {f"lens_d{v}": np.zeros_like(rows[f"lens_d{v}"]) for v in "xy"}
        return still | {f"src_d{v}": rows[f"src_d{v}"] + rows[f"lens_d{v}"] for v in "xy"}

    needs = ("src_dx", "src_dy", "lens_dx", "lens_dy")
    return [
        Alternative("source offset", "source_offset_convention",
                    "the source's offset counted from the target", needs, from_target),
        Alternative("source offset", "source_offset_convention",
                    "the lens on the target, its source where it was", needs, lens_kept),
    ]  # fmt: skip


def _psfs(bands: tuple[str, ...]) -> list[Alternative]:
    def widths(of: Callable[[Arrays, Any], Any]) -> Change:
        names = ("psfsize", "psf_fwhm_used")
        return lambda rows: {n: of(rows, rows[n].astype(float)) for n in names}

    def as_moffat_fwhm(rows: Arrays, width: Any) -> Any:
        return width * np.where(
            rows["psf_model"] == MOFFAT, moffat_width_ratio(rows["psf_beta"].astype(float)), 1.0
        )[:, None]  # fmt: skip

    def pixel(rows: Arrays) -> Arrays:
        return {"pixel_response": (EFFECTIVE + INTEGRATE - rows["pixel_response"]).astype(np.uint8)}

    def profile(model: int, beta: float) -> Change:
        return lambda rows: {
            "psf_model": np.full_like(rows["psf_model"], model),
            "psf_beta": np.full(len(rows["psf_beta"]), beta),
        }

    width, needs = "PSF width", ("psfsize",)
    out = [
        Alternative(width, "psf_as_moffat_fwhm", "psfsize taken for the FWHM of a Moffat", needs,
                    widths(as_moffat_fwhm)),
        Alternative(width, "psf_fwhm_as_sigma", "the PSF's FWHM taken for its sigma", needs,
                    widths(lambda rows, w: w * FWHM_PER_SIGMA)),
        Alternative(width, "psf_fwhm_as_sigma", "the PSF's sigma taken for its FWHM", needs,
                    widths(lambda rows, w: w / FWHM_PER_SIGMA)),
        Alternative("pixel", "pixel_response", "the pixel's response taken twice, or not at all",
                    ("pixel_response",), pixel),
        Alternative("PSF profile", "psf_profile", "a Gaussian PSF", ("psf_model",),
                    profile(GAUSSIAN, 3.5)),
    ]  # fmt: skip
    out += [
        Alternative("PSF profile", "psf_profile", f"a Moffat PSF of beta {beta:g}", ("psf_model",),
                    profile(MOFFAT, beta))
        for beta in OTHER_BETAS
    ]  # fmt: skip
    if len(bands) > 1:
        for b, band in enumerate(bands):
            says = f"the PSF of band {band} in all bands"
            out.append(Alternative(width, "psf_of_one_band", says, needs, widths(_band(b))))
    return out


def _band(b: int) -> Callable[[Arrays, Any], Any]:
    return lambda rows, width: np.repeat(width[:, b : b + 1], width.shape[1], axis=1)


def _of(column: str, form: Callable[[Any], Any]) -> Change:
    return lambda rows: {column: form(rows[column].astype(float))}


def _scaled(*factors: tuple[str, float]) -> Change:
    return lambda rows: {name: factor * rows[name].astype(float) for name, factor in factors}


def _moved(who: str, to_east: tuple[int, int], to_north: tuple[int, int]) -> Change:
    def change(rows: Arrays) -> Arrays:
        e, n = rows[f"{who}_dx"].astype(float), rows[f"{who}_dy"].astype(float)
        return {
            f"{who}_d{v}": a * e + b * n
            for v, (a, b) in zip("xy", (to_east, to_north), strict=True)
        }

    return change


def _together(*changes: Change) -> Change:
    def change(rows: Arrays) -> Arrays:
        out: Arrays = {}
        for one in changes:
            out |= one(rows)
        return out

    return change
