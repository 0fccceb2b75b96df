"""Rows that do not say their host or region are no part of one: each counts as its own, and is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from darkhaloscope.audit import open_source, quality
from darkhaloscope.audit.measure import measure
from darkhaloscope.prepare import AuditSettings, spec_of_source

N, GONE = 40, (5, 12, 23, 38)
"""Rows, and those that do not say something; they lie in both splits."""


def rows() -> dict[str, np.ndarray]:
    """Twenty hosts of two rows in ten regions, half of them in either split."""
    number = np.arange(N)
    return {
        "target_id": number // 2,
        "region_id": np.array([f"region {i}" for i in number // 4]),
        "region_split": np.where(number < N // 2, "train", "test"),
        "theta_e": np.ones(N),
    }


def written(folder: Path, **columns: np.ndarray | None) -> str:
    sky = np.random.default_rng(1).normal(size=(N, 1, 24, 24)).astype("f4")
    said = {k: v for k, v in (rows() | columns).items() if v is not None}
    np.savez(folder / "x.npz", stamp=sky + 1, ctrl=sky, band=["r"], pixel_scale=0.2, **said)
    return str(folder / "x.npz")


def without(values: np.ndarray, fill: object) -> np.ndarray:
    out = values.astype(object)
    out[list(GONE)] = fill
    return np.array(out.tolist())


def place(name: str, fill: float = np.nan) -> np.ndarray:
    number = rows()["target_id"] if name == "ra" else np.zeros(N)
    return without(10.0 + number, fill)


NO_HOST, NO_REGION = (
    f"{what}: 4 rows say none in {{}}; each counts as one of its own" for what in ("host", "region")
)
PLACES = {"target_id": None, "ra": 10.0 + rows()["target_id"], "dec": np.zeros(N)}
LACKS: dict[str, tuple[dict[str, np.ndarray | None], list[str]]] = {
    "-1 for a target": (
        {"target_id": without(rows()["target_id"], -1)},
        [NO_HOST.format("target_id")],
    ),
    "NaN for a target": (
        {"target_id": without(rows()["target_id"], np.nan)},
        [NO_HOST.format("target_id")],
    ),
    "-1 for a host": (
        {"host_id": without(rows()["target_id"], -1)},
        [NO_HOST.format("host_id")],
    ),
    "no ra": (PLACES | {"ra": place("ra")}, [NO_HOST.format("ra and dec")]),
    "dec of -99": (PLACES | {"dec": place("dec", -99.0)}, [NO_HOST.format("ra and dec")]),
    "no region": (
        {"region_id": without(rows()["region_id"], "")},
        [NO_REGION.format("region_id")],
    ),
    "a blank region": (
        {"region_id": without(rows()["region_id"], "  ")},
        [NO_REGION.format("region_id")],
    ),
    "NaN as a region's number": (
        {"region_id": without(np.arange(N) // 4, np.nan)},
        [NO_REGION.format("region_id")],
    ),
    "no brick": (
        {"brick": without(rows()["region_id"], ""), "region_id": None},
        [NO_REGION.format("brick")],
    ),
}


@pytest.mark.parametrize("case", LACKS)
def test_rows_that_do_not_say_who_they_are_are_not_alike(case: str, tmp_path: Path) -> None:
    columns, wanted = LACKS[case]
    source = open_source(written(tmp_path, **columns))
    found = quality(source.columns, "r")
    of_host = wanted[0].startswith("host")
    assert (found.hosts_in_two_splits, found.regions_in_two_splits) == (0, 0)
    assert (found.hosts, found.regions) == ((24, 10) if of_host else (20, 14))
    spec = spec_of_source(source, AuditSettings())
    assert [note for note in spec.notes if "of its own" in note] == wanted
    blocks = xr.concat([source.block(r) for r in source.blocks(7)], "pair")
    for name in ("host_id", "region_id", "brick", "slot"):
        np.testing.assert_array_equal(blocks[name], source.columns[name])
    stats = measure(source.block(slice(0, N)), spec)
    kept = [len(np.unique(stats[name])) for name in ("row_host_id", "row_region")]
    assert kept == [found.hosts, found.regions]


def test_what_is_said_is_still_held_against_the_splits(tmp_path: Path) -> None:
    shared = without(rows()["target_id"], 7)
    found = quality(open_source(written(tmp_path, target_id=shared)).columns, "r")
    assert found.hosts_in_two_splits == 1


def test_cells_of_the_sky_are_no_regions_that_a_split_knew(tmp_path: Path) -> None:
    """All hosts in one cell of 0.25 deg, each in one split."""
    place = {"ra": 10.0 + 1e-3 * rows()["target_id"], "dec": np.full(N, 0.1)}
    source = open_source(written(tmp_path, region_id=None, target_id=None, **place))
    spec = spec_of_source(source, AuditSettings())
    found = quality(source.columns, "r", spec.lacks)
    assert (found.regions, found.regions_in_two_splits, found.hosts_in_two_splits) == (1, 0, 0)
    assert any(
        note.startswith("regions in more than one split: the set says no") for note in spec.notes
    )
    place["ra"] = np.repeat(10.0, N)
    source = open_source(written(tmp_path, region_id=None, target_id=None, **place))
    assert quality(source.columns, "r", spec.lacks).hosts_in_two_splits == 1
    brick = {"brick": np.repeat("0001p000", N), "region_id": None}
    source = open_source(written(tmp_path, **brick))
    spec = spec_of_source(source, AuditSettings())
    assert quality(source.columns, "r", spec.lacks).regions_in_two_splits == 1


def test_no_stand_in_is_the_number_of_a_real_host(tmp_path: Path) -> None:
    """Rows of a class without columns count as hosts of their own beside targets that are numbered."""
    sky = np.zeros((10, 24, 24), "f4")
    np.savez(tmp_path / "x.npz", lens=sky, nonlens=sky, target_id=np.arange(10) + 5)
    source = open_source(str(tmp_path / "x.npz"))
    assert quality(source.columns, "r").hosts == 20
    assert "host: 10 rows say none in target_id; each counts as one of its own" in source.record


def test_bricks_and_slots_that_are_not_said_make_no_row_another(tmp_path: Path) -> None:
    named = {"brick": without(rows()["region_id"], ""), "slot": without(np.arange(N), -1)}
    source = open_source(written(tmp_path, **named))
    names = set(zip(source.columns["brick"].values, source.columns["slot"].values, strict=True))
    assert len(names) == N
    for what in ("brick", "slot"):
        assert f"{what}: 4 rows say none in {what}; each counts as one of its own" in source.record
