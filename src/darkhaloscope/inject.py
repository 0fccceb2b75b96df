"""One brick: cut-outs and planned rows in, a stamp cube and complete provenance out.

Nothing here raises for a row that cannot be made: the row stays, with ``cutout_ok = False`` and its
reason. What comes out is rounded exactly as it will be stored, so that statistics and store see the
same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope import fix, lensing
from darkhaloscope.config import Experiment
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.geometry import PIXEL_SCALE, nea_pixels
from darkhaloscope.survey import Cutouts, Reading, Survey, galaxy_image, read_cutouts
from darkhaloscope.variables import (
    CTRL_STEPS_PER_SIGMA,
    LENS_MODELS,
    NEGATIVE_KINDS,
    NO_PSF,
    PIXEL_RESPONSES,
    PSF_MODELS,
    PSF_SOURCES,
    SOURCE_MODELS,
    numpy_dtype,
    variables_of,
)

Row = Mapping[Hashable, Any]
"""A planned row, by column."""

Drawer = Callable[[Row, NDArray[np.float64], float, float, Experiment], lensing.Rendered]
"""As :func:`draw_arc`."""

ARC_MANTISSA_BITS = 10
"""Kept bits of the mantissa of arc and invvar: each pixel moves by at most 2^-11 of itself."""

CORE_MATCHED = NEGATIVE_KINDS.index("core_matched")


def survey_of(experiment: Experiment) -> Survey:
    """The survey room's view of an experiment's ``survey`` section."""
    section = experiment.survey
    return Survey(
        root=section.root,
        hemisphere=section.hemisphere,
        bands=section.bands,
        absent=frozenset(section.absent),
        layout=section.layout,
    )


def load_brick(rows: pd.DataFrame, experiment: Experiment) -> Cutouts:
    """Cut the stamps of the targets of planned rows out of their brick, one a target, by OBJID."""
    _, first = np.unique(_objid(rows), return_index=True)
    return read_cutouts(
        survey_of(experiment),
        str(rows["brick"].iloc[0]),
        rows["ra"].to_numpy(float)[first],
        rows["dec"].to_numpy(float)[first],
        experiment.stamp.size,
        bad_bits=experiment.survey.bad,
        reference_band=experiment.survey.reference,
        reading=Reading(experiment.read.mode, experiment.read.checksums),
    )


def _objid(rows: pd.DataFrame) -> NDArray[np.int64]:
    return rows["slot"].to_numpy(np.int64) & 0xFFFFFFFF


def inject_brick(
    rows: pd.DataFrame,
    cutouts: Cutouts,
    experiment: Experiment,
    planned: pd.DataFrame | None = None,
    draw: Drawer | None = None,
) -> xr.Dataset:
    """Make the stamps and the provenance of planned rows of one brick.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`darkhaloscope.plan.brick_rows`, all of one brick.
    cutouts : Cutouts
        :func:`load_brick` of the same rows.
    experiment : Experiment
    planned : DataFrame, optional
        All rows of the brick, among which ``rows`` find their partners; by default ``rows``.
    draw : callable, optional
        In place of :func:`draw_arc`: where a brick is made several times, one that remembers its arcs.

    Returns
    -------
    Dataset
        All variables of the data set (docs/data-set.md) for these rows, in their order; ``ctrl``,
        ``arc`` and ``extra`` float32 nMgy. The attribute ``notes`` holds a sentence for each file
        that was in the way; ``lasting`` whether waiting would not help it.
    """
    draw = draw or draw_arc
    _, target_of = np.unique(_objid(rows), return_inverse=True)
    cube = empty_cube(rows, experiment)
    out = _arrays(cube)
    records = rows.to_dict("records")  # a row of a DataFrame costs more than its arc's rays
    matched = np.zeros(len(rows), bool)
    if experiment.fix.core_matched_negatives:
        matched = out["negative_kind"] == CORE_MATCHED
    place = {int(slot): i for i, slot in enumerate(out["slot"])}
    for i, t in enumerate(target_of.tolist()):
        if not matched[i]:
            _fill_row(out, i, t, cutouts, records[i], experiment, draw)
            continue
        # A negative comes after its partner, which may lie in the block before: it is then drawn again.
        partner, at = out, place.get(int(out["partner"][i]), -1)
        if at < 0:
            among = rows if planned is None else planned
            row = among[among["slot"] == out["partner"][i]]
            partner, at = _arrays(empty_cube(row, experiment)), 0
            _fill_row(partner, 0, t, cutouts, row.to_dict("records")[0], experiment, draw)
        if partner["cutout_ok"][at]:
            _fill_row(out, i, t, cutouts, records[i], experiment, draw)
            _fill_extra(out, i, partner, at, cutouts.invvar[t] <= 0, experiment)
        else:
            for name in ("target_x", "target_y", "reason"):
                out[name][i] = partner[name][at]
    cube.attrs |= {"notes": list(cutouts.notes), "lasting": cutouts.lasting}
    return cube


def _arrays(cube: xr.Dataset) -> dict[str, NDArray[Any]]:
    """The arrays of a cube by name, to be filled in place."""
    return {str(name): variable.values for name, variable in cube.data_vars.items()}


class Widths(NamedTuple):
    """PSF width per band in arcsec, as used for one row, and where it came from."""

    used: NDArray[np.float64]
    source: NDArray[np.uint8]


def choose_widths(
    at_target: NDArray[np.float64],
    manifest: NDArray[np.float64],
    covered: NDArray[np.bool_],
    reference: int,
) -> Widths:
    """The chain of PSF widths: the map at the target, then the manifest's value, then the reference
    band's.

    Parameters
    ----------
    at_target : (band,)
        The psfsize map at the target, arcsec; 0 where it has no data.
    manifest : (band,)
        A value from a table, arcsec; used only when > 0.
    covered : (band,)
        Bands that have pixels at the target; the others get no width.
    reference : int
        Index of the reference band.

    Returns
    -------
    Widths
        ``used`` NaN and ``source`` 255 where a band has no pixels, or where no width is known.
    """
    used = np.where(at_target > 0, at_target, np.where(manifest > 0, manifest, np.nan))
    source = np.where(at_target > 0, 0, np.where(manifest > 0, 1, NO_PSF)).astype(np.uint8)
    lacking = ~np.isfinite(used)
    if np.isfinite(used[reference]):
        source[lacking] = PSF_SOURCES.index("fallback")
        used = np.where(lacking, used[reference], used)
    used = np.where(covered, used, np.nan)
    source[~covered | ~np.isfinite(used)] = NO_PSF
    return Widths(used, source)


def sky_sigma(invvar: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 / sqrt(median invvar) over the pixels with data, nMgy; input (band, y, x), output (band,).

    NaN for a band without data.
    """
    sigma = np.full(len(invvar), np.nan)
    for b, plane in enumerate(invvar):
        data = plane[plane > 0]
        if data.size:
            middle = (data.size - 1) // 2, data.size // 2
            # As np.median, without its overhead, on which a brick would spend as much as on encoding.
            median = np.partition(data, middle)[[*middle]].astype(float).mean()
            sigma[b] = 1.0 / np.sqrt(median)
    return sigma


def round_ctrl(image: NDArray[np.float32], sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round each band to multiples of 2^floor(log2(sigma / 16)); (band, y, x). To the nearest, ties to
    even, so that no mean moves. A band of unknown sigma is left as it is."""
    known = np.isfinite(sigma)
    step = np.exp2(np.floor(np.log2(np.where(known, sigma, 1.0) / CTRL_STEPS_PER_SIGMA)))
    step = step[:, None, None]
    rounded = np.rint(image.astype(float) / step) * step
    return np.where(known[:, None, None], rounded, image).astype(np.float32)


def round_mantissa(
    pixels: NDArray[np.floating], bits: int = ARC_MANTISSA_BITS
) -> NDArray[np.float32]:
    """Keep ``bits`` bits of each value's mantissa: nearest, ties to even, float32."""
    mantissa, exponent = np.frexp(pixels)
    scale = 2.0 ** (bits + 1)
    return np.ldexp(np.rint(mantissa * scale) / scale, exponent).astype(np.float32)


def empty_cube(rows: pd.DataFrame, experiment: Experiment) -> xr.Dataset:
    """Planned columns filled in, pixels 0, outcomes missing, every row not yet ok."""
    bands = list(experiment.survey.bands)
    size = {"pair": len(rows), "band": len(bands), "y": experiment.stamp.size}
    size["x"] = size["y"]
    columns = {}
    for variable in variables_of(experiment.kinds):
        shape = tuple(size[dim] for dim in variable.dims)
        dtype = numpy_dtype(variable)
        if variable.name in rows:
            values = rows[variable.name].to_numpy(dtype)
        elif f"{variable.name}_{bands[0]}" in rows:
            values = np.stack([rows[f"{variable.name}_{b}"].to_numpy(dtype) for b in bands], axis=1)
        else:
            values = np.full(shape, variable.fill, dtype)
        columns[variable.name] = (variable.dims, values)
    cube = xr.Dataset(columns, coords={"band": np.array(bands, dtype=object)})
    injected = rows["lens_model"].to_numpy() > 0
    psf = experiment.psf
    cube["psf_model"].values[injected] = PSF_MODELS.index(psf.model.upper())
    cube["psf_beta"].values[injected] = psf.beta if psf.model == "moffat" else np.nan
    cube["pixel_response"].values[:] = PIXEL_RESPONSES.index(psf.pixel.upper())
    said = fix.fix_text(experiment.fix), fix.control_text(experiment.fix)
    cube["fix"].values[:] = np.where(injected, *said)
    if experiment.fix.core_matched_negatives:
        matched = cube["negative_kind"].values == CORE_MATCHED
        cube["fix"].values[matched] = fix.control_text(experiment.fix, matched=True)
    return cube


def _fill_row(
    out: dict[str, NDArray[Any]],
    i: int,
    t: int,
    cutouts: Cutouts,
    row: Row,
    experiment: Experiment,
    draw: Drawer,
) -> None:
    """Make row ``i`` of a cube's arrays from target ``t`` of the cut-outs, or leave it failed."""
    out["target_x"][i], out["target_y"][i] = cutouts.target_x[t], cutouts.target_y[t]
    reason = Reason(int(cutouts.reason[t]))
    if reason is not Reason.OK:
        out["reason"][i] = reason
        return
    covered = cutouts.coverage[t] > 0
    at_target = cutouts.psfsize[t].astype(float)
    manifest = np.array([row[f"manifest_psfsize_{b}"] for b in experiment.survey.bands], float)
    reference = experiment.survey.bands.index(experiment.survey.reference)
    widths = choose_widths(at_target, np.nan_to_num(manifest), covered, reference)
    invvar = cutouts.invvar[t]
    sigma = sky_sigma(invvar)
    image = cutouts.image[t]
    exact = experiment.store.precision == "exact"
    if not np.isfinite(widths.used[covered]).all():
        # Controls as well: if only injections failed here, the sky would tell the classes apart.
        out["reason"][i] = Reason.PSF_MISSING
        return
    if row["lens_model"] > 0:
        try:
            drawn = draw(row, widths.used, out["target_x"][i], out["target_y"][i], experiment)
        except UserError:
            out["reason"][i] = Reason.RENDER_FAILED
            return
        seen = np.where(invvar > 0, drawn.arc, 0.0)
        masked = fix.apply_fix(seen, out["fix"][i], out["target_x"][i], out["target_y"][i])
        stored = _rounded(masked, exact)
        if not np.isfinite(stored).all():
            out["reason"][i] = Reason.RENDER_FAILED
            return
        out["arc"][i] = stored
        out["supersample"][i] = drawn.supersample
        out["magnification"][i] = drawn.magnification
        out["arc_flux_total"][i] = np.where(covered, drawn.arc_flux_total, np.nan)
        _fill_brightness(out, i, stored, invvar[reference], covered, reference)
        if experiment.fix.core_mask is not None:
            unmasked = _rounded(seen, exact)
            _fill_brightness(out, i, unmasked, invvar[reference], covered, reference, "_before_fix")
            for when in ("", "_before_fix"):
                kept = out[f"total_injected_flux{when}"][i].astype(float)
                out[f"visible_fraction{when}"][i] = kept / drawn.arc_flux_total
        out["psf_fwhm_used"][i] = widths.used
        out["psf_fwhm_drawn"][i] = [
            _psf(width, experiment).fwhm if np.isfinite(width) else np.nan for width in widths.used
        ]
    out["psf_source"][i] = widths.source
    out["ctrl"][i] = image if exact else round_ctrl(image, sigma)
    if "invvar" in out:
        out["invvar"][i] = invvar if exact else round_mantissa(invvar)
    bits = (1 << np.arange(len(image), dtype=np.uint8))[:, None, None]
    out["nodata"][i] = ((invvar <= 0) * bits).sum(axis=0)
    out["psfsize"][i] = np.nan if "psfsize" in experiment.survey.absent else at_target
    out["sky_sigma"][i] = sigma
    out["psfdepth"][i] = psf_depth(sigma, widths.used)
    out["coverage"][i] = cutouts.coverage[t]
    out["bad_pixel_frac"][i] = cutouts.bad_pixel_frac[t]
    out["wise_brightmask_frac"][i] = cutouts.wise_brightmask_frac[t]
    out["cutout_ok"][i] = True
    out["reason"][i] = Reason.OK
    if experiment.fix.cuts:
        cut = fix.excluded_by(experiment.fix, row["cut_theta_e"], widths.used[reference])
        out["reason"][i] = Reason.OK if cut is None else cut


def _fill_extra(
    out: dict[str, NDArray[Any]],
    i: int,
    partner: dict[str, NDArray[Any]],
    at: int,
    nodata: NDArray[np.bool_],
    experiment: Experiment,
) -> None:
    """Give a negative's row ``i`` the round light that matches the arc of its partner, row ``at``."""
    psfs = [_psf(w, experiment) if np.isfinite(w) else None for w in partner["psf_fwhm_used"][at]]
    x, y = float(out["target_x"][i]), float(out["target_y"][i])
    made = fix.matched_light(partner["arc"][at], nodata, psfs, x, y)
    out["extra"][i] = _rounded(made.light, experiment.store.precision == "exact")
    out["extra_flux_total"][i], out["extra_sigma"][i] = made.flux_total, made.sigma


def _rounded(arc: NDArray[np.float64], exact: bool) -> NDArray[np.float32]:
    """Added light as it is stored."""
    return arc.astype(np.float32) if exact else round_mantissa(arc)


def _fill_brightness(
    out: dict[str, NDArray[Any]],
    i: int,
    arc: NDArray[np.float32],
    invvar: NDArray[np.float32],
    covered: NDArray[np.bool_],
    reference: int,
    when: str = "",
) -> None:
    """S/N (with ``invvar`` of the reference band) and flux of the pixels of an arc (band, y, x)."""
    out[f"arc_snr{when}"][i] = lensing.arc_snr(arc[reference], invvar)
    flux = arc.sum(axis=(1, 2), dtype=float)
    out[f"total_injected_flux{when}"][i] = np.where(covered, flux, np.nan)


def psf_depth(sigma: NDArray[np.float64], width: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse variance of a PSF flux, 1/nMgy^2: 1 / (sigma^2 NEA), as the releases' ``psfdepth``.

    ``sigma`` is the sky sigma per pixel (nMgy), ``width`` the noise-equivalent width (arcsec).
    """
    return 1.0 / (sigma**2 * nea_pixels(width, PIXEL_SCALE))


def draw_arc(
    row: Row,
    widths: NDArray[np.float64],
    target_x: float,
    target_y: float,
    experiment: Experiment,
) -> lensing.Rendered:
    """Render the arc of one planned injection; ``widths`` (band,) in arcsec, NaN = not drawn."""
    model = cast(Literal["SIS", "SIE", "EPL"], LENS_MODELS[int(row["lens_model"])])
    lens = lensing.Lens(
        model=model,
        theta_e=row["theta_e"],
        q=row["lens_q"],
        pa=row["lens_pa"],
        gamma1=row["gamma1"],
        gamma2=row["gamma2"],
        dx=row["lens_dx"],
        dy=row["lens_dy"],
        slope=row["lens_slope"] if model == "EPL" else 2.0,
    )
    psfs = [_psf(width, experiment) if np.isfinite(width) else None for width in widths]
    return lensing.render(
        lens,
        _source(row, experiment),
        psfs,
        size=experiment.stamp.size,
        x=float(target_x),
        y=float(target_y),
        pixel_scale=PIXEL_SCALE,
        supersample=experiment.render.supersample,
    )


def _source(
    row: Row, experiment: Experiment
) -> lensing.Sersic | lensing.Point | lensing.Components | lensing.PixelSource:
    """The unlensed source of one planned injection."""
    bands = experiment.survey.bands
    kind = SOURCE_MODELS[int(row["src_model"])]
    flux = np.array([row[f"src_flux_{b}"] for b in bands], float)
    dx, dy = row["src_dx"], row["src_dy"]
    if kind == "POINT":
        return lensing.Point(flux.tolist(), dx=dx, dy=dy)
    if kind == "IMAGE":
        return lensing.PixelSource(
            flux.tolist(),
            galaxy_image(str(experiment.source.catalogue), int(row["src_image"])),
            row["src_scale"],
            dx=dx,
            dy=dy,
            rotation=row["src_rotation"],
            deconvolved=bool(row["src_deconvolved"]),
        )

    def sersic(part: float, reff: float, n: float, q: float) -> lensing.Sersic:
        fluxes = (part * flux).tolist()
        return lensing.Sersic(fluxes, reff, n=n, q=q, pa=row["src_pa"], dx=dx, dy=dy)

    shape = (row["src_reff"], row["src_n"], row["src_q"])
    if kind == "SERSIC":
        return sersic(1.0, *shape)
    bulge = row["src_bulge_fraction"]
    bulge_shape = (row["src_bulge_reff"], row["src_bulge_n"], row["src_bulge_q"])
    return lensing.Components([sersic(bulge, *bulge_shape), sersic(1.0 - bulge, *shape)])


def _psf(width: float, experiment: Experiment) -> lensing.Psf:
    section = experiment.psf
    key = "nea_fwhm" if section.width == "nea" else "fwhm"
    return lensing.Psf(section.model, **{key: float(width)}, beta=section.beta, pixel=section.pixel)
