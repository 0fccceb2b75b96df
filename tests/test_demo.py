"""The demo as a newcomer runs it: physics on a clean sky, a bug where the core got light."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from distributed import LocalCluster
from rich.console import Console

from darkhaloscope import commands


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> commands.Outcome:
    return commands.demo(str(tmp_path_factory.mktemp("demo")), console=Console(quiet=True))


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


def test_a_clean_experiment_is_physics(demo: commands.Outcome) -> None:
    assert demo.verdict["verdict"] == "physics", demo.verdict
    assert demo.exit_code == 0
    gates = {gate["name"]: gate for gate in demo.verdict["gates"]}
    assert gates["core_auc"]["value"] > 0.9, "small rings are visible in the core, and may be"
    assert gates["excess_auc"]["outcome"] == "pass"


def test_the_demo_holds_what_it_promises(demo: commands.Outcome) -> None:
    ds = xr.open_zarr(f"{demo.folder}/stamps.zarr")
    assert ds.sizes["pair"] >= 1000
    assert len(np.unique(ds.region_id.values.astype(object))) >= 24
    assert len(list((Path(demo.folder) / "blocks").glob("*.json"))) >= 16
    ok = ds.cutout_ok.values
    without_g = ok & (ds.coverage.values[:, 0] == 0)
    assert without_g.sum() > 50, "two bricks have no g"
    assert (ds.arc.values[without_g][:, 0] == 0).all()
    assert (ds.wise_brightmask_frac.values[ok] > 0).any()
    reasons = pd.read_parquet(f"{demo.folder}/audit/reasons.parquet")
    assert set(reasons["reason"]) == {"ok", "no_coverage"}
    splits = pd.DataFrame({"region": ds.region_id.values.astype(object), "s": ds.region_split})
    assert splits.groupby("region")["s"].nunique().max() == 1


@pytest.mark.long
def test_called_again_it_resumes(demo: commands.Outcome, no_pictures: None) -> None:
    shard = Path(demo.folder) / "stamps.zarr" / "arc" / "c" / "0" / "0" / "0" / "0"
    before = shard.stat().st_mtime_ns
    again = commands.demo(str(Path(demo.folder).parent), console=Console(quiet=True))
    assert again.verdict == demo.verdict
    assert shard.stat().st_mtime_ns == before


@pytest.mark.long
def test_light_added_while_injecting_is_a_bug_in_the_core(
    demo: commands.Outcome, scheduler: str, tmp_path: Path
) -> None:
    """Half a sky sigma in the central box of every arc, as a broken renderer would leave it."""
    url = f"{demo.folder}/stamps.zarr"
    source = xr.open_zarr(url).load()
    copy = tmp_path / "stamps.zarr"
    source.drop_encoding().to_zarr(copy, zarr_format=3)
    group = zarr.open_group(str(copy), mode="r+")
    injected = source.lens_model.values > 0
    cube = source.arc.values.copy()
    sigma = np.nan_to_num(source.sky_sigma.values[injected])[:, :, None, None]
    cube[injected, :, 27:37, 27:37] += (0.5 * sigma).astype("f4")
    group["arc"][:] = cube
    out = commands.audit_dataset(
        str(copy), out=str(tmp_path / "audit"), cluster=scheduler, console=Console(quiet=True)
    )
    assert out.verdict["verdict"] == "bug"
    assert out.exit_code == 1
    assert out.verdict["causes"][0]["name"] == "core_pedestal"
    assert "core" in out.sentence
