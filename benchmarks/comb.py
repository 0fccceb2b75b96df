"""What the store's rounding tells of an image's class: ``python benchmarks/comb.py``.

A run at the default precision on a synthetic sky, each brick a region; every image of every row is read by
the loader of detectors, as stored and dithered. Two readers see pixels of the outer annulus with data where
the arc of the row is fainter than 1e-3 of the sky sigma: the share of pixels that are exact multiples of the
recorded step, and how sharp the comb is, |mean exp(2 pi i pixel / step)|, which needs no exact multiple. The
AUC of each with its interval over resampled regions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from distributed import Client, LocalCluster
from numpy.typing import NDArray
from rich.console import Console
from store import table

from darkhaloscope import driver, prepare, store, survey
from darkhaloscope.audit.intervals import RegionAuc
from darkhaloscope.config import parse_experiment
from darkhaloscope.detect.loader import Loader
from darkhaloscope.geometry import radius_map, stamp_centre
from darkhaloscope.survey.bricks import brick_centre
from darkhaloscope.views import STAMP, Reading, rounding_step
from darkhaloscope.views.pixels import outer_annulus

BRICKS, PER_BRICK = {True: 24, False: 60}, {True: 6, False: 16}
"""Regions, and pairs of each, for ``--quick`` and without."""
SIZE, BRICK_SIZE = 64, 192
FAINT = 1e-3
"""Sky sigma below which there is no arc."""
FEWEST = 32
"""Pixels of an image below which it is not read."""


def make_run(folder: Path, bricks: int, per_brick: int) -> str:
    """A finished run of injections at the default precision, faint arcs and bright ones."""
    sky = survey.make_sky(str(folder / "sky"), bricks=bricks, size=BRICK_SIZE, seed=3)
    rng = np.random.default_rng(5)
    rows = []
    for brick in sky.bricks:
        ra, dec = (float(v) for v in brick_centre(brick))
        for x, y in rng.uniform(-12, 12, (per_brick, 2)) / 3600:
            rows.append({"brick": brick, "ra": ra + x / np.cos(np.deg2rad(dec)), "dec": dec + y})
    pd.DataFrame(rows).to_csv(folder / "targets.csv", index=False)
    experiment = parse_experiment(
        {
            "name": "comb",
            "survey": {"root": str(folder / "sky"), "bands": ["g", "r", "z"]},
            "targets": {"path": str(folder / "targets.csv")},
            "stamp": {"size": SIZE},
            "plan": {"control_fraction": 0},
            "lens": {"theta_e": {"uniform": [0.4, 2.0]}},
            "source": {"mag": {"uniform": [20.0, 27.0]}},
        }
    )  # fmt: skip
    plan = prepare.plan_of(experiment)
    layout = prepare.layout_of(plan)
    spec = prepare.spec_of(experiment, prepare.planned_strata(plan), n_regions=bricks)
    run = str(folder / "run")
    document = experiment.identity_document(plan.contents)
    store.create_run(run, layout, experiment.to_yaml(), document, "0")
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as one,
        Client(one) as client,
    ):  # fmt: skip
        driver.run_blocks(client, run, plan, layout, spec, lambda block, was_there: None)
    return run


def readers(
    images: NDArray[Any], step: NDArray[np.float64], seen: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """What a simple reader says of each image, (image,): larger is more of a comb; NaN with few pixels.

    Parameters
    ----------
    images : ndarray (image, band, y, x)
    step : ndarray (image, band)
        nMgy.
    seen : ndarray of bool (image, band, y, x)
    """
    count = seen.sum((1, 2, 3))
    known = np.where(
        step > 0, step, 1.0
    )  # a band without data has no step, and no pixel that is seen
    turns = images.astype(float) / known[:, :, None, None]
    exact = ((turns == np.rint(turns)) & seen).sum((1, 2, 3)) / np.maximum(count, 1)
    phase = np.where(seen, np.exp(2j * np.pi * turns), 0.0)
    sharp = np.abs(phase.sum((1, 2, 3))) / np.maximum(count, 1)
    found = {"exact multiples": exact, "sharpness": sharp}
    return {name: np.where(count >= FEWEST, value, np.nan) for name, value in found.items()}


def measure(run: str, *, inner: float | None = None) -> list[dict[str, Any]]:
    """AUC of each reader (more of a comb: ctrl), as stored and dithered, of every row of the run.

    ``inner`` is where the annulus begins, in pixels; by default where views have it.
    """
    columns = store.open_dataset(run)
    rows = np.flatnonzero(columns["cutout_ok"].values & (columns["lens_model"].values > 0))
    arc = columns["arc"].values[rows]
    sigma = columns["sky_sigma"].values[rows]
    size = arc.shape[-1]
    radius = radius_map(size, stamp_centre(size), stamp_centre(size))
    ends = outer_annulus(size) if inner is None else (inner, size / 2)
    bits = (np.uint8(1) << np.arange(arc.shape[1], dtype=np.uint8))[:, None, None]
    empty = (columns["nodata"].values[rows][:, None] & bits) != 0
    seen = ~empty & ((radius >= ends[0]) & (radius < ends[1]))
    seen &= np.abs(arc) < FAINT * sigma[:, :, None, None]
    step = rounding_step(sigma)
    region = columns["region_id"].values[rows].astype(object)
    lines = []
    for dither in (False, True):
        reading = Reading(
            quality="all", normalize="raw", augment=False, dither=dither, batch_size=64
        )
        loader = Loader(run, reading, split="train", seed=1)
        batches = list(loader.in_order(rows))
        image = np.concatenate([b.image.numpy() for b in batches])
        shown = np.concatenate([b.images.numpy() for b in batches])
        stamps, ctrls = (readers(shown[image == k], step, seen) for k in (STAMP, 1 - STAMP))
        for name in stamps:
            read = np.isfinite(stamps[name]) & np.isfinite(ctrls[name])
            found = RegionAuc(ctrls[name][read], stamps[name][read], region[read], seed=1)
            lo, hi = found.interval()
            lines.append(
                {
                    "read": "dithered" if dither else "as stored", "reader": name, "auc": found.value,
                    "lo": lo, "hi": hi, "pairs": int(read.sum()), "regions": found.n_regions,
                    "of_stamps": float(np.median(stamps[name][read])),
                    "of_ctrls": float(np.median(ctrls[name][read])),
                }
            )  # fmt: skip
    return lines


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs: under 50 s")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), BRICKS[options.quick], PER_BRICK[options.quick])
        lines = measure(run)
    Console(width=160).print(table("AUC of ctrl over stamp, outer annulus without arc", lines))
    if options.json:
        options.json.write_text(json.dumps({"comb": lines}, indent=1))


if __name__ == "__main__":
    main()
