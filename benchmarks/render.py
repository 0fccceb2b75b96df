"""How long an arc takes, against lenstronomy at the same accuracy: ``python benchmarks/render.py``.

The draws are the first of :mod:`truth`; one band, one thread. Every time is of the processor, not of
the clock: on a shared machine a run of seconds is interrupted and the best of five short ones is not,
so that the clock would favour us.

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
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import numpy as np
import truth
from peers import Lenstronomy, kernel_half_width, naive
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from truth import Draw, Floats

from darkhaloscope.lensing import warm
from darkhaloscope.lensing.psf import transfer

LADDER = (1, 2, 3, 5, 8, 16, 32)
ALLOWED = {"flux": 1e-3, "pixel": 0.01, "centroid": 0.01}
"""Relative error of the flux in the stamp; largest pixel error in peaks; pixels."""

PLAIN = 8
"""Supersampling that lenstronomy is used with where nobody climbs."""

MEMORY_GB = 4.0

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
    """What ``run`` returns and its shortest processor time, s: of five, of fewer if it takes long."""
    best, spent, image = math.inf, 0.0, np.empty(0)
    for _ in range(repeats):
        prepare()
        start = time.process_time()
        image = run()
        took = time.process_time() - start
        best, spent = min(best, took), spent + took
        if spent > enough_s:
            break
    return image, best


# --- one draw, all draws -----------------------------------------------------


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

    ratios = [row["ratio"] for row in rows]
    out: dict[str, Any] = {
        "draws": len(rows),
        "bands": 1,
        "threads": 1,
        "max_supersampling": highest,
        "machine": {"processor": platform.machine(), "python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "numba", "scipy", "lenstronomy")},
        "ratio_median": float(np.median(ratios)),
        "ratio_quartiles": [float(np.quantile(ratios, part)) for part in (0.25, 0.75)],
        "lower_bounds": sum(row["lenstronomy"]["lower_bound"] for row in rows),
        "stopped_by_memory": sum(row["lenstronomy"]["stopped_by"] == "memory" for row in rows),
    }
    for name in ("on", "off"):
        plain = of(f"lenstronomy_{PLAIN}_{name}", "ms") / of("ours_effective", "ms")
        out[f"ratio_to_{PLAIN}_{name}_median"] = float(np.median(plain))
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
        f"Median ratio of times at the same accuracy: {figures['ratio_median']:.0f}, quartiles "
        f"{' and '.join(f'{ratio:.0f}' for ratio in figures['ratio_quartiles'])}. In "
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
