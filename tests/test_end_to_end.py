"""The whole path on real pixels: files in, data set and verdict out, as a user runs it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from distributed import LocalCluster
from rich.console import Console

from darkhaloscope import audit, cluster, commands, report
from darkhaloscope.errors import Incomplete, UserError

pytestmark = pytest.mark.usefixtures("no_pictures")

ROOT = Path(__file__).parents[1]
EXPERIMENT = str(ROOT / "workflows" / "real-brick.yaml")
SMALL = {"plan.repeats": 1, "lens.theta_e": [0.8, 1.6], "targets.positions": []}
"""Ten rows: enough to see bytes, too few for statistics."""


@pytest.fixture(scope="module")
def quiet() -> Console:
    return Console(quiet=True)


@pytest.fixture(scope="module")
def scheduler(s3_server: str) -> Iterator[str]:
    """A running scheduler with two workers, as ``--cluster tcp://…`` expects one."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def real_run(
    scheduler: str, tmp_path_factory: pytest.TempPathFactory, quiet: Console
) -> commands.Outcome:
    out = str(tmp_path_factory.mktemp("real") / "run")
    return commands.run(EXPERIMENT, out=out, cluster=scheduler, console=quiet)


def digests(url: str) -> dict[str, str]:
    """sha256 of every object below a folder, by its path."""
    fs, path = fsspec.url_to_fs(url)
    found = fs.find(path)
    return {name[len(path) :]: hashlib.sha256(fs.cat_file(name)).hexdigest() for name in found}


def test_real_brick_closes_but_one_region_is_not_enough(real_run: commands.Outcome) -> None:
    gates = {gate["name"]: gate["outcome"] for gate in real_run.verdict["gates"]}
    closure = {name: out for name, out in gates.items() if name.startswith("closure_")}
    assert closure
    assert set(closure.values()) == {"pass"}, real_run.verdict
    assert gates["core_auc"] == "not_enough"
    assert real_run.verdict["verdict"] == "undecided"
    assert real_run.exit_code == 3


def test_the_data_set_opens_with_plain_xarray(real_run: commands.Outcome) -> None:
    ds = xr.open_zarr(f"{real_run.folder}/stamps.zarr")
    planned = pd.read_parquet(f"{real_run.folder}/plan")
    assert ds.sizes["pair"] == len(planned)
    np.testing.assert_array_equal(ds.slot.values, planned["slot"])
    assert (ds.reason.values == 1).all()
    assert ds.cutout_ok.values.all()
    injected = ds.lens_model.values > 0
    for name in ("arc_snr", "magnification"):
        assert np.isfinite(ds[name].values[injected]).all()
        assert np.isnan(ds[name].values[~injected]).all()
    assert (ds.arc.values[~injected] == 0).all()
    assert (ds.theta_e.values[~injected] == 0).all()


def test_the_run_folder_is_complete(real_run: commands.Outcome) -> None:
    folder = Path(real_run.folder)
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["schema"] == 1
    assert set(verdict) >= {"verdict", "sentence", "causes", "gates", "pairs", "not_tested"}
    assert (folder / "audit" / "quality.parquet").exists()
    html = (folder / "report.html").read_text()
    assert real_run.sentence.split()[0] in html
    assert "<script" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert not list(folder.rglob("*.partial"))


def test_local_and_s3_are_the_same_bytes(scheduler: str, tmp_path: Path, quiet: Console) -> None:
    s3 = fsspec.filesystem("s3")
    s3.put(str(ROOT / "tests" / "data" / "dr9"), "dhs-test/dr9", recursive=True)
    local = commands.run(
        EXPERIMENT, out=str(tmp_path / "run"), cluster=scheduler, overrides=SMALL, console=quiet
    )
    remote = commands.run(
        EXPERIMENT,
        out=f"s3://dhs-test/{tmp_path.name}",
        cluster=scheduler,
        overrides={**SMALL, "survey.root": "s3://dhs-test/dr9"},
        console=quiet,
    )
    on_disk = digests(f"{local.folder}/stamps.zarr")
    assert len(on_disk) > 60
    assert digests(f"{remote.folder}/stamps.zarr") == on_disk
    assert remote.verdict == local.verdict
    assert fsspec.filesystem("s3").exists(remote.report)


@pytest.mark.long
def test_mixed_kinds_are_run_resumed_and_drawn_again(
    scheduler: str, tmp_path: Path, quiet: Console
) -> None:
    changed = {
        **SMALL,
        "plan.repeats": 2,
        "plan.control_fraction": 0.2,
        "lens.model": {"SIE": 1, "EPL": 1},
        "lens.slope": 2.2,
        "source.model": ["sersic", "point", "bulge_disc", "image"],
        "source.catalogue": str(ROOT / "tests" / "data" / "cosmos" / "catalogue.fits"),
    }
    out = str(tmp_path / "run")

    def go() -> commands.Outcome:
        return commands.run(
            EXPERIMENT, out=out, cluster=scheduler, overrides=changed, console=quiet
        )

    first = go()
    ds = xr.open_zarr(f"{out}/stamps.zarr")
    assert set(ds.src_model.values) == {0, 1, 2, 3, 4}
    assert set(ds.lens_model.values) == {0, 2, 3}
    np.testing.assert_array_equal(np.isfinite(ds.lens_slope.values), ds.lens_model.values == 3)
    assert not [text for text in first.verdict["not_tested"] if "drawn again" in text]
    before = digests(f"{out}/stamps.zarr")
    assert go().verdict == first.verdict
    assert digests(f"{out}/stamps.zarr") == before
    other = {**changed, "lens.slope": 2.3}
    with pytest.raises(UserError, match=r"lens\.slope"):
        commands.run(EXPERIMENT, out=out, cluster=scheduler, overrides=other, console=quiet)


@pytest.mark.parametrize("size", [64, pytest.param(96, marks=pytest.mark.long)])
def test_stamp_size_is_a_key(scheduler: str, tmp_path: Path, quiet: Console, size: int) -> None:
    changed = {**SMALL, "stamp.size": size}
    out = commands.run(
        EXPERIMENT, out=str(tmp_path / "run"), cluster=scheduler, overrides=changed, console=quiet
    )
    ds = xr.open_zarr(f"{out.folder}/stamps.zarr")
    assert ds.arc.shape[-2:] == (size, size)
    assert ds.cutout_ok.values.all()
    middle = (size - 1) / 2
    assert (np.abs(ds.target_x.values - middle) <= 0.5).all()
    assert (np.abs(ds.target_y.values - middle) <= 0.5).all()


def test_one_worker_and_two_give_the_same_bytes(
    real_run: commands.Outcome, tmp_path: Path, quiet: Console
) -> None:
    alone = commands.run(EXPERIMENT, out=str(tmp_path / "run"), workers=1, console=quiet)
    assert digests(f"{alone.folder}/stamps.zarr") == digests(f"{real_run.folder}/stamps.zarr")
    assert alone.verdict == real_run.verdict


def test_resume_makes_only_what_is_missing(
    real_run: commands.Outcome,
    scheduler: str,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(real_run.folder, folder)
    kept = folder / "stamps.zarr" / "arc" / "c" / "0" / "0" / "0" / "0"
    before = kept.stat().st_mtime_ns
    (folder / "blocks" / "000001.json").unlink()
    (folder / "stamps.zarr" / "arc" / "c" / "1" / "0" / "0" / "0").write_bytes(b"half a sha")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scrapes: list[str] = []
    for module, name in ((audit, "conclude"), (report, "write_report")):  # late steps
        scraping = _scraped_before(getattr(module, name), port, scrapes)
        monkeypatch.setattr(module, name, scraping)
    again = commands.run(
        EXPERIMENT, out=str(folder), cluster=scheduler, metrics_port=port, console=quiet
    )
    for page, stage in zip(scrapes, ("audit", "report"), strict=True):
        assert f'darkhaloscope_stage{{stage="{stage}"}} 1.0' in page
        assert 'darkhaloscope_rows_total{reason="ok"} 240.0' in page
    assert digests(str(folder / "stamps.zarr")) == digests(f"{real_run.folder}/stamps.zarr")
    assert kept.stat().st_mtime_ns == before
    assert again.verdict == real_run.verdict


def _scraped_before(call: Callable[..., Any], port: int, scrapes: list[str]) -> Callable[..., Any]:
    def scraping(*args: Any, **options: Any) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            scrapes.append(page.read().decode())
        return call(*args, **options)

    return scraping


def test_killed_run_resumes_to_the_same_bytes(real_run: commands.Outcome, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "darkhaloscope", "run", EXPERIMENT, "--out", str(folder)]
    killed = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if list((folder / "blocks").glob("*.json")) or killed.poll() is not None:
                break
            time.sleep(0.1)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 3, again.stdout + again.stderr
    assert "report:" in again.stdout
    assert "dashboard:" in again.stdout
    for part in ("stamps.zarr", "plan", "blocks"):
        assert digests(str(folder / part)) == digests(f"{real_run.folder}/{part}"), part


def test_another_experiment_is_refused_and_named(
    real_run: commands.Outcome, scheduler: str, quiet: Console
) -> None:
    before = digests(real_run.folder)
    with pytest.raises(UserError, match=r"another experiment: psf\.beta \(3\.5 -> 2\.5\) changed"):
        commands.run(
            EXPERIMENT,
            out=real_run.folder,
            cluster=scheduler,
            overrides={"psf.beta": 2.5},
            console=quiet,
        )
    assert digests(real_run.folder) == before


def test_audit_of_the_finished_run_says_the_same(
    real_run: commands.Outcome, scheduler: str, tmp_path: Path, quiet: Console
) -> None:
    again = commands.audit_dataset(
        real_run.folder, out=str(tmp_path / "audit"), cluster=scheduler, console=quiet
    )
    assert again.verdict == real_run.verdict
    assert again.exit_code == real_run.exit_code


@pytest.mark.parametrize("sky_sigmas", [0.1, pytest.param(5.0, marks=pytest.mark.long)])
def test_light_added_to_the_core_is_a_bug_and_is_placed(
    real_run: commands.Outcome, scheduler: str, tmp_path: Path, quiet: Console, sky_sigmas: float
) -> None:
    shutil.copytree(Path(real_run.folder) / "stamps.zarr", tmp_path / "stamps.zarr")
    group = zarr.open_group(str(tmp_path / "stamps.zarr"), mode="r+")
    arc, injected = group["arc"], group["lens_model"][:] > 0
    cube = arc[:]
    sigma = group["sky_sigma"][:][injected][:, :, None, None]
    cube[injected, :, 27:37, 27:37] += np.float32(sky_sigmas * sigma)
    arc[:] = cube
    out = commands.audit_dataset(
        str(tmp_path / "stamps.zarr"),
        out=str(tmp_path / "audit"),
        cluster=scheduler,
        console=quiet,
    )
    assert out.verdict["verdict"] == "bug"
    assert out.exit_code == 1
    assert "core" in out.sentence
    assert out.verdict["causes"][0]["name"] == "core_pedestal"


def test_an_unfinished_run_is_not_audited(
    real_run: commands.Outcome, tmp_path: Path, quiet: Console
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(real_run.folder, folder)
    shutil.rmtree(folder / "stamps.zarr" / "reason" / "c")
    with pytest.raises(Incomplete, match="240 of 240 rows"):
        commands.audit_dataset(str(folder), console=quiet)


def test_a_finished_block_that_lost_an_object_is_an_error(
    real_run: commands.Outcome, scheduler: str, tmp_path: Path, quiet: Console
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(real_run.folder, folder)
    shard = folder / "stamps.zarr" / "arc" / "c" / "2" / "0" / "0" / "0"
    whole = shard.read_bytes()
    shard.unlink()
    with pytest.raises(UserError, match=r"block 2 of .* arc/c/2/0/0/0 is missing; dhs repair"):
        commands.run(EXPERIMENT, out=str(folder), cluster=scheduler, console=quiet)
    assert not (folder / "verdict.json").exists(), "no verdict over a broken data set"
    shard.write_bytes(whole[:100])
    with pytest.raises(UserError, match="has 100 bytes"):
        commands.run(EXPERIMENT, out=str(folder), cluster=scheduler, console=quiet)
    with pytest.raises(UserError, match="has 100 bytes"):
        commands.audit_dataset(str(folder), cluster=scheduler, console=quiet)
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(UserError, match="cannot be decoded"):
        commands.audit_dataset(str(folder), cluster=scheduler, console=quiet)
    (folder / "blocks" / "000002.json").unlink()
    again = commands.run(EXPERIMENT, out=str(folder), cluster=scheduler, console=quiet)
    assert again.verdict == real_run.verdict
    assert shard.read_bytes() == whole


def test_damage_is_verified_repaired_and_made_again(
    real_run: commands.Outcome, scheduler: str, tmp_path: Path, quiet: Console
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(real_run.folder, folder)
    shard = folder / "stamps.zarr" / "ctrl" / "c" / "1" / "0" / "0" / "0"
    whole = bytearray(shard.read_bytes())
    whole[1000] ^= 1
    shard.write_bytes(whole)
    shutil.rmtree(folder / "plan")
    found = commands.verify(str(folder), console=quiet)
    gone = {f"plan/{block:06d}.parquet" for block in range(found.blocks) if block != 1}
    assert {(f.block, f.where) for f in found.findings} == {
        (1, "ctrl"), *((None, part) for part in gone)
    }  # fmt: skip
    assert commands.repair(str(folder), console=quiet).blocks == (1,)
    assert not (folder / "verdict.json").exists(), "no verdict over a part of a data set"
    again = commands.run(EXPERIMENT, out=str(folder), cluster=scheduler, console=quiet)
    assert again.verdict == real_run.verdict
    for part in ("stamps.zarr", "blocks", "plan"):
        assert digests(str(folder / part)) == digests(f"{real_run.folder}/{part}")
    assert commands.verify_exit_code(commands.verify(str(folder), console=quiet)) == 0


def test_a_scheduler_that_is_not_there_begins_nothing(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", "300ms")
    with pytest.raises(UserError, match="cannot reach"):
        commands.run(
            EXPERIMENT, out=str(tmp_path / "run"), cluster="tcp://127.0.0.1:9", console=quiet
        )
    assert not (tmp_path / "run").exists()
