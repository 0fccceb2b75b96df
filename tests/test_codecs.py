"""What rounding and compression promise, on real pixels: few bytes, no bias, no arc lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import store as benchmark
import xarray as xr
from astropy.io import fits
from pairs import BRICK, DATA, SIZE, TILES, WINDOW, real_pairs

from darkhaloscope.geometry import radius_map
from darkhaloscope.store import Layout, attributes, decode_block, encode_block
from darkhaloscope.variables import VARIABLES

PAIRS = 128
LAYOUT = Layout(PAIRS, PAIRS, ("g", "r", "z"), SIZE, attributes("a" * 64, 1, {}))


@pytest.fixture(scope="module")
def exact() -> xr.Dataset:
    return real_pairs(PAIRS)


@pytest.fixture(scope="module")
def rounded() -> xr.Dataset:
    return real_pairs(PAIRS, precision="rounded")


def test_exact_keeps_every_bit_of_the_survey(exact: xr.Dataset) -> None:
    back = decode_block(LAYOUT, 0, encode_block(LAYOUT, 0, exact))
    for variable in VARIABLES:
        assert (back[variable.name].values.tobytes() == exact[variable.name].values.tobytes()) or (
            variable.dtype == "str"
        ), variable.name
    for b, band in enumerate("grz"):
        path = DATA / f"south/coadd/{BRICK[:3]}/{BRICK}/legacysurvey-{BRICK}-image-{band}.fits.fz"
        with fits.open(path) as file:
            pixels = file[1].section[
                WINDOW[0] : WINDOW[0] + TILES * SIZE, WINDOW[1] : WINDOW[1] + TILES * SIZE
            ]
        tiles = back["ctrl"].values[: TILES**2, b].reshape(TILES, TILES, SIZE, SIZE)
        mosaic = tiles.swapaxes(1, 2).reshape(TILES * SIZE, TILES * SIZE)
        np.testing.assert_array_equal(mosaic, pixels)


def test_bytes_of_a_pair(rounded: xr.Dataset) -> None:
    """Every other row a control, as the seed's mix, no overlap among stamps of a chunk."""
    mixed = rounded.copy(deep=True)
    mixed["arc"].values[::2] = 0
    encoded = encode_block(LAYOUT, 0, mixed)
    pixels = sum(len(encoded[f"{name}/c/0/0/0/0"] or b"") for name in ("ctrl", "arc"))
    assert pixels <= 0.30 * (mixed["ctrl"].nbytes + mixed["arc"].nbytes)
    assert sum(len(data or b"") for data in encoded.values()) <= 0.30 * 2 * mixed["ctrl"].nbytes


def sky_errors(exact: xr.Dataset, rounded: xr.Dataset) -> np.ndarray:
    """What rounding did to each sky pixel, in sky sigma; each real pixel once."""
    error = rounded["ctrl"].values[: TILES**2].astype(float) - exact["ctrl"].values[: TILES**2]
    return error / exact["sky_sigma"].values[: TILES**2, :, None, None]


def test_the_sky_is_not_moved(exact: xr.Dataset, rounded: xr.Dataset) -> None:
    error = sky_errors(exact, rounded)
    assert np.abs(error).max() <= 1 / 32 + 1e-6
    assert (np.abs(error.mean(axis=(0, 2, 3))) < 1e-3).all()
    outer = radius_map(SIZE, 31.5, 31.5) >= 20
    annulus = error[..., outer].mean(axis=(0, 2))
    assert (np.abs(annulus) < 1e-3).all()
    # And the annulus of a stamp: arcs round relatively, so the sum of both is what an audit sees.
    both = (rounded["arc"].values.astype(float) - exact["arc"].values)[..., outer]
    sigma = exact["sky_sigma"].values
    assert (np.abs((both.mean(axis=2) / sigma).mean(axis=0)) < 1e-3).all()


@pytest.mark.parametrize(("low", "high"), [(0, 2), (2, 10), (10, 100), (100, 1e9)])
def test_the_flux_of_an_arc_is_not_moved(
    exact: xr.Dataset, rounded: xr.Dataset, low: float, high: float
) -> None:
    snr = exact["arc_snr"].values
    chosen = (snr >= low) & (snr < high)
    assert chosen.sum() >= 8, "the sample must reach into every bin"
    flux = [cube["arc"].values[chosen].sum(axis=(2, 3), dtype=float) for cube in (exact, rounded)]
    moved = np.abs(flux[1] / flux[0] - 1)
    assert np.quantile(moved, 0.99) < 1e-4


def test_an_absolute_step_would_lose_faint_arcs(exact: xr.Dataset) -> None:
    """Why the arc is rounded relatively: the test above can fail."""
    faint = exact["arc_snr"].values < 2
    arc = exact["arc"].values[faint]
    coarse = benchmark.steps(arc, exact["sky_sigma"].values[faint])
    moved = np.abs(coarse.sum(axis=(2, 3), dtype=float) / arc.sum(axis=(2, 3), dtype=float) - 1)
    assert np.quantile(moved, 0.99) > 0.05


def test_the_benchmark_and_its_names(
    tmp_path: Path, exact: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "figures.json"
    monkeypatch.setattr(benchmark, "real_pairs", lambda count: exact.isel(pair=slice(16)))
    monkeypatch.setattr(benchmark, "CODECS", {benchmark.DEFAULT: benchmark.blosc(1)})
    monkeypatch.setattr(benchmark, "LOADER", {True: (64, 1)})
    monkeypatch.setattr(benchmark, "BATCH", 32)
    monkeypatch.setattr(benchmark, "INNER", (8, 32))
    monkeypatch.setattr(sys, "argv", ["store.py", "--quick", "--json", str(out)])
    benchmark.main()
    figures = json.loads(out.read_text())
    assert set(figures) == {"pairs", "codecs", "loader", "flux", "sky", "audit"}
    assert {row["rounding"] for row in figures["codecs"]} == {
        rounding.name for rounding in benchmark.ROUNDINGS
    }
    assert [row["inner"] for row in figures["loader"]] == [8, 32]
    for row in figures["codecs"]:
        assert 0 < row["share_half"] < row["share"] < 1.1
