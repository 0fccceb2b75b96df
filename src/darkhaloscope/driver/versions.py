"""What decides bytes on a machine: this package's code, what it stands on, and the CPU baseline."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path

DECIDING_PACKAGES = (
    "dask", "distributed", "numba", "numcodecs", "numpy", "pandas", "pyarrow", "scipy", "zarr",
)  # fmt: skip

BASELINE = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NPY_DISABLE_CPU_FEATURES")
"""Variables of the environment that say which instructions are used: exp differs between them."""


def what_is_here() -> dict[str, str]:
    """Versions of what decides bytes, a digest of this package's code, and the CPU baseline."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in DECIDING_PACKAGES}
    baseline = {name: repr(os.environ.get(name)) for name in BASELINE}
    return {"code": digest.hexdigest()[:12], **versions, **baseline}


def unlike(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """What a worker has otherwise than the driver, as words; empty where all is alike."""
    return ", ".join(
        f"{k} {there.get(k)} (here {here[k]})" for k in here if there.get(k) != here[k]
    )
