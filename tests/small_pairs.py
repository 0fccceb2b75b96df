"""A small data set of known pixels, for whoever reads one: no sky, no renderer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from darkhaloscope import storage, store
from darkhaloscope.errors import Reason
from darkhaloscope.geometry import nea_pixels
from darkhaloscope.store import Layout, attributes
from darkhaloscope.variables import SPLITS, numpy_dtype, variables_of

BANDS = ("g", "r", "z")
SIZE, BLOCK, SIGMA = 16, 64, 0.01
IDENTITY = "11" * 32


def small_pairs(
    rows: int = 640, *, seed: int = 0, kinds: tuple[str, ...] = (), size: int = SIZE
) -> xr.Dataset:
    """Rows of ten to a region, every fourth a control; noise of SIGMA with a galaxy, and a ring.

    With core-matched negatives every other control is one. Two thirds of the regions are train, the
    others val and test; the first row of each region is in the guard.
    """
    rng = np.random.default_rng(seed)
    n = np.arange(rows)
    sizes = {"pair": rows, "band": len(BANDS), "y": size, "x": size}
    columns: dict[str, Any] = {}
    for v in variables_of(kinds):
        shape = tuple(sizes[dim] for dim in v.dims)
        fill = "" if v.dtype == "str" else v.fill
        columns[v.name] = (v.dims, np.full(shape, fill, dtype=numpy_dtype(v)))
    cube = xr.Dataset(columns, coords={"band": np.array(BANDS, dtype=object)})
    injected = n % 4 != 3
    region = n // 10
    split = np.array([0, 0, 1, 0, 0, 2])[region % 6]
    split[n % 10 == 0] = SPLITS.index("guard")
    x, y = rng.uniform(-0.5, 0.5, (2, rows)) + (size - 1) / 2
    pixel = np.arange(size)
    r = np.hypot(pixel - x[:, None, None], pixel[:, None] - y[:, None, None])
    cube["ctrl"].values[:] = rng.normal(0, SIGMA, cube["ctrl"].shape)
    cube["ctrl"].values[:] += (0.5 * np.exp(-0.5 * r**2))[:, None]
    ring = 5 * SIGMA * np.exp(-0.5 * (r - size / 4) ** 2)
    cube["arc"].values[injected] = ring[injected, None]
    text = {"brick": [f"b{k}" for k in region], "region_id": [f"r{k}" for k in region]}
    for name, values in text.items():
        cube[name].values[:] = values
    cube["fix"].values[:] = "none"
    snr = np.sqrt((cube["arc"].values[:, 1].astype(float) ** 2).sum((1, 2))) / SIGMA
    numbers: dict[str, Any] = {
        "slot": n, "target_id": n, "host_id": n // 2, "region_split": split, "target_x": x, "target_y": y,
        "lens_model": np.where(injected, 2, 0), "theta_e": np.where(injected, 1.0, 0.0),
        "arc_snr": np.where(injected, snr, np.nan), "bad_pixel_frac": 0.0, "cutout_ok": True,
        "reason": Reason.OK, "coverage": 1.0, "psf_source": 0, "sky_sigma": SIGMA,
        "psfsize": rng.uniform(1.0, 1.6, (rows, 3)),
    }  # fmt: skip
    numbers["psfdepth"] = 1 / (SIGMA**2 * nea_pixels(numbers["psfsize"]))
    for name, value in numbers.items():
        cube[name].values[:] = value
    cube["psf_fwhm_used"].values[injected] = cube["psfsize"].values[injected]
    if "core_matched" in kinds:
        matched = n % 8 == 7
        cube["negative_kind"].values[:] = np.where(injected, 0, np.where(matched, 2, 1))
        cube["extra"].values[matched] = (0.2 * np.exp(-0.5 * r[matched] ** 2))[:, None]
        cube["partner"].values[matched] = n[matched] - 1
    return cube


def write_pairs(folder: Path | str, cube: xr.Dataset, kinds: tuple[str, ...] = ()) -> str:
    """The data set below a folder, as a run leaves it; gives the folder."""
    splits = {"train": 0.7, "val": 0.15, "test": 0.15}
    rows, size = cube.sizes["pair"], cube.sizes["x"]
    layout = Layout(rows, BLOCK, BANDS, size, attributes(IDENTITY, 7, splits), kinds)
    objects = store.metadata_objects(layout)
    for block in range(layout.blocks):
        part = cube.isel(pair=layout.rows_of(block))
        objects |= {
            k: v for k, v in store.encode_block(layout, block, part).items() if v is not None
        }
    storage.write_all(storage.join(str(folder), store.STAMPS), objects)
    return str(folder)
