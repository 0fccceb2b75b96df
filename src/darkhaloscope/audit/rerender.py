"""Audit rows drawn again from their recorded parameters, by the independent integrator.

The PSF width is predicted from the map (``psfsize``), or from ``psf_fwhm_used`` where the map had
nothing to say (``psf_source`` > 0); ``psf_fwhm_drawn`` is never looked at, so that a wrong width
cannot vouch for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.measure import BAND_COLUMNS, OPTIONAL_COLUMNS, PAIR_COLUMNS, Arrays
from darkhaloscope.audit.reference import ReferenceArc, reference_arc
from darkhaloscope.audit.reference_parameters import ArcParameters
from darkhaloscope.audit.spec import AuditSpec, lowest, shares
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import CORE_SIZE, core_slice
from darkhaloscope.variables import LENS_MODELS, PIXEL_RESPONSES, PSF_MODELS, SOURCE_MODELS

ApplyFix = Callable[[NDArray[np.float64], str, float, float, int, int], NDArray[np.float64]]
"""``apply_fix(arc, fix, target_x, target_y, size, corner)``: the arc (band, y, x) after the recorded fix; it
is the square from pixel ``corner`` of a stamp of ``size`` pixels, in whose pixels the target is given."""

ImageOf = Callable[[int], NDArray[np.float64]]
"""``image_of(src_image)``: the pixels (y, x) of a galaxy of the catalogue that sources came from."""

Redraw = Callable[[Arrays, AuditSpec, float], Arrays]
"""``redraw(rows, spec, closure_tolerance)``: :func:`rerender` with a caller's fixes and images."""

CORE_TOLERANCE = 1e-3
CLOSURE_TOLERANCE = 1e-5
CORE_FRAME = 32
"""Pixels drawn about the core of a row that is not drawn whole: light further out than twice this
reaches the core by less than 1e-4 of its peak."""

SIS = LENS_MODELS.index("SIS")
EPL = LENS_MODELS.index("EPL")
DRAWN_LENSES = tuple(LENS_MODELS.index(name) for name in ("SIS", "SIE", "EPL"))
SERSIC = SOURCE_MODELS.index("SERSIC")
POINT = SOURCE_MODELS.index("POINT")
BULGE_DISC = SOURCE_MODELS.index("BULGE_DISC")
IMAGE = SOURCE_MODELS.index("IMAGE")
DRAWN_PSFS: dict[int, Literal["gaussian", "moffat"]] = {
    PSF_MODELS.index("GAUSSIAN"): "gaussian",
    PSF_MODELS.index("MOFFAT"): "moffat",
}
RESPONSES: dict[int, Literal["effective", "integrate"]] = {
    PIXEL_RESPONSES.index("EFFECTIVE"): "effective",
    PIXEL_RESPONSES.index("INTEGRATE"): "integrate",
}
MESSAGE = "U200"
OF_IMAGES = ("coverage", "psf_source", "psf_fwhm_used", "psfsize", "sky_sigma")
"""What :func:`unsaid` asks for."""

_AS_RECORDED = (
    "gamma1", "gamma2", "lens_dx", "lens_dy", "src_dx", "src_dy", "psf_beta",
)  # fmt: skip
_NO_SHAPE: dict[str, Any] = dict.fromkeys(("src_reff", "src_n", "src_q", "src_pa"), float("nan"))


def no_fix(
    arc: NDArray[np.float64], fix: str, target_x: float, target_y: float, size: int, corner: int
) -> NDArray[np.float64]:
    """The arc as it is: what ``fix = none`` means.

    Raises
    ------
    ValueError
        For any other fix, which only the caller knows how to apply.
    """
    if fix != "none":
        raise ValueError(f"the recorded fix {fix!r} needs an apply_fix that knows it")
    return arc


def audit_rows(stats: Arrays, spec: AuditSpec) -> Arrays:
    """What :func:`rerender` needs of every audit row, with ``closure`` marking those drawn whole.

    Closure rows are the ``spec.closure`` lowest hashes, split evenly over the strata of theta_e that
    the data set really has, among the rows whose whole pixels were kept.
    """
    optional = tuple(name for name in OPTIONAL_COLUMNS if f"row_{name}" in stats)
    names = ("hash", *PAIR_COLUMNS, *optional, *BAND_COLUMNS, "core_nodata")
    rows = {name: stats[f"row_{name}"] for name in names}
    stratum = stats["whole_stratum"].astype(np.int64)
    caps = shares(spec.closure, np.bincount(stratum, minlength=spec.n_strata))
    chosen = lowest(stats["whole_hash"].astype(np.uint64), stratum, caps, (stats["whole_slot"],))
    rows["closure"] = np.isin(rows["hash"], stats["whole_hash"][chosen])
    nodata = np.zeros((len(rows["hash"]), spec.size, spec.size), dtype=np.uint8)
    order = {int(h): i for i, h in enumerate(stats["whole_hash"].tolist())}
    for i in np.flatnonzero(rows["closure"]):
        nodata[i] = stats["whole_nodata"][order[int(rows["hash"][i])]]
    rows["nodata"] = nodata
    return rows


def chunks(rows: Arrays, n: int) -> list[Arrays]:
    """At most ``n`` pieces of about equal work: rows are dealt out, closure rows first."""
    order = np.argsort(~rows["closure"].astype(bool), kind="stable")
    return [{k: v[order[start::n]] for k, v in rows.items()} for start in range(min(n, len(order)))]


def join(parts: Sequence[Arrays]) -> Arrays:
    """Results of :func:`rerender` of several chunks as one."""
    if not parts:
        raise ValueError("nothing was re-rendered")
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def no_image(ident: int) -> NDArray[np.float64]:
    """Where no catalogue of galaxies is at hand.

    Raises
    ------
    ValueError
        Always: an image can only be drawn again by a caller who has it.
    """
    raise ValueError(f"the image of galaxy {ident} is not at hand")


def arc_parts(rows: Arrays, i: int, image_of: ImageOf = no_image) -> list[ArcParameters]:
    """The recorded parameters of row ``i`` in the reference integrator's terms, one a part of its source.

    Raises
    ------
    ValueError
        If the row's lens, source, PSF model or pixel response is none that can be drawn.
    """

    def number(name: str) -> float:
        return float(rows[name][i])

    psf, pixel, lens = (
        int(rows[name][i]) for name in ("psf_model", "pixel_response", "lens_model")
    )
    if psf not in DRAWN_PSFS or pixel not in RESPONSES or lens not in DRAWN_LENSES:
        raise ValueError(
            f"lens_model {lens}, psf_model {psf}, pixel_response {pixel}: nothing that can be "
            "drawn again"
        )
    is_sis = lens == SIS
    width = predicted_width(
        rows["psf_source"][i], rows["psf_fwhm_used"][i], rows["psfsize"][i], rows["coverage"][i]
    )
    flux = rows["src_flux"][i].astype(float)
    common: dict[str, Any] = {
        "theta_e": number("theta_e"),
        "lens_q": 1.0 if is_sis else number("lens_q"),
        "lens_pa": 0.0 if is_sis else number("lens_pa"),
        "slope": number("lens_slope") if lens == EPL else 2.0,
        **{name: number(name) for name in _AS_RECORDED},
        "psf_model": DRAWN_PSFS[psf],
        "psf_nea_fwhm": tuple(float(w) for w in width),
        "psf_width_is": "nea",
        "pixel": RESPONSES[pixel],
    }

    def sersic(part: float, shape: str) -> ArcParameters:
        return ArcParameters(
            **common,
            src_flux=tuple((part * flux).tolist()),
            src_reff=number(f"{shape}_reff"),
            src_n=number(f"{shape}_n"),
            src_q=number(f"{shape}_q"),
            src_pa=number("src_pa"),
        )

    source = int(rows["src_model"][i])
    if source == SERSIC:
        return [sersic(1.0, "src")]
    if source == BULGE_DISC:
        bulge = number("src_bulge_fraction")
        if not 0.0 <= bulge <= 1.0:
            raise ValueError(f"src_bulge_fraction is {bulge}, and must be in [0, 1]")
        return [sersic(bulge, "src_bulge"), sersic(1.0 - bulge, "src")]
    if source == POINT:
        return [
            ArcParameters(**common, **_NO_SHAPE, src_flux=tuple(flux.tolist()), src_model="point")
        ]
    if source == IMAGE:
        image = {
            "src_image": image_of(int(rows["src_image"][i])),
            "src_scale": number("src_scale"),
            "src_rotation": number("src_rotation"),
        }
        shape = {**common, **_NO_SHAPE, **image}
        return [ArcParameters(**shape, src_flux=tuple(flux.tolist()), src_model="image")]
    raise ValueError(f"src_model {source} is no source that can be drawn again")


def _draw(parts: Sequence[ArcParameters], **stamp: Any) -> ReferenceArc:
    """The sum of the parts of one source, drawn on one stamp."""
    drawn = [reference_arc(part, **stamp) for part in parts]
    if len(drawn) == 1:
        return drawn[0]
    flux = np.sum([part.src_flux for part in parts], axis=0)
    total = np.sum([d.flux_total for d in drawn], axis=0)
    return ReferenceArc(
        arc=np.sum([d.arc for d in drawn], axis=0),
        flux_total=total,
        magnification=float(np.nansum(total) / np.nansum(flux)),
        error_estimate=max(d.error_estimate for d in drawn),
        rays=sum(d.rays for d in drawn),
    )


def predicted_width(
    psf_source: NDArray[Any],
    psf_fwhm_used: NDArray[Any],
    psfsize: NDArray[Any],
    coverage: NDArray[Any],
) -> NDArray[np.float64]:
    """Noise-equivalent PSF width in arcsec that an arc should have; NaN in bands without coverage.

    The map's value, or where it had none (``psf_source`` > 0) what the chain took instead.
    """
    width = np.where(psf_source.astype(int) > 0, psf_fwhm_used, psfsize).astype(float)
    return np.where(coverage.astype(float) > 0, width, np.nan)


def unsaid(rows: Arrays) -> dict[str, NDArray[np.bool_]]:
    """Images (row, band) of which a row does not say what it takes to compare them, by what is missing.

    ``coverage`` where it is no number (0 says that there are no pixels), and in bands with coverage a PSF
    width (``psfsize``) and a ``sky_sigma`` above 0. The first two leave no arc to be drawn.
    """
    coverage = rows["coverage"].astype(float)
    width = predicted_width(
        rows["psf_source"], rows["psf_fwhm_used"], rows["psfsize"], rows["coverage"]
    )
    return {
        "coverage": ~np.isfinite(coverage),
        "psfsize": (coverage > 0) & ~(width > 0),
        "sky_sigma": (coverage > 0) & ~(rows["sky_sigma"].astype(float) > 0),
    }


def rerender(
    rows: Arrays,
    spec: AuditSpec,
    apply_fix: ApplyFix = no_fix,
    image_of: ImageOf = no_image,
    core_tolerance: float = CORE_TOLERANCE,
    closure_tolerance: float = CLOSURE_TOLERANCE,
) -> Arrays:
    """Draw a chunk of audit rows again.

    Parameters
    ----------
    rows : dict of ndarray
        :func:`audit_rows`, or one of its :func:`chunks`.
    apply_fix : callable
        Applies the recorded fix; it must act on each pixel by its place alone, since rows that are not
        closure rows are drawn in their core only.
    image_of : callable
        Gives the pixels of a source image.
    core_tolerance, closure_tolerance : float
        Relative accuracy of the core of audit rows and of whole closure arcs.

    Returns
    -------
    dict of ndarray
        ``hash`` (row), ``core`` (row, band, 10, 10) float32 in nMgy, ``flux_total`` (row, band),
        ``magnification`` (row), ``message`` (row; empty where it went well, else who failed and why, or
        what is missing to compare one of its bands), ``whole_hash`` and ``whole`` (closure row, band, y,
        x) float64. No light where there is no data, as in the data set. NaN in failed rows, and in
        bands whose coverage or PSF width is missing: an arc that nobody knows is not 0.
    """
    n, n_band, core = len(rows["hash"]), len(spec.bands), core_slice(spec.size)
    out: Arrays = {
        "hash": rows["hash"],
        "core": np.full((n, n_band, CORE_SIZE, CORE_SIZE), np.nan, dtype=np.float32),
        "flux_total": np.full((n, n_band), np.nan),
        "magnification": np.full(n, np.nan),
        "message": np.zeros(n, dtype=MESSAGE),
    }
    whole = np.flatnonzero(rows["closure"])
    out["whole_hash"] = rows["hash"][whole]
    out["whole"] = np.full((len(whole), n_band, spec.size, spec.size), np.nan)
    place = {int(i): k for k, i in enumerate(whole)}
    bits = (np.uint8(1) << np.arange(n_band, dtype=np.uint8))[:, None, None]
    missing = unsaid(rows)
    unknown = missing["coverage"] | missing["psfsize"]
    for i in range(n):
        is_whole = i in place
        corner, side = (0, spec.size) if is_whole else _core_frame(rows, i, spec)
        x, y = float(rows["target_x"][i]), float(rows["target_y"][i])
        try:
            drawn = _draw(
                arc_parts(rows, i, image_of),
                size=side,
                target_x=x - corner,
                target_y=y - corner,
                pixel_scale=spec.pixel_scale,
                tolerance=closure_tolerance if is_whole else core_tolerance,
            )
            arc = apply_fix(drawn.arc, str(rows["fix"][i]), x, y, spec.size, corner)
        except (ValueError, ArithmeticError, RuntimeError, UserError) as error:
            # Named and counted: a row that cannot be drawn again is evidence too.
            out["message"][i] = f"{rows['brick'][i]}/{rows['slot'][i]}: {error}"
            continue
        lacks = [f"no {v} in {_named(m[i], spec)}" for v, m in missing.items() if m[i].any()]
        if lacks:
            out["message"][i] = f"{rows['brick'][i]}/{rows['slot'][i]}: {'; '.join(lacks)}"
        inside = slice(core.start - corner, core.stop - corner)
        if is_whole:
            arc = np.where(rows["nodata"][i][None] & bits, 0.0, arc)
            arc[unknown[i]] = np.nan
            out["whole"][place[i]] = arc
            out["core"][i] = arc[:, inside, inside]
        else:
            lost = rows["core_nodata"][i][None] & bits
            out["core"][i] = np.where(lost, 0.0, arc[:, inside, inside])
            out["core"][i, unknown[i]] = np.nan
        out["flux_total"][i] = drawn.flux_total
        out["magnification"][i] = drawn.magnification
    return out


def redraw_plain(rows: Arrays, spec: AuditSpec, closure_tolerance: float) -> Arrays:
    """:func:`rerender` of rows without a fix or an image, as a :data:`Redraw`."""
    return rerender(rows, spec, closure_tolerance=closure_tolerance)


def _named(which: NDArray[np.bool_], spec: AuditSpec) -> str:
    return ", ".join(band for band, on in zip(spec.bands, which, strict=True) if on)


def _core_frame(rows: Arrays, i: int, spec: AuditSpec) -> tuple[int, int]:
    """First pixel and side of the square about the core that is drawn for row ``i``."""
    reach = float(rows["theta_e"][i]) / spec.pixel_scale
    if spec.size <= CORE_FRAME or not reach < 0.6 * CORE_FRAME:
        return 0, spec.size
    return core_slice(spec.size).start - (CORE_FRAME - CORE_SIZE) // 2, CORE_FRAME
