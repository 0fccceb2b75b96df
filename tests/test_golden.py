"""The same experiment still gives the same bytes, and every allowed zarr writes them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import golden
import pytest

from darkhaloscope.config.sections import PIXEL_VERSION

OLDEST = {"zarr": "3.1.0", "numcodecs": "0.16.1"}
"""The oldest that pyproject.toml allows; numcodecs 0.15 has an older zstd, which writes other bytes."""

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or "NUMBA_CPU_NAME" not in os.environ,
    reason="no CPU baseline is set: `make test` sets one on x86-64",
)


@pytest.fixture(scope="module")
def now() -> dict[str, str]:
    return golden.checksums()


def test_the_same_experiment_gives_the_same_bytes(now: dict[str, str]) -> None:
    stored = golden.read()
    again = "run `python tests/golden.py` under the baseline of the Makefile and commit golden.json"
    assert stored["pixel_version"] == PIXEL_VERSION, f"PIXEL_VERSION was raised: {again}"
    moved = sorted(key for key, value in stored["objects"].items() if now.get(key, value) != value)
    assert not moved, (
        f"{len(moved)} objects are not what they were ({', '.join(moved[:5])}). If you meant to change "
        "pixels or rows, raise PIXEL_VERSION in src/darkhaloscope/config/sections.py, then "
        f"{again}; if not, find what moved them (golden.json was written with {stored['libraries']})."
    )
    assert set(now) == set(stored["objects"]), f"variables came or went: {again}"


def test_a_moved_pixel_is_seen(now: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkhaloscope.inject.CTRL_STEPS_PER_SIGMA", 32)
    changed = {key.split("/")[1] for key, value in golden.checksums().items() if now[key] != value}
    assert changed == {"ctrl"}


@pytest.mark.long
def test_the_oldest_allowed_zarr_writes_the_same_files(now: dict[str, str], tmp_path: Path) -> None:
    """The installed one is the newest that pip found; the oldest is laid before it on the path."""
    wanted = [f"{name}=={version}" for name, version in OLDEST.items()]
    wanted.append("crc32c")  # which that zarr needs
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(tmp_path), *wanted], check=True)
    code = (
        "import json, zarr, numcodecs, golden; "
        "print(json.dumps([zarr.__version__, numcodecs.__version__, golden.checksums()]))"
    )
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tmp_path), str(tests), str(tests.parent / "src")])
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    zarr_version, numcodecs_version, theirs = json.loads(child.stdout.splitlines()[-1])
    assert {"zarr": zarr_version, "numcodecs": numcodecs_version} == OLDEST
    assert theirs == now
