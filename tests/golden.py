"""The objects of two tiny runs on real pixels, as checksums: ``python tests/golden.py`` writes them.

They say that the same experiment still gives the same bytes. The script refuses to replace a checksum
under the same ``PIXEL_VERSION``: a change that moves a pixel or a row raises it first. It must run under
the CPU baseline of the Makefile.
"""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr

from darkhaloscope import prepare, store, workflow
from darkhaloscope.config.sections import PIXEL_VERSION

ROOT = Path(__file__).parents[1]
EXPERIMENT = str(ROOT / "workflows" / "real-brick.yaml")
GOLDEN = ROOT / "tests" / "data" / "golden.json"
RUNS = {
    "rounded": {"stamp.size": 32, "plan.repeats": 1, "lens.theta_e": [0.7, 1.5]},
    "exact": {
        "stamp.size": 32, "plan.repeats": 1, "lens.theta_e": 1.1, "store.precision": "exact",
        "psf.model": "gaussian", "psf.pixel": "integrate", "fix.core_mask": {"radius_px": 3.0},
    },
}  # fmt: skip
LIBRARIES = ("numpy", "numba", "scipy", "zarr", "numcodecs")


def checksums() -> dict[str, str]:
    """sha256 of every object of the first block of each run, by run and key."""
    found = {}
    for name, changes in RUNS.items():
        exp = prepare.experiment_of(EXPERIMENT, changes)
        made = prepare.plan_of(exp)
        cubes = [
            workflow.inject_piece("", exp, work)[1]
            for work in workflow.work_of(made, made.pieces(0), frozenset())
        ]
        cube = xr.concat(
            cubes, dim="pair", data_vars="minimal", coords="minimal", compat="override"
        )
        assert np.isfinite(cube["arc"].values).all()
        for key, data in store.encode_block(prepare.layout_of(made), 0, cube).items():
            found[f"{name}/{key}"] = hashlib.sha256(data or b"").hexdigest()
    return found


def read() -> dict[str, object]:
    """What ``tests/data/golden.json`` holds: version, libraries, objects."""
    return json.loads(GOLDEN.read_text())


def main() -> None:
    """Write the checksums of now, or say why not."""
    now = checksums()
    if GOLDEN.exists():
        before = read()
        moved = [key for key, value in before["objects"].items() if now.get(key, value) != value]
        if moved and before["pixel_version"] == PIXEL_VERSION:
            sys.exit(
                f"{', '.join(moved[:5])} changed: raise PIXEL_VERSION in "
                "src/darkhaloscope/config/sections.py first"
            )
    libraries = {name: version(name) for name in LIBRARIES}
    content = {"pixel_version": PIXEL_VERSION, "libraries": libraries, "objects": now}
    GOLDEN.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
