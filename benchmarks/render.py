"""How long an arc takes, against lenstronomy at the same accuracy: ``python benchmarks/render.py``.

The draws are the first of :mod:`truth`; one band, one thread. Every figure is a time on this machine.

For each draw lenstronomy climbs supersampling 1, 2, 3, 5, 8, 16, 32, at each first with the
convolution on pixels, then on the fine grid, and stops at the first setting whose flux in the stamp
is right to 1e-3, whose pixels to 1 % of the peak and whose centroid to 0.01 pixels. Where none is,
or the next needs more than 4 GB, its time at the highest tried is a lower bound. It averages over
the pixel and can do nothing else, so both sides do. What favours lenstronomy: its model, frame and
kernel (and the kernel's transform, which it keeps) are ready before its clock starts, and its kernel
is the smallest that loses no more than 2.5e-4 of the arc's flux. Our clock runs from the parameters
to the stamp, with the cache of PSF transforms emptied before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import numpy as np
import truth
from lenstronomy.Data.pixel_grid import PixelGrid
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util.param_util import phi_q2_ellipticity
from rich.console import Console
from rich.table import Table
from scipy.signal import fftconvolve
from threadpoolctl import threadpool_limits
from truth import Draw, Floats

from darkhaloscope.geometry import PIXEL_SCALE, pixel_to_sky
from darkhaloscope.lensing import (
    Psf,
    epl,
    kernel,
    psf_profile,
    sersic_b,
    sersic_profile,
    shear,
    sie,
    warm,
)
from darkhaloscope.lensing.psf import transfer

LADDER = (1, 2, 3, 5, 8, 16, 32)
ALLOWED = {"flux": 1e-3, "pixel": 0.01, "centroid": 0.01}
"""Relative error of the flux in the stamp; largest pixel error in peaks; pixels."""

PLAIN = 8
"""Supersampling that lenstronomy is used with where nobody climbs."""

KERNEL_LOSS = 2.5e-4
MEMORY_GB = 4.0
_BYTES_PER_RAY = 150
"""What lenstronomy was seen to need for a ray: 121 with an SIE, 145 with an EPL."""

REFF_EDGES = (0.05, 0.1, 0.2, 0.5)


# --- accuracy and time -------------------------------------------------------


def errors(image: Floats, right: Floats) -> dict[str, float]:
    """Relative error of the flux, largest pixel error in peaks, distance of the centroids."""
    return {
        "flux": float(abs(image.sum() / right.sum() - 1.0)),
        "pixel": float(np.abs(image - right).max() / right.max()),
        "centroid": float(np.hypot(*(truth.centroid(image) - truth.centroid(right)))),
    }


def meets(found: dict[str, float]) -> bool:
    return all(found[name] <= ALLOWED[name] for name in ALLOWED)


def timed(
    run: Callable[[], Floats],
    prepare: Callable[[], object] = lambda: None,
    enough_s: float = 0.3,
    repeats: int = 5,
) -> tuple[Floats, float]:
    """What ``run`` returns and its shortest time in seconds: of five, of fewer if it takes long."""
    best, spent, image = math.inf, 0.0, np.empty(0)
    for _ in range(repeats):
        prepare()
        start = time.perf_counter()
        image = run()
        took = time.perf_counter() - start
        best, spent = min(best, took), spent + took
        if spent > enough_s:
            break
    return image, best


# --- the naive way -----------------------------------------------------------


def sampled(draw: Draw, size: int, x: float, y: float) -> Floats:
    """Light at pixel centres times the pixel's area, no PSF: one ray a pixel."""
    axis = np.arange(size, dtype=float)
    east, north = pixel_to_sky(axis[None, :], axis[:, None], x, y)
    east, north = east - draw.lens_dx, north - draw.lens_dy
    if draw.slope == 2.0:
        pull = sie(east, north, draw.theta_e, draw.lens_q, draw.lens_pa)
    else:
        pull = epl(east, north, draw.theta_e, draw.lens_q, draw.lens_pa, draw.slope)
    push = shear(east, north, draw.gamma1, draw.gamma2)
    light = sersic_profile(
        east - pull[0] - push[0], north - pull[1] - push[1], truth.our_source(draw)
    )
    return light * PIXEL_SCALE**2


def naive(draw: Draw) -> Floats:
    """One ray a pixel, a stamp-sized kernel made to sum to 1, a transform without padding."""
    light = sampled(draw, draw.size, draw.x, draw.y)
    axis = np.fft.fftfreq(draw.size, 1.0 / draw.size) * PIXEL_SCALE
    blur = psf_profile(np.hypot(axis[None, :], axis[:, None]), truth.our_psf(draw))
    blur /= blur.sum()
    return np.fft.irfft2(np.fft.rfft2(light) * np.fft.rfft2(blur), s=light.shape)


# --- lenstronomy -------------------------------------------------------------


def kernel_half_width(draw: Draw) -> int:
    """Pixels on each side of the smallest kernel that loses at most 2.5e-4 of the stamp's flux."""
    margin = draw.size - 1
    frame = draw.size + 2 * margin
    light = sampled(draw, frame, draw.x + margin, draw.y + margin)
    full = kernel(truth.our_psf(draw, "integrate"), margin)
    stamp = slice(margin, margin + draw.size)

    def flux(half: int) -> float:
        cut = full[margin - half : margin + half + 1, margin - half : margin + half + 1]
        return float(fftconvolve(light, cut, mode="same")[stamp, stamp].sum())

    wanted = (1.0 - KERNEL_LOSS) * flux(margin)
    low, high = 0, margin
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if flux(middle) >= wanted else (middle, high)
    return high


@dataclass
class Lenstronomy:
    """lenstronomy's image of one draw, on a frame of stamp + kernel - 1 pixels a side."""

    draw: Draw
    margin: int

    @property
    def frame(self) -> int:
        return self.draw.size + 2 * self.margin

    def gigabytes(self, factor: int) -> float:
        return (self.frame * factor) ** 2 * _BYTES_PER_RAY / 1e9

    def _fine_kernel(self, psf: Psf, factor: int, fine: bool) -> Floats:
        if fine:
            half, step = self.margin * factor, PIXEL_SCALE / factor
            axis = np.arange(-half, half + 1) * step
            return psf_profile(np.hypot(axis[:, None], axis[None, :]), psf) * step**2
        if factor > 1:  # the light is averaged over the pixel already
            return kernel(psf, self.margin)
        # One ray a pixel: the average over the pixel is left to the kernel, 8 samples a side.
        side = 2 * self.margin + 1
        axis = ((np.arange(8 * side) + 0.5) / 8 - side / 2) * PIXEL_SCALE
        dense = psf_profile(np.hypot(axis[:, None], axis[None, :]), psf) * PIXEL_SCALE**2
        return dense.reshape(side, 8, side, 8).mean(axis=(1, 3))

    def runner(self, factor: int, fine: bool) -> Callable[[], Floats]:
        """A function of nothing that draws the stamp."""
        draw, margin = self.draw, self.margin
        psf = truth.our_psf(draw, "integrate")
        grid = PixelGrid(
            nx=self.frame,
            ny=self.frame,
            transform_pix2angle=np.array([[-PIXEL_SCALE, 0.0], [0.0, PIXEL_SCALE]]),
            ra_at_xy_0=(draw.x + margin) * PIXEL_SCALE,
            dec_at_xy_0=-(draw.y + margin) * PIXEL_SCALE,
        )
        blur = PSF(
            psf_type="PIXEL",
            kernel_point_source=self._fine_kernel(psf, factor, fine),
            point_source_supersampling_factor=factor if fine else 1,
            kernel_point_source_normalisation=False,
        )
        # theta_E, e1, e2 are the same in both; EPL_NUMBA has the slope as gamma.
        lens_e1, lens_e2 = phi_q2_ellipticity(math.radians(90.0 - draw.lens_pa), draw.lens_q)
        lens: dict[str, float] = {
            "theta_E": draw.theta_e,
            "e1": lens_e1,
            "e2": lens_e2,
            "center_x": draw.lens_dx,
            "center_y": draw.lens_dy,
        }
        if draw.slope != 2.0:
            lens["gamma"] = draw.slope
        outer = {
            "gamma1": draw.gamma1,
            "gamma2": draw.gamma2,
            "ra_0": draw.lens_dx,
            "dec_0": draw.lens_dy,
        }
        # Its b is a line fitted to the exact one: the same profile has another radius there.
        b, b_line = float(sersic_b(draw.n)), 1.9992 * draw.n - 0.3271
        source = truth.our_source(draw)
        centre = float(sersic_profile(draw.source_dx, draw.source_dy, source))
        e1, e2 = phi_q2_ellipticity(math.radians(90.0 - draw.source_pa), draw.source_q)
        light = {
            "amp": centre * math.exp(-b_line),
            "R_sersic": draw.reff * (b_line / b) ** draw.n,
            "n_sersic": draw.n,
            "e1": e1,
            "e2": e2,
            "center_x": draw.lens_dx + draw.source_dx,
            "center_y": draw.lens_dy + draw.source_dy,
        }
        model = ImageModel(
            grid,
            blur,
            lens_model_class=LensModel(["SIE" if draw.slope == 2.0 else "EPL_NUMBA", "SHEAR"]),
            source_model_class=LightModel(["SERSIC_ELLIPSE"]),
            kwargs_numerics={
                "supersampling_factor": factor,
                "supersampling_convolution": fine,
                # by default only the central 5 pixels of the kernel are supersampled
                "supersampling_kernel_size": None,
            },
        )
        stamp = slice(margin, margin + draw.size)
        return lambda: model.image([lens, outer], [light])[stamp, stamp]


def climb(
    peer: Lenstronomy, right: Floats, highest: int, plain: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """The first setting that is right enough, or the highest tried as a lower bound.

    ``plain`` holds what supersampling 8 has given already, by ``on`` and ``off``.
    """
    out: dict[str, Any] = {}
    for factor in LADDER:
        too_large = peer.gigabytes(factor) > MEMORY_GB
        if factor > highest or too_large:
            out["stopped_by"] = "memory" if too_large and factor <= highest else "option"
            break
        tried = []
        for fine in (False, True) if factor > 1 else (False,):
            if factor == PLAIN:
                found = plain["on" if fine else "off"]
            else:
                image, seconds = timed(peer.runner(factor, fine))
                found = {**errors(image, right), "ms": 1e3 * seconds}
            tried.append((found, fine))
            if meets(found):
                return {
                    **found,
                    "supersampling": factor,
                    "convolution": "on" if fine else "off",
                    "lower_bound": False,
                    "stopped_by": "accuracy",
                }
        found, fine = min(tried, key=lambda pair: pair[0]["ms"])
        out = {**found, "supersampling": factor, "convolution": "on" if fine else "off"}
    out["lower_bound"] = True
    out.setdefault("stopped_by", "ladder")
    return out


# --- one draw, all draws -----------------------------------------------------


def measure(draw: Draw, highest: int) -> dict[str, Any]:
    """Times in ms and accuracies of all renderers on one draw."""
    right = {p: truth.truth_of(draw, pixel=p).arc[0] for p in ("effective", "integrate")}
    row: dict[str, Any] = {"size": draw.size, "reff": draw.reff, "n": draw.n, "slope": draw.slope}
    for pixel in ("integrate", "effective"):
        image, seconds = timed(
            lambda pixel=pixel: truth.ours(draw, pixel).arc[0], transfer.cache_clear
        )
        row[f"ours_{pixel}"] = {**errors(image, right[pixel]), "ms": 1e3 * seconds}
    image, seconds = timed(lambda: naive(draw))
    row["naive"] = {**errors(image, right["effective"]), "ms": 1e3 * seconds}
    peer = Lenstronomy(draw, kernel_half_width(draw))
    row["kernel"] = 2 * peer.margin + 1
    plain = {}
    for name in ("off", "on"):
        image, seconds = timed(peer.runner(PLAIN, name == "on"))
        plain[name] = {**errors(image, right["integrate"]), "ms": 1e3 * seconds}
        row[f"lenstronomy_{PLAIN}_{name}"] = plain[name]
    row["lenstronomy"] = climb(peer, right["integrate"], highest, plain)
    row["ratio"] = row["lenstronomy"]["ms"] / row["ours_integrate"]["ms"]
    return row


RENDERERS = {
    "ours_integrate": "ours, integrate",
    "ours_effective": "ours, effective",
    "lenstronomy": "lenstronomy",
    "lenstronomy_8_on": "same at x8, fine",
    "lenstronomy_8_off": "same at x8, pixels",
    "naive": "naive",
}


def summarise(rows: list[dict[str, Any]], highest: int) -> dict[str, Any]:
    """The figures, by names that stay."""

    def of(name: str, key: str) -> Floats:
        return np.array([row[name][key] for row in rows])

    out: dict[str, Any] = {
        "draws": len(rows),
        "bands": 1,
        "threads": 1,
        "max_supersampling": highest,
        "machine": {"processor": platform.machine(), "python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "numba", "scipy", "lenstronomy")},
        "ratio_median": float(np.median([row["ratio"] for row in rows])),
        "lower_bounds": sum(row["lenstronomy"]["lower_bound"] for row in rows),
        "stopped_by_memory": sum(row["lenstronomy"]["stopped_by"] == "memory" for row in rows),
    }
    for name in ("on", "off"):
        ratios = of(f"lenstronomy_{PLAIN}_{name}", "ms") / of("ours_effective", "ms")
        out[f"ratio_to_{PLAIN}_{name}_median"] = float(np.median(ratios))
    for name in RENDERERS:
        out[name] = {"ms_median": float(np.median(of(name, "ms")))}
        for key in ALLOWED:
            out[name][f"{key}_median"] = float(np.median(of(name, key)))
            out[name][f"{key}_worst"] = float(of(name, key).max())
        out[name]["meets"] = sum(meets(row[name]) for row in rows)
    out["by_reff"] = []
    for low, high in itertools.pairwise(REFF_EDGES):
        inside = [row for row in rows if low <= row["reff"] < high]
        if inside:
            out["by_reff"].append(
                {
                    "reff_low": low,
                    "reff_high": high,
                    "draws": len(inside),
                    "ours_ms_median": float(
                        np.median([row["ours_integrate"]["ms"] for row in inside])
                    ),
                    "lenstronomy_ms_median": float(
                        np.median([row["lenstronomy"]["ms"] for row in inside])
                    ),
                    "supersampling_median": float(
                        np.median([row["lenstronomy"]["supersampling"] for row in inside])
                    ),
                    "ratio_median": float(np.median([row["ratio"] for row in inside])),
                    "lower_bounds": sum(row["lenstronomy"]["lower_bound"] for row in inside),
                }
            )
    out["per_draw"] = rows
    return out


def run(
    count: int, highest: int, console: Console | None = None, path: Path | None = None
) -> dict[str, Any]:
    """Measure the first ``count`` draws on one thread; ``path`` gets the figures after each."""
    rows: list[dict[str, Any]] = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        numba.set_num_threads(1)
        warm()
        for draw in truth.draws(2):  # compiles what lenstronomy compiles
            for slope in (2.0, 2.1):
                Lenstronomy(replace(draw, slope=slope), 5).runner(1, False)()
        for i, draw in enumerate(truth.draws(count)):
            rows.append(measure(draw, highest))
            if path is not None:
                path.write_text(json.dumps(summarise(rows, highest), indent=1) + "\n")
            if console is not None:
                found = rows[-1]["lenstronomy"]
                bound = ">" if found["lower_bound"] else ""
                console.print(
                    f"{i + 1}/{count}: supersampling {bound}{found['supersampling']} "
                    f"{found['convolution']}, ratio {bound}{rows[-1]['ratio']:.0f}",
                    style="dim",
                )
    return summarise(rows, highest)


def show(figures: dict[str, Any], console: Console) -> None:
    """Both tables and the ratios."""
    count = figures["draws"]
    table = Table(
        title=f"{count} draws, one band, one thread; errors: median, worst",
        caption="lenstronomy: the setting it stopped at. x8: supersampling 8, with the convolution on "
        "the fine grid or on pixels. naive: one ray a pixel, no padding. right: draws that are right "
        "to 1e-3 of the flux, 1 % of the peak, 0.01 pixels.",
    )
    for name in ("renderer", "ms", "flux", "pixel, peaks", "centroid, px", "right"):
        table.add_column(name, justify="left" if name == "renderer" else "right", no_wrap=True)
    for name, words in RENDERERS.items():
        row = figures[name]
        table.add_row(
            words,
            f"{row['ms_median']:.1f}",
            *(f"{row[f'{key}_median']:.0e} {row[f'{key}_worst']:.0e}" for key in ALLOWED),
            str(row["meets"]),
        )
    console.print(table)
    table = Table(title="by half-light radius; lower bounds: lenstronomy never right enough")
    for name in ("R_e, arcsec", "draws", "ours, ms", "lenstronomy, ms", "at", "ratio", "bounds"):
        table.add_column(name, justify="right")
    for row in figures["by_reff"]:
        table.add_row(
            f"{row['reff_low']:g} to {row['reff_high']:g}",
            str(row["draws"]),
            f"{row['ours_ms_median']:.1f}",
            f"{row['lenstronomy_ms_median']:.0f}",
            f"x{row['supersampling_median']:g}",
            f"{row['ratio_median']:.0f}",
            str(row["lower_bounds"]),
        )
    console.print(table)
    console.print(
        f"Median ratio of times at the same accuracy: {figures['ratio_median']:.0f}. In "
        f"{figures['lower_bounds']} of {count} draws it is a lower bound: nothing up to "
        f"supersampling {figures['max_supersampling']} was right enough"
        f" ({figures['stopped_by_memory']} stopped at {MEMORY_GB:g} GB).\n"
        f"Plain ratio to supersampling {PLAIN}, ours with an effective PSF: "
        f"{figures[f'ratio_to_{PLAIN}_on_median']:.0f} with convolution on the fine grid, "
        f"{figures[f'ratio_to_{PLAIN}_off_median']:.0f} on pixels.",
        highlight=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="8 draws, up to supersampling 8")
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--max-supersampling", type=int, choices=LADDER, default=LADDER[-1])
    parser.add_argument("--json", type=Path, help="write the figures there, after every draw")
    arguments = parser.parse_args()
    count, highest = arguments.draws, arguments.max_supersampling
    if arguments.quick:
        count, highest = min(count, 8), min(highest, PLAIN)
    console = Console()
    show(run(count, highest, console, arguments.json), console)


if __name__ == "__main__":
    main()
