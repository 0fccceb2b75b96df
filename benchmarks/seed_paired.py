"""``v5_cosmos_paired``, the seed experiment's paired data set: radii, light in the core, profile, growth."""

from __future__ import annotations

from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import chi2
from seed_arcs import (
    CENTRE,
    CORE_RADIUS,
    Draws,
    Floats,
    convolved,
    draw,
    fine,
    kernels,
    radius,
    samples,
)
from tabulate_lines import Line, show

from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.lensing import Psf

EDGES = (0.0, 0.75, 1.0, 1.5, 2.0, 9.0)
"""arcsec: the strata of v5_cosmos_paired."""
ARC_RADIUS = (1.9, 2.9, 4.3, 5.7, 8.6)
CORE_FRACTION = {
    "first text": (41.0, 33.0, 23.0, 16.0, 7.7),
    "second text": (41.0, 30.0, 21.0, 15.0, 7.7),
}
ROUNDING = (0.29, 0.29, 0.29, 0.29, 0.029)
"""Percent: standard deviation of a number that was rounded to one, the last to a tenth."""
CORE_EXCESS = (69.0, 57.0, 51.0, 43.0, 22.0)
PROFILE = {0: 0.0049, 7: 0.0067, 17: 0.0019}
PROFILE_SAMPLES = 90
SLOPES = {"theta_e": (-0.006, 0.10), "flux": (0.0008, 0.52)}
SOURCE_SCATTER = 0.7
"""Relative scatter of source fluxes: magnitudes uniform over 2.5, as quoted."""
CORE_LIGHT, OUTER_LIGHT = 0.015, 0.00004

GRID = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5)
"""arcsec: the Einstein radii that the mean arc radii tell of; see :func:`grids`."""


# --- v5_cosmos_paired: which Einstein radii ---------------------------------------------------------


def by_stratum(theta_e: Floats) -> list[float]:
    """Mean Einstein radius of each stratum in pixels, where all values weigh the same."""
    return [
        float(theta_e[(theta_e >= a) & (theta_e < b)].mean() / PIXEL_SCALE)
        for a, b in pairwise(EDGES)
    ]


def grids(step: float = 0.25) -> tuple[list[tuple[float, ...]], int]:
    """Equal-weight grids from 0.5 to 2.5 arcsec that give the printed mean radii, and how many were tried."""
    values = np.arange(0.5, 2.5 + step / 2, step)
    fit, tried = [], 0
    for n in range(1, len(values) + 1):
        for chosen in combinations(values, n):
            means = np.array(
                [np.mean([v for v in chosen if a <= v < b] or [np.nan])
                 for a, b in pairwise(EDGES)]
            ) / PIXEL_SCALE  # fmt: skip
            if np.isnan(means).any():
                continue
            tried += 1
            if np.allclose(means, ARC_RADIUS, atol=0.05 + 1e-9, rtol=0):
                fit.append(tuple(float(v) for v in chosen))
    return fit, tried


# --- v5_cosmos_paired: the light of the arcs ------------------------------------------------------

MOFFATS = (0.7, 1.0, 1.3, 1.6, 2.0, 2.5, 3.1)
GAUSSIANS = (0.7, 1.0, 1.5, 2.2, 3.0)
PSFS = [Psf("moffat", fwhm=f, beta=3.5) for f in MOFFATS] + [
    Psf("gaussian", fwhm=f) for f in GAUSSIANS
]
SIZES = {"0.1-0.3": (0.1, 0.3), "0.2-0.5": (0.2, 0.5), "0.4-1": (0.4, 1.0), "0.6-1.5": (0.6, 1.5)}
"""arcsec: ranges of the semi-major half-light radius; the second is the quoted one."""

OFFSETS = {
    **{f"{v:g} arcsec": (v, False) for v in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0)},
    **{f"{v:g} theta_e": (v, True) for v in (0.2, 0.4, 0.7, 1.0, 1.4)},
}
"""Half widths of the square in which a source lies, and whether they are in units of theta_e."""

QUOTED = ("one sample", "0.2-0.5", "0.4 arcsec")
CONVERGED = ("converged", *QUOTED[1:])


def rings() -> Floats:
    """Weights (quantity, y, x) of light: in the core about 31.5 and about 32, in the stamp; means at 0, 7
    and 17 px and over 20-32 px; in a core of 4 px.
    """
    r = radius()
    masks = [r < CORE_RADIUS, radius(CENTRE + 0.5) < CORE_RADIUS, r >= 0]
    masks += [np.abs(r - at) < 0.75 for at in (0, 7, 17)] + [(r >= 20) & (r < 32)]
    weights = np.array(masks, dtype=float)
    weights[3:] /= weights[3:].sum(axis=(1, 2), keepdims=True)
    return np.concatenate([weights, [r < 4.0]])


def paired_draws(n: int, size: str, offset: str) -> Draws:
    """``n`` arcs of every Einstein radius of the grid; the same uniforms for all models."""
    half, scaled = OFFSETS[offset]
    theta_e = np.repeat(GRID, n)
    d = draw(theta_e, np.random.default_rng(5), reff=SIZES[size], offset=half)
    return d._replace(dx=d.dx * theta_e, dy=d.dy * theta_e) if scaled else d


def light(d: Draws, sampling: str) -> tuple[Floats, Floats]:
    """(arc, psf, quantity) of :func:`rings` for sources of 1 nMgy, and the magnifications."""
    weights = rings()
    out, gain = [], []
    if sampling == "converged":
        flat = weights.reshape(len(weights), -1).T
        for i in range(len(d.theta_e)):
            images, mu = fine(d.row(i), PSFS)
            out.append(images.reshape(len(PSFS), -1) @ flat)
            gain.append(mu)
        return np.array(out), np.array(gain)
    # What is asked is linear in the light and a PSF is symmetric: it may blur the question instead.
    transforms = kernels(PSFS)
    blurred = np.array([convolved(w, transforms) for w in weights])
    flat = np.moveaxis(blurred, 1, 0).reshape(len(PSFS) * len(weights), -1).T
    for i in range(len(d.theta_e)):
        lensed, _ = samples(d.row(i))
        out.append((lensed.ravel() @ flat).reshape(len(PSFS), len(weights)))
        gain.append(lensed.sum())
    return np.array(out), np.array(gain)


CORES = {0: "31.5", 1: "32", 7: "r < 4 px"}
"""Where the core may have been, by its place in :func:`rings`."""

NUMBERS = {"fractions": 5, "profile": 2, "excess": 4, "fractions, profile": 7, "all": 11}
"""What is fitted, and how many numbers that is."""

Model = tuple[str, str, str]
Library = dict[Model, tuple[Floats, Floats, Floats]]


def library(n: int) -> Library:
    """Arcs of every model: key (sampling, sizes, offset), value (theta_e, light, magnification)."""
    keys: list[Model] = [("one sample", size, offset) for size, offset in product(SIZES, OFFSETS)]
    out: Library = {}
    for key in keys:
        out[key] = (np.repeat(GRID, n), *light(paired_draws(n, *key[1:]), key[0]))
    few = max(n // 4, 5)
    out[CONVERGED] = (np.repeat(GRID, few), *light(paired_draws(few, *CONVERGED[1:]), "converged"))
    return out


def _stratum(theta_e: Floats) -> Floats:
    return np.digitize(theta_e, EDGES[1:-1])


def predicted(theta_e: Floats, arcs: Floats, core: int, mean_of: str) -> tuple[Floats, Floats]:
    """Fractions in percent (stratum, psf) and their scatter from one arc to the next."""
    share = 100.0 * arcs[:, :, core] / arcs[:, :, 2]
    k = _stratum(theta_e)
    mean = np.array([share[k == s].mean(axis=0) for s in range(5)])
    if mean_of == "light":
        mean = np.array(
            [
                100.0 * arcs[k == s, :, core].sum(axis=0) / arcs[k == s, :, 2].sum(axis=0)
                for s in range(5)
            ]
        )
    return mean, np.array([share[k == s].std(axis=0, ddof=1) for s in range(5)])


def profile(theta_e: Floats, arcs: Floats) -> tuple[Floats, Floats]:
    """Mean profile at theta_e >= 2: its centre and 17 px over 7 px, (2, psf); their errors at 90 arcs."""
    own = arcs[theta_e >= 2]
    rng = np.random.default_rng(3)
    ratios = own[:, :, [3, 5]].mean(axis=0) / own[:, :, [4]].mean(axis=0)
    boot = []
    for _ in range(200):
        pick = own[rng.integers(0, len(own), PROFILE_SAMPLES)]
        boot.append(pick[:, :, [3, 5]].mean(axis=0) / pick[:, :, [4]].mean(axis=0))
    return ratios.T, np.std(boot, axis=0).T


def excess(theta_e: Floats, arcs: Floats, core: int) -> tuple[Floats, Floats]:
    """ln of the mean core light of each stratum for one source flux, (stratum, psf); its error at 90 arcs."""
    k = _stratum(theta_e)
    mean = np.array([arcs[k == s, :, core].mean(axis=0) for s in range(5)])
    scatter = np.array([arcs[k == s, :, core].std(axis=0, ddof=1) for s in range(5)]) / mean
    return np.log(mean), np.hypot(scatter, SOURCE_SCATTER) / PROFILE_SAMPLES**0.5


def fits(models: Library, text: str) -> list[Line]:
    """chi^2 of every model over the width of its PSF, which is interpolated between those drawn."""
    seen = np.array(CORE_FRACTION[text])
    shape = np.array([PROFILE[0], PROFILE[17]]) / PROFILE[7]
    out = []
    for (sampling, size, offset), (theta_e, arcs, _) in models.items():
        ratios, ratio_error = profile(theta_e, arcs)
        n = int((theta_e == GRID[0]).sum())
        for core, mean_of in product(CORES, ("fractions", "light")):
            mean, scatter = predicted(theta_e, arcs, core, mean_of)
            for kind, widths, first in (
                ("moffat 3.5", MOFFATS, 0),
                ("gaussian", GAUSSIANS, len(MOFFATS)),
            ):
                at = np.linspace(widths[0], widths[-1], 200)
                own = slice(first, first + len(widths))

                def along(values: Floats, widths: Any = widths, at: Floats = at) -> Floats:
                    return np.array([np.interp(at, widths, v) for v in values])

                light_mean, light_error = excess(theta_e, arcs, core)
                parts = (mean, scatter, ratios, ratio_error, light_mean, light_error)
                m, s, q, e, c, ce = (along(v[:, own]) for v in parts)
                # Arcs of the data, arcs of the model, and rounding.
                error2 = s**2 * (1 / PROFILE_SAMPLES + 1 / n) + np.array(ROUNDING)[:, None] ** 2
                fractions = ((seen[:, None] - m) ** 2 / error2).sum(axis=0)
                profiles = (
                    (shape[:, None] - q) ** 2 / (e**2 * (1 + PROFILE_SAMPLES / (2 * n)) + 0.01**2)
                ).sum(axis=0)
                gap = np.log(CORE_EXCESS)[:, None] - c
                weight = 1 / (ce**2 * (1 + PROFILE_SAMPLES / n))
                gap = gap - (gap * weight).sum(axis=0) / weight.sum(axis=0)
                growths = (gap**2 * weight).sum(axis=0)
                for i, w in enumerate(at):
                    found = {
                        "fractions": fractions[i],
                        "profile": profiles[i],
                        "excess": growths[i],
                    }
                    found |= {"fractions, profile": fractions[i] + profiles[i]}
                    found |= {"all": fractions[i] + profiles[i] + growths[i]}
                    out.append(
                        {"sampling": sampling, "size": size, "offset": offset, "core": CORES[core],
                         "mean of": mean_of, "psf": kind, "fwhm": float(w),
                         **{k: float(v) for k, v in found.items()}}
                    )  # fmt: skip
    return out


def best(lines: list[Line], what: str, **fixed: Any) -> Line | None:
    """The model that leaves least of those that hold what is fixed; its width where chi^2 rises by 3.84."""
    own = [line for line in lines if all(line[k] == v for k, v in fixed.items())]
    if not own:
        return None
    least = min(own, key=lambda line: float(line[what]))
    same = [
        line["fwhm"]
        for line in own
        if line["psf"] == least["psf"] and line[what] < least[what] + 3.84
    ]
    return {**least, "lo": min(same), "hi": max(same)}


def stories(n: int) -> list[Line]:
    """Light in the core by stratum without what spreads it: the PSF, the size of the source, its offset.

    Beside the error of the arcs that were drawn stands the scatter of a mean of as many as were written.
    """
    quoted, points, wide = (0.2, 0.5), (0.02, 0.05), 0.7 * np.repeat(GRID, n)
    asked = {
        "as quoted": (quoted, 0.4, 1.3), "a sharp PSF": (quoted, 0.4, 0.3),
        "a small source": (points, 0.4, 1.3),
        "neither": (points, 0.4, 0.3), "no offset": (quoted, 0.0, 1.3),
        "offset 0.7 theta_e": (quoted, wide, 1.3), "offset 0.7 theta_e, a sharp PSF": (quoted, wide, 0.3),
        "offset 0.7 theta_e, a small source": (points, wide, 1.3),
    }  # fmt: skip
    theta_e = np.repeat(GRID, n)
    k, inside = _stratum(theta_e), radius() < CORE_RADIUS
    out = []
    for name, (reff, offset, fwhm) in asked.items():
        d = draw(theta_e, np.random.default_rng(5), reff=reff, offset=1.0)
        d = d._replace(dx=offset * d.dx, dy=offset * d.dy)
        psf = [Psf("moffat", fwhm=fwhm, beta=3.5)]
        arcs = np.array([fine(d.row(i), psf)[0][0] for i in range(len(theta_e))])
        share = 100.0 * arcs[:, inside].sum(axis=1) / arcs.sum(axis=(1, 2))
        mean = [float(share[k == s].mean()) for s in range(5)]
        scatter = [float(share[k == s].std(ddof=1)) for s in range(5)]
        error = [v / float((k == s).sum()) ** 0.5 for s, v in enumerate(scatter)]
        written = [v / PROFILE_SAMPLES**0.5 for v in scatter]
        out.append({"model": name, "core, %": mean, "+-": error, "+- of 90": written})
    return out


def quoted_numbers(models: Library, at: int) -> list[Line]:
    """What the quoted renderer gives, and a converged one, beside what was written."""
    out = []
    for key in (QUOTED, CONVERGED):
        theta_e, arcs, _ = models[key]
        mean, scatter = predicted(theta_e, arcs, 0, "fractions")
        ratios, _ = profile(theta_e, arcs)
        out.append(
            {"sampling": key[0], "core, %": mean[:, at].tolist(), "scatter, %": scatter[:, at].tolist(),
             "profile at 0 and 17 over 7 px": ratios[:, at].tolist()}
        )  # fmt: skip
    return out


def growth(models: Library, key: Model, at: int) -> Line:
    """Core light over that of ctrl by stratum, up to one factor: model against what was written down."""
    theta_e, arcs, gain = models[key]
    k = _stratum(theta_e)
    core = np.array([arcs[k == s, at, 0].mean() for s in range(5)])
    error = (
        np.array([arcs[k == s, at, 0].std(ddof=1) / (k == s).sum() ** 0.5 for s in range(5)]) / core
    )
    seen = np.array(CORE_EXCESS)
    factor = float(np.exp(np.log(seen / core).mean()))
    return {
        "magnification": [float(gain[k == s].mean()) for s in range(5)],
        "excess": [float(v) for v in core * factor],
        "relative error": [float(v) for v in error],
        "written": list(CORE_EXCESS),
    }


def regressions(models: Library, key: Model, at: int, spread: float) -> Line:
    """Core offset a pixel on theta_e and on total arc flux, where its mean is the written one.

    ``spread``: standard deviation in magnitudes of the source brightness beside what the magnification does.
    """
    theta_e, arcs, _ = models[key]
    rng = np.random.default_rng(6)
    many = 20
    bright = 10 ** (-0.4 * spread * rng.normal(size=many * len(theta_e)))
    core = np.tile(arcs[:, at, 0], many) * bright / (np.pi * CORE_RADIUS**2)
    total = np.tile(arcs[:, at, 2], many) * bright
    scale = CORE_LIGHT / core.mean()
    out: Line = {"spread": spread}
    for name, x in (("theta_e", np.tile(theta_e, many)), ("flux", total * scale)):
        slope = np.polyfit(x, core * scale, 1)[0]
        out[name] = (float(slope), float(np.corrcoef(x, core)[0, 1] ** 2))
    return out


def paired(n: int, console: Console) -> Line:
    """All that is asked of v5_cosmos_paired."""
    fit, tried = grids()
    laws = {"written": list(ARC_RADIUS)}
    fine_grid = np.linspace(0.5, 2.5, 200_001)[:-1]
    laws["uniform 0.5-2.5"] = by_stratum(fine_grid)
    laws["uniform in log"] = by_stratum(np.geomspace(0.5, 2.5, 200_001)[:-1])
    for chosen in fit:
        laws["grid " + " ".join(f"{v:g}" for v in chosen)] = by_stratum(np.array(chosen))
    show(console, f"Mean theta_e of a stratum in px ({len(fit)} of {tried} grids fit)",
          [{"law": k, "px": v} for k, v in laws.items()])  # fmt: skip
    models = library(n)
    figures: Line = {"radii": laws, "grids tried": tried, "fits": {}}
    for text in CORE_FRACTION:
        lines = fits(models, text)
        asked: dict[str, dict[str, str]] = {
            "any": {}, "as quoted": dict(zip(("sampling", "size", "offset"), QUOTED, strict=True)),
            "as quoted, converged": dict(zip(("sampling", "size", "offset"), CONVERGED, strict=True)),
            "moffat": {"psf": "moffat 3.5"}, "gaussian": {"psf": "gaussian"},
            **{f"core {v}": {"core": v} for v in CORES.values()},
            **{f"offset {v}": {"offset": v} for v in OFFSETS},
            **{f"R_e {v}": {"size": v} for v in SIZES},
        }  # fmt: skip
        found = []
        for what, numbers in NUMBERS.items():
            for name, fixed in asked.items():
                line = best(lines, what, **fixed)
                assert line is not None
                p = float(chi2.sf(line[what], numbers - 1))
                kept = {
                    k: line[k]
                    for k in ("size", "offset", "core", "mean of", "psf", "fwhm", "lo", "hi")
                }
                found.append({"fitted": what, "asked": name, **kept, "chi2": line[what], "p": p})
        for what in ("fractions", "all"):
            lines = [
                {k: v for k, v in f.items() if k != "fitted"} for f in found if f["fitted"] == what
            ]
            show(console, f"v5_cosmos_paired, {text}, {what}: the best of each kind", lines)
        figures["fits"][text] = found
    key, at = QUOTED, MOFFATS.index(1.3)
    figures["quoted"] = quoted_numbers(models, at)
    show(console, "As quoted, a Moffat of 1.3 arcsec", figures["quoted"])
    figures["stories"] = stories(max(n // 2, 5))
    show(
        console,
        "Light in the core by stratum, % (PSF of 1.3 arcsec, R_e 0.2-0.5)",
        figures["stories"],
    )
    figures["growth"] = growth(models, key, at)
    figures["slopes"] = [regressions(models, key, at, s) for s in (0.0, 0.5, 0.7, 1.0)]
    show(console, "Core light over that of ctrl, one free factor", [figures["growth"]])
    show(
        console,
        "Slopes of the core offset (written: theta_e -0.006, 0.10; flux 0.0008, 0.52)",
        figures["slopes"],
    )
    return figures
