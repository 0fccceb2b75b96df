"""Every variable of a data set: name, dimensions, dtype, unit, fill value, meaning.

The table that ``docs/data-set.md`` prints (a test compares them), the store creates and the audit
reads. Which variables a data set has is a function of its experiment: those of :data:`VARIABLES`
always, others where the experiment can produce a kind that needs them. A fill value is what an array
holds where nothing was written; a missing value of a float is NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.errors import Reason

Dims = tuple[str, ...]
PAIR: Dims = ("pair",)
BAND: Dims = ("pair", "band")
CUBE: Dims = ("pair", "band", "y", "x")
PLANE: Dims = ("pair", "y", "x")

MAG_ZERO_POINT = 22.5
"""AB magnitude of 1 nMgy."""

CTRL_STEPS_PER_SIGMA = 16
"""The rounding step of ctrl is the power of two at or below sky sigma / 16."""

LENS_MODELS = ("CONTROL", "SIS", "SIE", "EPL")
SOURCE_MODELS = ("NONE", "SERSIC", "POINT", "BULGE_DISC", "IMAGE")
SPLITS = ("train", "val", "test", "guard")
"""``guard``: too near to a region of another split, so in none."""
NEGATIVE_KINDS = ("none", "plain", "core_matched")
"""``none``: an injection, which is no negative."""
PSF_MODELS = ("NONE", "GAUSSIAN", "MOFFAT")
PIXEL_RESPONSES = ("EFFECTIVE", "INTEGRATE")
PSF_SOURCES = ("map", "manifest", "fallback")
NO_PSF = 255
"""``psf_source`` where a band has no pixels or no width is known."""


GateName = Literal[
    "closure_flux",
    "closure_centroid",
    "closure_blur",
    "residual_pedestal",
    "split_integrity",
    "column_coverage",
    "arc_localisation",
    "row_integrity",
    "closure_scatter",
    "excess_auc",
    "closure_residual",
    "rerendered",
    "core_auc",
    "core_auc_strict",
    "zero_dose_intercept",
    "zero_dose_slope",
]
"""Every gate that an audit reports; an experiment may require any of them."""

REQUIRED_GATES: tuple[GateName, ...] = (
    "closure_flux",
    "closure_centroid",
    "closure_blur",
    "residual_pedestal",
    "split_integrity",
    "column_coverage",
    "arc_localisation",
    "row_integrity",
    "closure_scatter",
    "excess_auc",
)
"""What an experiment requires unless it says otherwise."""


def default_bad_bits(bands: Iterable[str]) -> tuple[str, ...]:
    """Names of the mask bits that make a pixel bad unless the user says otherwise.

    BRIGHT and BAILOUT (no model was fitted), and SATUR and ALLMASK (masked in every exposure) of
    the bands in use.
    """
    upper = [band.upper() for band in bands]
    return (
        "BRIGHT",
        *(f"SATUR_{band}" for band in upper),
        *(f"ALLMASK_{band}" for band in upper),
        "BAILOUT",
    )


def default_reference_band(bands: tuple[str, ...]) -> str:
    """The band that stands wherever one is needed: r, else the first of z, g, i, else the first."""
    return next((band for band in ("r", "z", "g", "i") if band in bands), bands[0])


DType = Literal["f4", "f8", "i8", "u1", "bool", "str"]


class Variable(NamedTuple):
    """One variable; ``flags`` maps the stored integers of a closed list to their names."""

    name: str
    dims: Dims
    dtype: DType
    unit: str
    meaning: str
    flags: dict[int, str] | None = None

    @property
    def fill(self) -> float | int | bool | str:
        """What the array holds where nothing was written."""
        if self.dtype in ("f4", "f8"):
            return 0.0 if self.dims == CUBE else float("nan")
        if self.name in ("slot", "partner", "target_id", "host_id", "src_image"):
            return -1
        if self.name == "psf_source":
            return NO_PSF
        if self.dtype == "str":
            return ""
        return False if self.dtype == "bool" else 0

    @property
    def sharded(self) -> bool:
        """Whether the array is cut into shards of many small chunks (pixels) or not (provenance)."""
        return "y" in self.dims


def _enumerate(names: tuple[str, ...]) -> dict[int, str]:
    return dict(enumerate(names))


_ALWAYS: tuple[Variable, ...] = (
    Variable("ctrl", CUBE, "f4", "nMgy", "real pixels, rounded to 1/16 sky sigma or finer"),
    Variable("arc", CUBE, "f4", "nMgy", "noiseless lensed light, after PSF and fix; 0 where no data"),
    Variable("nodata", PLANE, "u1", "", "bit b set where band b has invvar 0 or a non-finite pixel"),
    Variable("brick", PAIR, "str", "", "brick name"),
    Variable("slot", PAIR, "i8", "", "(j << 32) | k: k the OBJID in the brick, j the target's row"),
    Variable("partner", PAIR, "i8", "", "slot of a row of the same brick; -1 for none"),
    Variable("target_id", PAIR, "i8", "", "DESI TARGETID bits, or the row number of a user's table"),
    Variable("host_id", PAIR, "i8", "", "the galaxy that lenses; rows of one host share it"),
    Variable("ra", PAIR, "f8", "deg", "target, ICRS"),
    Variable("dec", PAIR, "f8", "deg", "target, ICRS"),
    Variable("target_x", PAIR, "f4", "pixel", "target in the stamp, pixel centres are integers"),
    Variable("target_y", PAIR, "f4", "pixel", "target in the stamp, pixel centres are integers"),
    Variable("region_id", PAIR, "str", "", "what splits, folds and bootstraps keep in one piece"),
    Variable(
        "region_split", PAIR, "u1", "",
        "xxh64(region_id, seed 0) / 2^64 against the cumulated fractions, or guard", _enumerate(SPLITS),
    ),
    Variable("lens_model", PAIR, "u1", "", "the deflector", _enumerate(LENS_MODELS)),
    Variable("theta_e", PAIR, "f4", "arcsec", "Einstein radius, intermediate axis; 0 on controls"),
    Variable("lens_q", PAIR, "f4", "", "axis ratio of the lens"),
    Variable("lens_pa", PAIR, "f4", "deg", "major axis of the lens, east of north"),
    Variable("gamma1", PAIR, "f4", "", "external shear on (East, North) axes"),
    Variable("gamma2", PAIR, "f4", "", "external shear on (East, North) axes"),
    Variable("lens_dx", PAIR, "f4", "arcsec", "lens minus target, toward east"),
    Variable("lens_dy", PAIR, "f4", "arcsec", "lens minus target, toward north"),
    Variable("src_model", PAIR, "u1", "", "the source", _enumerate(SOURCE_MODELS)),
    Variable("src_dmag", PAIR, "f4", "mag", "source minus target, reference band, unlensed"),
    Variable("src_reff", PAIR, "f4", "arcsec", "half-light radius sqrt(a b)"),
    Variable("src_n", PAIR, "f4", "", "Sersic index"),
    Variable("src_q", PAIR, "f4", "", "axis ratio of the source"),
    Variable("src_pa", PAIR, "f4", "deg", "major axis of the source, east of north"),
    Variable("src_dx", PAIR, "f4", "arcsec", "source minus lens, toward east"),
    Variable("src_dy", PAIR, "f4", "arcsec", "source minus lens, toward north"),
    Variable("psf_model", PAIR, "u1", "", "profile that was convolved with", _enumerate(PSF_MODELS)),
    Variable("psf_beta", PAIR, "f4", "", "Moffat beta"),
    Variable(
        "pixel_response", PAIR, "u1", "",
        "EFFECTIVE: the width holds the pixel, image sampled; INTEGRATE: pixel integrated",
        _enumerate(PIXEL_RESPONSES),
    ),
    Variable("supersample", PAIR, "u1", "", "finest samples per pixel side of the renderer"),
    Variable("fix", PAIR, "str", "", "what was done against leaks, e.g. none"),
    Variable(
        "arc_snr", PAIR, "f4", "", "sqrt(sum arc^2 invvar) in the reference band, over the stamp"
    ),
    Variable("magnification", PAIR, "f4", "", "arc_flux_total / src_flux"),
    Variable("bad_pixel_frac", PAIR, "f4", "", "fraction of stamp pixels with a bad bit"),
    Variable("wise_brightmask_frac", PAIR, "f4", "", "fraction of stamp pixels in WISEM1 or WISEM2"),
    Variable("cutout_ok", PAIR, "bool", "", "the row has its pixels"),
    Variable(
        "reason", PAIR, "u1", "", "why the row is as it is", {int(r): r.text for r in Reason}
    ),
    Variable("host_mag", BAND, "f4", "mag", "target, AB; missing where the table has none"),
    Variable("psfdepth", BAND, "f4", "1/nMgy^2", "1 / (sky_sigma^2 NEA): inverse variance of a PSF flux"),
    Variable("src_flux", BAND, "f4", "nMgy", "intrinsic flux of the source, unlensed"),
    Variable("psfsize", BAND, "f4", "arcsec", "noise-equivalent width, the map at the target; 0 for none"),
    Variable("psf_fwhm_used", BAND, "f4", "arcsec", "width after the chain (map, manifest, reference band)"),
    Variable("psf_fwhm_drawn", BAND, "f4", "arcsec", "FWHM of the profile that was convolved with"),
    Variable(
        "psf_source", BAND, "u1", "", "where the width came from",
        {**_enumerate(PSF_SOURCES), NO_PSF: "none"},
    ),
    Variable("sky_sigma", BAND, "f4", "nMgy", "1 / sqrt(median invvar of the stamp's pixels with data)"),
    Variable("total_injected_flux", BAND, "f4", "nMgy", "sum of arc over the stamp"),
    Variable("arc_flux_total", BAND, "f4", "nMgy", "lensed flux before the PSF, whole plane"),
    Variable(
        "coverage", BAND, "f4", "",
        "fraction of stamp pixels with data; 0 where the target's own pixel has none",
    ),
)  # fmt: skip

OPTIONAL_KINDS: dict[str, tuple[Variable, ...]] = {
    "EPL": (Variable("lens_slope", PAIR, "f4", "", "slope of the lens's density; EPL only"),),
    "POINT": (),
    "BULGE_DISC": (
        Variable("src_bulge_fraction", PAIR, "f4", "", "bulge's part of src_flux, in every band"),
        Variable("src_bulge_reff", PAIR, "f4", "arcsec", "half-light radius sqrt(a b) of the bulge"),
        Variable("src_bulge_n", PAIR, "f4", "", "Sersic index of the bulge"),
        Variable("src_bulge_q", PAIR, "f4", "", "axis ratio of the bulge"),
    ),
    "IMAGE": (
        Variable("src_image", PAIR, "i8", "", "IDENT of the galaxy in the catalogue; -1 for none"),
        Variable("src_rotation", PAIR, "f4", "deg", "position angle of the image's y axis"),
        Variable("src_scale", PAIR, "f4", "arcsec", "size of the image's pixels as drawn"),
        Variable("src_deconvolved", PAIR, "bool", "", "the image is free of its own camera's PSF"),
    ),
    "INVVAR": (
        Variable("invvar", CUBE, "f4", "1/nMgy^2", "inverse variance of ctrl's pixels; 0 where no data"),
    ),
    "core_mask": (
        Variable("arc_snr_before_fix", PAIR, "f4", "", "arc_snr, had the arc not been masked"),
        Variable(
            "total_injected_flux_before_fix", BAND, "f4", "nMgy",
            "total_injected_flux, had the arc not been masked",
        ),
        Variable("visible_fraction", BAND, "f4", "", "total_injected_flux / arc_flux_total"),
        Variable(
            "visible_fraction_before_fix", BAND, "f4", "",
            "total_injected_flux_before_fix / arc_flux_total",
        ),
    ),
    "core_matched": (
        Variable("extra", CUBE, "f4", "nMgy", "light added to a core-matched negative; 0 where no data"),
        Variable(
            "negative_kind", PAIR, "u1", "", "what a control is", _enumerate(NEGATIVE_KINDS)
        ),
        Variable("extra_flux_total", BAND, "f4", "nMgy", "flux of extra, whole plane"),
        Variable("extra_sigma", BAND, "f4", "arcsec", "sigma of extra's round Gaussian, before the PSF"),
    ),
    "excluded_by_theta_e_min": (),
    "excluded_by_min_theta_e_over_psf": (),
}  # fmt: skip
"""What a data set names only where its experiment can produce it (kinds of lens and source, fixes and the
reasons that they give), and pixels that it holds only on request (INVVAR, by ``store.invvar``), each with the
variables that it adds. So a data set without them is the same, to the byte, as before they came."""


def variables_of(kinds: Collection[str]) -> tuple[Variable, ...]:
    """The variables of a data set whose experiment can produce these optional kinds.

    Those that every data set has, their closed lists with the names of these kinds added, then
    what the kinds add, in the order of :data:`OPTIONAL_KINDS`.
    """
    absent = OPTIONAL_KINDS.keys() - set(kinds)
    always = (
        variable
        if variable.flags is None
        else variable._replace(
            flags={code: name for code, name in variable.flags.items() if name not in absent}
        )
        for variable in _ALWAYS
    )
    added = (OPTIONAL_KINDS[kind] for kind in OPTIONAL_KINDS if kind in kinds)
    return (*always, *(variable for columns in added for variable in columns))


VARIABLES = variables_of(())
"""The variables that every data set has."""

ALL_VARIABLES = variables_of(OPTIONAL_KINDS)
"""Every variable that a data set can have."""

BY_NAME = {variable.name: variable for variable in ALL_VARIABLES}


def numpy_dtype(variable: Variable) -> np.dtype:
    """The dtype in memory; text is ``object``."""
    return np.dtype(object if variable.dtype == "str" else variable.dtype)


def without_data(nodata: NDArray[np.uint8], bands: int) -> NDArray[np.bool_]:
    """Pixels of each band that have no data, shape (row, band, y, x), from ``nodata`` (row, y, x)."""
    bits = (np.uint8(1) << np.arange(bands, dtype=np.uint8))[:, None, None]
    return np.asarray((nodata[:, None] & bits) != 0)
