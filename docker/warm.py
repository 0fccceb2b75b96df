"""Fills numba's cache while the image is built: with what small runs of every kind compile."""

from __future__ import annotations

import importlib.resources
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from darkhaloscope import commands, lensing

SHAPE = {"reff": {"uniform": [0.1, 0.5]}, "q": 0.7, "pa": {"uniform": [0, 180]}}
BULGE = {"bulge_fraction": 0.3, "bulge_reff": 0.08, "bulge_n": {"uniform": [2.0, 4.0]}}
KINDS: list[dict[str, Any]] = [
    {"psf.model": "moffat"},
    {"psf.model": "gaussian", "lens.model": "EPL", "lens.slope": {"uniform": [1.8, 2.2]}},
    {"source": {"model": "point", "mag": 21.0}},
    {"psf.model": "gaussian", "source": {"model": "bulge_disc", "mag": 21.0, **SHAPE, **BULGE}},
    {"source": {"model": "image", "mag": 22.0}},
]
"""The demo's experiment with keys replaced, so that each kind of PSF, lens and source is drawn."""


def catalogue(folder: Path) -> str:
    """Two galaxies in the form of GalSim's catalogues."""
    y, x = np.mgrid[:32, :32] - 15.5
    image = np.exp(-np.hypot(x, 1.5 * y) / 4).astype("f4")
    fits.HDUList([fits.PrimaryHDU(image), fits.ImageHDU(image.T)]).writeto(folder / "images.fits")
    rows = {
        "IDENT": [1, 2],
        "MAG": [21.5, 22.0],
        "GAL_FILENAME": ["images.fits"] * 2,
        "GAL_HDU": [0, 1],
        "PIXEL_SCALE": [0.03, 0.03],
        "flux_radius": [6.0, 7.0],
    }
    Table(rows).write(folder / "catalogue.fits")
    return str(folder / "catalogue.fits")


def main() -> None:
    lensing.warm()
    demo = str(importlib.resources.files("darkhaloscope") / "demo.yaml")
    with tempfile.TemporaryDirectory() as folder:
        root, table = f"{folder}/sky", f"{folder}/targets.parquet"
        commands.sky(root, bricks=2, size=256)
        commands.targets([f"{root}/south"], table)
        galaxies = catalogue(Path(folder))
        for number, kind in enumerate(KINDS):
            if kind.get("source", {}).get("model") == "image":
                kind["source"]["catalogue"] = galaxies
            commands.run(
                demo,
                out=f"{folder}/{number}",
                workers=1,
                overrides={
                    "survey.root": root,
                    "targets.path": table,
                    "audit.cap": 100,
                    "audit.closure": 30,
                    **kind,
                },
            )
    compiled = list(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbc"))
    print(f"{len(compiled)} compiled functions")


if __name__ == "__main__":
    main()
