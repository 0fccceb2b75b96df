"""The seed experiment's own numbers against models of how its arcs were drawn; see docs/studies/seed.md.

``python benchmarks/seed.py [--quick] [--json FILE]``. The numbers come from three data sets, which are
never fitted together. What is compared: a converged renderer and one sample a pixel, PSF profiles and
widths, source sizes, source offsets, the centre of the core, the quoted convolution.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from seed_arcs import (
    CENTRE,
    SIZE,
    Draws,
    Floats,
    convolved,
    draw,
    fine,
    kernels,
    moffat_kernel,
    quoted_convolution,
    samples,
)
from seed_paired import paired
from tabulate_lines import Line, show

from darkhaloscope.lensing import Psf

SAMPLE_PEAK, SAMPLE_FWHM, SAMPLE_THETA_E = (32, 21), 1.38, 2.0
QUADRANTS = (0.764, 0.480, 1.026, 0.688)
SHIFTS = ((0.03093, 0.03415, 0.04091), (0.01090, 0.01627, 0.02582), (-0.00597, 0.00131, 0.01365))

MAGNIFICATION = (0.10, 5.60, 212.6)
R_FLUX = (0.08, 4.62, 491.4)
MEAN_FLUX = (6.33, 7.24, 7.44)
FLUX_EDGES = (0.3, 0.5, 0.8, 1.0)


# --- one production sample -------------------------------------------------------------------------


def where_it_sends(y: int, x: int, shifted: bool = True) -> tuple[int, int]:
    """Peak (row, column) of a point at that pixel after the quoted convolution."""
    image = np.zeros((SIZE, SIZE))
    image[y, x] = 1.0
    out = quoted_convolution(image, moffat_kernel(SAMPLE_FWHM), shifted)
    row, column = np.unravel_index(int(out.argmax()), out.shape)
    return int(row), int(column)


def production(n: int) -> list[Line]:
    """Arcs of theta_e = 2 from the prior: how often they look like the sample, by each convolution."""
    out = []
    for name, offset in (
        ("0.4 arcsec", 0.4),
        ("0.4 theta_e", 0.4 * SAMPLE_THETA_E),
        ("0.7 theta_e", 1.4),
    ):
        theta_e = np.full(n, SAMPLE_THETA_E)
        d = draw(theta_e, np.random.default_rng(8), reff=(0.1, 0.5), offset=offset)
        out += [{"offset": name, **line} for line in like_the_sample(d)]
    return out


def like_the_sample(d: Draws) -> list[Line]:
    """What arcs look like, one sample a pixel, by a centred kernel and by the quoted function."""
    centred = kernels([Psf("moffat", fwhm=SAMPLE_FWHM, beta=3.5)])
    kernel = moffat_kernel(SAMPLE_FWHM)
    peak = np.array(SAMPLE_PEAK) - CENTRE
    written = np.sort(np.array(QUADRANTS) / sum(QUADRANTS))
    rows: dict[str, list[tuple[float, float, float]]] = {"centred": [], "quoted": []}
    for i in range(len(d.theta_e)):
        lensed, _ = samples(d.row(i))
        images = {
            "centred": convolved(lensed, centred)[0],
            "quoted": quoted_convolution(lensed, kernel),
        }
        for name, image in images.items():
            at = np.array(np.unravel_index(int(image.argmax()), image.shape)) - CENTRE
            q = np.sort(image.reshape(2, SIZE // 2, 2, SIZE // 2).sum(axis=(1, 3)).ravel())
            # Up to turns and mirrors of the stamp, which leave the distance of the peak.
            near = min(float(np.hypot(*(at - turned))) for turned in _turned(peak))
            rows[name].append(
                (float(np.hypot(*at)), near, float(np.abs(q / q.sum() - written).max()))
            )
    out = []
    for name, found in rows.items():
        at, near, balance = np.array(found).T
        out.append(
            {
                "convolution": name, "arcs": len(at),
                "peak radius, 5, 50, 95 %": np.percentile(at, (5, 50, 95)).tolist(),
                "as far out": int((at >= np.hypot(*peak)).sum()),
                "peak within 1.5 px": int((near <= 1.5).sum()),
                "quadrants within 0.05": int((balance <= 0.05).sum()),
                "both": int(((near <= 1.5) & (balance <= 0.05)).sum()),
            }
        )  # fmt: skip
    return out


def _turned(v: Floats) -> Iterator[Floats]:
    for a, b, swap in product((1, -1), (1, -1), (False, True)):
        w = np.array([a * v[0], b * v[1]])
        yield w[::-1] if swap else w


def shift_table() -> Line:
    """Gradient and curvature of the core of ctrl from the differences for a moved ctrl."""
    table = np.array(SHIFTS)
    gy, gx = (
        float(v) for v in ((table[2] - table[0]).mean() / 2, (table[:, 2] - table[:, 0]).mean() / 2)
    )
    cy = float((table[0] + table[2] - 2 * table[1]).mean())
    cx = float((table[:, 0] + table[:, 2] - 2 * table[:, 1]).mean())
    return {
        "gradient": (gy, gx),
        "curvature": (cy, cx),
        "extremum": (-gy / cy, -gx / cx),
        "unmoved": float(table[1, 1]),
    }


# --- v3_color_relaxed ------------------------------------------------------------------------------

V3: dict[str, tuple[float, bool, bool]] = {
    "as quoted": (0.4, False, False), "offset 0.3 arcsec": (0.3, False, False),
    "offset 0.3 theta_e": (0.3, True, False), "offset 0.4 theta_e": (0.4, True, False),
    "theta_e on the major axis": (0.4, False, True),
}  # fmt: skip
"""Half width of the source's square, whether it is in units of theta_e, and an SIE without sqrt(q)."""


def v3_draws(n: int, seed: int, offset: float, scaled: bool, major: bool) -> tuple[Floats, Draws]:
    """Recorded Einstein radii and what was drawn, from the quoted ranges."""
    rng = np.random.default_rng(seed)
    theta_e = rng.uniform(FLUX_EDGES[0], FLUX_EDGES[-1], n)
    d = draw(theta_e, rng, reff=(0.1, 0.5), offset=offset)
    if scaled:
        d = d._replace(dx=d.dx * theta_e, dy=d.dy * theta_e)
    if major:
        d = d._replace(theta_e=theta_e * np.sqrt(d.lens_q))
    return theta_e, d


def v3_light(d: Draws, sampling: str) -> tuple[Floats, Floats]:
    """Lensed flux of a source of 1 nMgy, and the magnification as it would have been written."""
    lensed, gain = np.empty(len(d.theta_e)), np.empty(len(d.theta_e))
    for i in range(len(lensed)):
        if sampling == "converged":
            gain[i] = lensed[i] = fine(d.row(i), [None])[1]
        else:
            image, unlensed = samples(d.row(i))
            lensed[i] = image.sum()
            gain[i] = lensed[i] / unlensed if unlensed > 0 else np.inf
    return lensed, gain


def magnifications(n: int) -> list[Line]:
    """Quantiles of the magnification and growth of the mean flux with theta_e, by model."""
    out = []
    for sampling, (name, changes) in product(("converged", "one sample"), V3.items()):
        if sampling == "converged" and name != "as quoted":
            continue
        many = n // 5 if sampling == "converged" else n
        theta_e, d = v3_draws(many, 9, *changes)
        lensed, gain = v3_light(d, sampling)
        k = np.digitize(theta_e, FLUX_EDGES[1:-1])
        means = np.array([lensed[k == s].mean() for s in range(3)])
        errors = np.array([lensed[k == s].std() / (k == s).sum() ** 0.5 for s in range(3)])
        out.append(
            {
                "sampling": sampling, "model": name, "arcs": many, "below 1": int((gain < 1).sum()),
                "least": float(gain.min()), "0.1 %": float(np.quantile(gain, 0.001)),
                "median": float(np.median(gain)), "99.9 %": float(np.quantile(gain, 0.999)),
                "largest": float(gain.max()), "growth": (means / means[0]).tolist(),
                "growth error": (means / means[0] * np.hypot(errors / means, errors[0] / means[0])).tolist(),
                "median over least, largest over median": [
                    float(np.median(lensed) / lensed.min()), float(lensed.max() / np.median(lensed))],
            }
        )  # fmt: skip
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer arcs: under 50 s")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args()
    console = Console(width=200)
    quick = given.quick
    figures = {"v5_cosmos_paired": paired(6 if quick else 30, console)}
    sends = {
        "(32, 32), as quoted": where_it_sends(32, 32), "(25, 30), as quoted": where_it_sends(25, 30),
        "(32, 32), without ifftshift": where_it_sends(32, 32, shifted=False),
    }  # fmt: skip
    show(console, "The quoted convolution", [{"pixel": k, "lands on": v} for k, v in sends.items()])
    arcs = production(200 if quick else 2000)
    show(console, "One production sample", arcs)
    show(console, "Core of ctrl from the moved differences", [shift_table()])
    figures["production sample"] = {"sends": sends, "arcs": arcs, "shifts": shift_table()}
    figures["v3_color_relaxed"] = magnifications(1000 if quick else 10_000)
    title = "v3_color_relaxed: magnification (written: 0.10, 5.60, 212.6), growth of flux (1, 1.14, 1.18)"
    show(console, title, figures["v3_color_relaxed"])
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
