"""Pairs on real pixels, unrounded: what the store's figures and its tests are measured on.

Stamps tile the real window of ``tests/data`` (256 pixels square, 16 stamps); every further 16 pairs are
the same pixels with other arcs. So no two of 16 neighbours overlap: a codec that looks for repeats would
find in overlapping stamps what a survey does not have. Arcs have ``source.mag`` 19 to 29, S/N from far
below 1 to thousands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from darkhaloscope.config import parse_experiment
from darkhaloscope.prepare import plan_of
from darkhaloscope.workflow import Work, inject_piece

DATA = Path(__file__).parents[1] / "tests" / "data" / "dr9"
BRICK = "0591m305"
WINDOW = (1880, 2540)
"""First row and column of the real pixels."""
TILES = 4
"""Stamps on a side of the window."""
SIZE = 64


def real_pairs(count: int, *, precision: str = "exact", seed: int = 3) -> xr.Dataset:
    """``count`` injections, all variables, in memory.

    ``precision`` is the experiment's ``store.precision``; the same seed gives the same pairs.
    """
    image = DATA / f"south/coadd/{BRICK[:3]}/{BRICK}/legacysurvey-{BRICK}-image-r.fits.fz"
    wcs = WCS(fits.getheader(image, 1))
    places = (
        np.arange(TILES) * SIZE + SIZE / 2 - 0.3
    )  # pixels of the window, between two of its own
    x, y = (axis.ravel() for axis in np.meshgrid(places, places))
    ra, dec = wcs.wcs_pix2world(WINDOW[1] + x, WINDOW[0] + y, 0)
    experiment = parse_experiment(
        {
            "seed": seed,
            "survey": {"root": str(DATA)},
            "targets": {"positions": np.stack([ra, dec], axis=1).tolist()},
            "plan": {"control_fraction": 0, "repeats": -(-count // TILES**2)},
            "lens": {"theta_e": {"uniform": [0.4, 2.2]}, "q": {"uniform": [0.6, 1.0]}},
            "source": {
                "mag": {"uniform": [19, 29]},
                "reff": {"uniform": [0.1, 0.5]},
                "dx": {"uniform": [-0.4, 0.4]},
                "dy": {"uniform": [-0.4, 0.4]},
            },
            "store": {"precision": precision},
        }
    )
    made = plan_of(experiment)
    parts = [
        inject_piece("", experiment, Work(brick, made.targets_of(brick), slice(None), False))[1]
        for brick in made.bricks
    ]
    cube = xr.concat(parts, dim="pair", data_vars="minimal", coords="minimal", compat="override")
    assert cube["cutout_ok"].values.all()
    return cube.isel(pair=slice(count))
