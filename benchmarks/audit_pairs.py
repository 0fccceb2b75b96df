"""Clean pairs for the audit's tests and studies, drawn by :mod:`darkhaloscope.lensing`; how to spoil them.

The renderer shares no code with the audit's own integrator, so agreement between them is evidence.
Truth is drawn once a session; every defect is planted into a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter

from darkhaloscope.audit import (
    AuditResult,
    AuditSpec,
    GateLimits,
    audit_rows,
    chunks,
    conclude,
    join,
    measure,
    merge,
    quality,
    rerender,
    selection,
    stratum_counts,
)
from darkhaloscope.audit.rerender import Redraw, redraw_plain
from darkhaloscope.lensing import Lens, Psf, Sersic, render

BANDS = ("g", "r", "z")
SIZE = 48
SCALE = 0.262
SKY = np.array([0.0018, 0.0023, 0.0079])
N_PAIRS = 300
REGIONS = 30
HOSTS_PER_REGION = 4
BETA = 3.5

Ds = xr.Dataset
Plant = Callable[[Ds], Ds]


@lru_cache(maxsize=4)
def clean(
    n_pairs: int = N_PAIRS,
    regions: int = REGIONS,
    theta_e: tuple[float, float] = (0.5, 2.5),
    log_flux: tuple[float, float] = (-2.3, -0.8),
    seed: int = 11,
) -> Ds:
    """Injections, and a tenth as many controls; arcs are rounded to 10 mantissa bits."""
    rng = np.random.default_rng(seed)
    n_ctrl = n_pairs // 10
    n = n_pairs + n_ctrl
    injected = np.arange(n) < n_pairs
    region = np.arange(n) % regions
    host = region * HOSTS_PER_REGION + (np.arange(n) // regions) % HOSTS_PER_REGION
    centre = (SIZE - 1) / 2
    target = (centre + rng.uniform(-0.5, 0.5, (n, 2))).astype(np.float32)
    psfsize = (np.array([1.5, 1.3, 1.2]) * rng.uniform(0.9, 1.1, (n, 3))).astype(np.float32)

    def pair(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, n).astype(np.float32)

    columns = {
        "theta_e": np.where(injected, pair(*theta_e), 0).astype(np.float32),
        "lens_q": pair(0.55, 0.95),
        "lens_pa": pair(0, 180),
        "gamma1": pair(-0.05, 0.05),
        "gamma2": pair(-0.05, 0.05),
        "lens_dx": pair(-0.1, 0.1),
        "lens_dy": pair(-0.1, 0.1),
        "src_dmag": pair(0.5, 3),
        "src_reff": pair(0.15, 0.5),
        "src_n": np.ones(n, np.float32),
        "src_q": pair(0.4, 1.0),
        "src_pa": pair(0, 180),
        "src_dx": pair(-0.4, 0.4),
        "src_dy": pair(-0.4, 0.4),
    }
    src_flux = (10 ** rng.uniform(*log_flux, (n, 1)) * np.array([0.5, 1.0, 1.6])).astype(np.float32)
    for name in columns:
        if name != "theta_e":
            columns[name] = np.where(injected, columns[name], np.nan).astype(np.float32)
    arc = np.zeros((n, 3, SIZE, SIZE))
    total = np.full((n, 3), np.nan)
    magnification = np.full(n, np.nan)
    for i in np.flatnonzero(injected):
        arc[i], total[i], magnification[i] = draw(columns, src_flux, psfsize, target, i)
    ctrl = skies(rng, target, host)
    covered = np.ones((n, 3), np.float32)
    per_band = {
        "host_mag": np.full((n, 3), 19.0, np.float32),
        "psfdepth": np.full((n, 3), 1e3, np.float32),
        "src_flux": np.where(injected[:, None], src_flux, np.nan).astype(np.float32),
        "psfsize": psfsize,
        "psf_fwhm_used": np.where(injected[:, None], psfsize, np.nan).astype(np.float32),
        "psf_fwhm_drawn": np.where(injected[:, None], psfsize / 1.23, np.nan).astype(np.float32),
        "psf_source": np.zeros((n, 3), np.uint8),
        "sky_sigma": np.broadcast_to(SKY, (n, 3)).astype(np.float32),
        "arc_flux_total": total.astype(np.float32),
        "coverage": covered,
    }
    snr = np.sqrt((arc[:, 1] ** 2).sum((1, 2))) / SKY[1]
    per_pair = {
        "brick": np.array([f"b{r:03d}" for r in region], dtype=object),
        "slot": (np.arange(n) // regions).astype(np.int64),
        "partner": np.full(n, -1, np.int64),
        "target_id": host.astype(np.int64),
        "host_id": host.astype(np.int64),
        "ra": 10.0 + region,
        "dec": np.full(n, -5.0),
        "target_x": target[:, 0],
        "target_y": target[:, 1],
        "region_id": np.array([f"b{r:03d}" for r in region], dtype=object),
        "region_split": (region % 3).astype(np.uint8),
        "lens_model": np.where(injected, 2, 0).astype(np.uint8),
        "src_model": injected.astype(np.uint8),
        "psf_model": np.where(injected, 2, 0).astype(np.uint8),
        "psf_beta": np.where(injected, BETA, np.nan).astype(np.float32),
        "pixel_response": np.zeros(n, np.uint8),
        "supersample": np.full(n, 16, np.uint8),
        "fix": np.full(n, "none", dtype=object),
        "arc_snr": np.where(injected, snr, np.nan).astype(np.float32),
        "magnification": magnification.astype(np.float32),
        "bad_pixel_frac": np.zeros(n, np.float32),
        "wise_brightmask_frac": np.zeros(n, np.float32),
        "cutout_ok": np.ones(n, bool),
        "reason": np.ones(n, np.uint8),
        **columns,
    }
    pixels = {
        "ctrl": ctrl.astype(np.float32),
        "arc": round_bits(arc.astype(np.float32)),
    }
    ds = xr.Dataset(
        {
            **{k: (("pair", "band", "y", "x"), v) for k, v in pixels.items()},
            "nodata": (("pair", "y", "x"), np.zeros((n, SIZE, SIZE), np.uint8)),
            **{k: (("pair", "band"), v) for k, v in per_band.items()},
            **{k: ("pair", v) for k, v in per_pair.items()},
        },
        coords={"band": list(BANDS)},
    )
    return summed(ds)


def skies(rng: np.random.Generator, target: np.ndarray, host: np.ndarray) -> np.ndarray:
    """Galaxies at their targets on correlated noise, (pair, band, y, x) in nMgy."""
    light = galaxies(target, host)
    return light + sky_noise(rng, light.shape)


def galaxies(target: np.ndarray, host: np.ndarray) -> np.ndarray:
    """A galaxy at each target, (pair, band, y, x) in nMgy."""
    axis = np.arange(SIZE)
    dx, dy = axis - target[:, :1], axis - target[:, 1:]
    r = np.sqrt(dx[:, None, :] ** 2 + dy[:, :, None] ** 2)
    light = np.exp(-7.67 * ((r + 0.3) / 6) ** 0.5) * (4 + 4 * (host % 7))[:, None, None]
    return light[:, None] * np.array([0.4, 1.0, 1.9])[:, None, None]


def sky_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Correlated noise of one sky sigma, (pair, band, y, x) in nMgy."""
    out = np.empty(shape)
    for i in range(len(out)):
        noise = gaussian_filter(rng.normal(size=shape[1:]), (0, 0.5, 0.5))
        out[i] = noise * (SKY[:, None, None] / noise.std())
    return out


OF_ARCS = (
    "arc", "theta_e", "lens_q", "lens_pa", "gamma1", "gamma2", "lens_dx", "lens_dy", "src_dmag", "src_reff",
    "src_n", "src_q", "src_pa", "src_dx", "src_dy", "src_flux", "psfsize", "psf_fwhm_used", "psf_fwhm_drawn",
    "target_x", "target_y", "arc_flux_total", "magnification", "arc_snr", "total_injected_flux",
)  # fmt: skip
"""Variables that an arc takes along when it is put on another galaxy."""


def on_other_skies(ds: Ds, seed: int) -> tuple[Ds, np.ndarray]:
    """The arcs of clean pairs dealt out anew to galaxies, on noise of their own; controls drawn anew.

    Returns
    -------
    Dataset
        Clean pairs that share nothing with the given ones but the set of their arcs.
    ndarray (injection,)
        Which injection's arc each injection has got.
    """
    rng = np.random.default_rng([seed, 23])
    injected = np.flatnonzero(ds["lens_model"].values != 0)
    others = np.flatnonzero(ds["lens_model"].values == 0)
    dealt = rng.permutation(len(injected))
    out = ds.copy(deep=True)
    for name in OF_ARCS:
        out[name].values[injected] = ds[name].values[injected[dealt]]
    at = (SIZE - 1) / 2 + rng.uniform(-0.5, 0.5, (len(others), 2))
    out["target_x"].values[others], out["target_y"].values[others] = at.T
    widths = np.array([1.5, 1.3, 1.2]) * rng.uniform(0.9, 1.1, (len(others), 3))
    out["psfsize"].values[others] = widths
    target = np.stack([out["target_x"].values, out["target_y"].values], axis=1)
    out["ctrl"].values[:] = skies(rng, target.astype(float), ds["host_id"].values)
    return out, dealt


def of_two_exposures(ds: Ds, seed: int, each: float = 1.0) -> Ds:
    """The same galaxies and arcs, stamp and ctrl each with all its noise of its own (``each`` sky sigma).

    What two exposures of one sky are, with nothing in common but the light: as clean as one exposure is.
    """
    rng = np.random.default_rng([seed, 29])
    injected = ds["lens_model"].values != 0
    target = np.stack([ds["target_x"].values, ds["target_y"].values], axis=1).astype(float)
    light = galaxies(target, ds["host_id"].values)
    ctrl, other = (light + each * sky_noise(rng, light.shape) for _ in range(2))
    gap = np.where(injected[:, None, None, None], other - ctrl, 0.0)
    out = ds.copy()
    out["ctrl"] = (ds["ctrl"].dims, ctrl.astype(np.float32))
    out["arc"] = (ds["arc"].dims, (ds["arc"].values + gap).astype(np.float32))
    return summed(out)


def summed(ds: Ds) -> Ds:
    """The same pairs with the flux column that their writer would have summed from these arcs."""
    flux = ds["arc"].values.sum(axis=(2, 3), dtype=float)
    flux = np.where(ds["lens_model"].values[:, None] != 0, flux, np.nan).astype("f4")
    return ds.assign(total_injected_flux=(("pair", "band"), flux))


def nea_psf(width: float) -> Psf:
    """The PSF of a map's width."""
    return Psf("moffat", nea_fwhm=width, beta=BETA)


def draw(
    columns: dict[str, np.ndarray],
    src_flux: np.ndarray,
    psfsize: np.ndarray,
    target: np.ndarray,
    i: int,
    psf_of: Callable[[float], Psf] = nea_psf,
    size: int = SIZE,
) -> tuple[np.ndarray, np.ndarray, float]:
    """One arc (band, y, x), its lensed flux a band, and its magnification."""
    c = {k: float(v[i]) for k, v in columns.items()}
    lens = Lens(
        "SIE", c["theta_e"], q=c["lens_q"], pa=c["lens_pa"], gamma1=c["gamma1"],
        gamma2=c["gamma2"], dx=c["lens_dx"], dy=c["lens_dy"],
    )  # fmt: skip
    source = Sersic(
        tuple(float(f) for f in src_flux[i]), reff=c["src_reff"], n=c["src_n"], q=c["src_q"],
        pa=c["src_pa"], dx=c["src_dx"], dy=c["src_dy"],
    )  # fmt: skip
    out = render(
        lens, source, [psf_of(float(w)) for w in psfsize[i]], size=size, x=float(target[i, 0]),
        y=float(target[i, 1]), pixel_scale=SCALE,
    )  # fmt: skip
    return out.arc, out.arc_flux_total, out.magnification


def round_bits(values: np.ndarray, bits: int = 10) -> np.ndarray:
    """Round float32 to so many mantissa bits, to the nearest, ties to even, as the store does with arcs."""
    cut = np.uint32(24 - bits)  # of 24 bits, of which the first is not stored
    whole = values.astype(np.float32).view(np.uint32)
    whole += np.uint32((1 << (cut - 1)) - 1) + ((whole >> cut) & np.uint32(1))
    whole &= ~np.uint32((1 << cut) - 1)
    return whole.view(np.float32)


def spec_of(ds: Ds, **changes: object) -> AuditSpec:
    """The audit's specification for these pairs."""
    injected = ds["lens_model"].values != 0
    fields: dict[str, object] = {
        "seed": 7,
        "bands": BANDS,
        "reference_band": "r",
        "size": SIZE,
        "pixel_scale": SCALE,
        "n_regions": len(np.unique(ds["region_id"].values)),
        "stratum_counts": stratum_counts(ds["theta_e"].values[injected]),
    }
    return AuditSpec(**{**fields, **changes})  # type: ignore[arg-type]


_RERENDERED: dict[tuple[bytes, ...], dict[str, np.ndarray]] = {}
PARAMETERS = (
    "theta_e", "lens_q", "lens_pa", "gamma1", "lens_dx", "src_reff", "src_q", "src_pa", "src_dx",
    "src_flux", "psfsize", "psf_fwhm_used", "psf_source", "psf_beta", "coverage", "nodata",
    "sky_sigma", "target_x", "target_y", "cutout_ok", "fix", "host_id", "slot",
)  # fmt: skip


def rerendered(ds: Ds, stats: dict[str, np.ndarray], spec: AuditSpec) -> dict[str, np.ndarray]:
    """The audit rows drawn again; drawn once for each set of parameters, since pixels play no part."""
    key = (
        b"%d" % spec.seed,
        *(np.asarray(ds[name].values.tolist()).tobytes() for name in PARAMETERS),
    )
    if key not in _RERENDERED:
        rows = audit_rows(stats, spec)
        _RERENDERED[key] = join([rerender(c, spec) for c in chunks(rows, 3)])
    return _RERENDERED[key]


def run_audit(
    ds: Ds,
    limits: GateLimits | None = None,
    again: Callable[[dict[str, np.ndarray], AuditSpec], dict[str, np.ndarray]] | None = None,
    redraw: Redraw = redraw_plain,
    **changes: object,
) -> AuditResult:
    """The whole audit of a data set in memory, measured in three blocks.

    ``again`` gives its audit rows drawn again, where that was done before; ``redraw`` draws more of them.
    """
    spec = spec_of(ds, **changes)
    edges = np.linspace(0, ds.sizes["pair"], 4).astype(int)
    parts = [measure(ds.isel(pair=slice(a, b)), spec) for a, b in pairwise(edges)]
    stats = merge(parts, spec)
    columns = quality(ds, spec.reference_band)
    drawn = again(audit_rows(stats, spec), spec) if again else rerendered(ds, stats, spec)
    chosen = selection(ds, spec)
    return conclude(stats, drawn, columns, limits or GateLimits(), spec, chosen, redraw)


def with_arc(ds: Ds, change: Callable[[np.ndarray], np.ndarray]) -> Ds:
    """The same pairs with other arcs on the injections."""
    out = ds.copy()
    injected = ds["lens_model"].values != 0
    arc = ds["arc"].values.astype(float).copy()
    arc[injected] = change(arc[injected])
    out["arc"] = (ds["arc"].dims, round_bits(arc.astype(np.float32)))
    return summed(out)


def names(result: AuditResult) -> list[str]:
    """Names of the causes that count, the heaviest first."""
    return [c["name"] for c in result.verdict["causes"] if "no bug" not in c["evidence"]]


def gate(result: AuditResult, name: str) -> dict[str, object]:
    """One gate of the verdict."""
    return next(g for g in result.verdict["gates"] if g["name"] == name)


def masked_again(ds: Ds, spec: AuditSpec, keep: np.ndarray) -> AuditResult:
    """Audit pairs whose arcs were multiplied by ``keep`` (y, x), as their fix would do."""

    def fix(arc: np.ndarray, _: str, x: float, y: float, size: int, corner: int) -> np.ndarray:
        # Rows drawn in their core only come as a square of the stamp.
        square = slice(corner, corner + arc.shape[-1])
        return arc * keep[square, square]

    stats = merge([measure(ds, spec)], spec)
    again = rerender(audit_rows(stats, spec), spec, apply_fix=fix)
    return conclude(stats, again, quality(ds, "r"), GateLimits(), spec)
