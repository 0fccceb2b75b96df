"""The benchmark runs and its figures keep their names. No time is asserted."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import loader as loading
import numpy as np
import pytest
import read as reading
import render as benchmark
import run as running
import truth
from astropy.io import fits
from rich.console import Console

from darkhaloscope.survey import Survey, make_sky, read_cutouts
from darkhaloscope.survey.bricks import brick_centre, brick_name
from darkhaloscope.survey.files import keys_of

RENDERERS = {
    "ours_integrate",
    "ours_effective",
    "lenstronomy",
    "lenstronomy_8_on",
    "lenstronomy_8_off",
    "naive",
}
FIGURES = {
    "draws",
    "bands",
    "threads",
    "max_supersampling",
    "machine",
    "ratio_median",
    "ratio_quartiles",
    "lower_bounds",
    "stopped_by_memory",
    "ratio_to_8_on_median",
    "ratio_to_8_off_median",
    "by_reff",
    "per_draw",
} | RENDERERS


def test_the_figures_and_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["render.py", "--quick", "--draws", "2", "--json", str(out)])
    benchmark.main()
    figures = json.loads(out.read_text())
    assert set(figures) == FIGURES
    assert figures["draws"] == len(figures["per_draw"]) == 2
    assert figures["max_supersampling"] == 8
    assert sum(row["draws"] for row in figures["by_reff"]) == 2
    for name in RENDERERS:
        row = figures[name]
        for key in ("flux", "pixel", "centroid"):
            assert math.isfinite(row[f"{key}_median"])
            assert 0.0 <= row[f"{key}_median"] <= row[f"{key}_worst"]
        assert row["ms_median"] > 0.0
    assert figures["ours_integrate"]["meets"] == figures["ours_effective"]["meets"] == 2
    assert figures["naive"]["pixel_worst"] > 0.01
    assert math.isfinite(figures["ratio_median"])


@pytest.mark.filterwarnings("ignore:.axes. should not be:DeprecationWarning")
def test_lenstronomy_is_set_up_right() -> None:
    """On a smooth arc, with the lens of either kind, it agrees with the integrator at x5."""
    for slope in (2.0, 2.2):
        draw = replace(
            truth.draws(1)[0],
            theta_e=1.2, slope=slope, reff=0.5, n=1.0, source_q=0.8, source_dx=0.4, source_dy=-0.5,
            nea_fwhm=1.3, moffat_beta=3.5, size=64, x=31.7, y=31.2,
        )  # fmt: skip
        right = truth.truth_of(draw, pixel="integrate").arc[0]
        peer = benchmark.Lenstronomy(draw, 31)
        for fine in (False, True):
            found = benchmark.errors(peer.runner(5, fine)(), right)
            assert benchmark.meets(found), (slope, fine, found)
        assert not benchmark.meets(benchmark.errors(np.roll(right, 1, axis=1), right))


@pytest.mark.filterwarnings("ignore:.axes. should not be:DeprecationWarning")
def test_a_climb_that_ends_nowhere_is_a_lower_bound() -> None:
    """By the option, by memory, or with an accuracy that is met."""
    draw = truth.draws(1)[0]
    right = truth.truth_of(draw, pixel="integrate").arc[0]
    peer = benchmark.Lenstronomy(draw, 10)
    low = benchmark.climb(peer, right, 2, {})
    assert (low["lower_bound"], low["supersampling"], low["stopped_by"]) == (True, 2, "option")
    huge = benchmark.Lenstronomy(draw, 2000)
    assert huge.gigabytes(3) > benchmark.MEMORY_GB
    met = benchmark.climb(peer, peer.runner(1, False)(), 32, {})
    assert (met["lower_bound"], met["supersampling"], met["stopped_by"]) == (False, 1, "accuracy")


def test_tables_are_printed_from_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    figures = benchmark.run(1, 1)
    assert figures["lower_bounds"] == 1
    benchmark.show(figures, Console(width=100))
    assert "lower bound" in capsys.readouterr().out


@pytest.mark.long
def test_reading_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways of reading a brick give the same pixels; ranges take less bytes in few requests."""
    out = tmp_path / "figures.json"
    options = ["--quick", "--side", "900", "--targets", "3", "--many", "40"]
    options += ["--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["read.py", *options])
    reading.main()
    figures = json.loads(out.read_text())
    assert set(figures) == {"targets", "bricks", "lines", "many"}
    assert set(figures["many"]["memory"]) == {"whole", "ranges"}
    assert set(figures["lines"]) == {"loopback", "30 ms, 40 MB/s"}
    for found in figures["lines"].values():
        assert set(found) == {"whole", "ranges", "auto", "astropy"}
        assert all(row["same_pixels"] for row in found.values())
        assert found["ranges"]["of_whole"] < 0.5 < found["whole"]["of_whole"] == 1
        assert found["ranges"]["requests_per_file"] <= 60


def test_bricks_that_stand_for_others_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers, which look at headers, take them; their pixels are the models', byte by byte."""
    monkeypatch.setattr(running, "PER_BRICK", 2)
    made = make_sky(str(tmp_path / "sky"), bricks=2, size=192, lrgs=4.0)
    raw = {"disable_image_compression": True}
    for model in made.bricks:  # checksums, as files of releases have them
        with fits.open(made.survey.url("invvar", model, "g"), "update", **raw) as hdus:
            hdus[1].add_checksum()
    rows = running.lay_out(tmp_path / "sky", tmp_path / "bricks", 3)
    names = running.names(3)
    assert rows["brick"].tolist() == [name for name in names for _ in range(2)]
    np.testing.assert_array_equal(brick_name(rows["ra"], rows["dec"]), rows["brick"])
    survey = Survey(str(tmp_path / "bricks"))
    models = [sorted(made.bricks)[i] for i in (0, 1, 0)]
    for model, name in zip(models, names, strict=True):
        mine = rows[rows["brick"] == name]
        found = read_cutouts(survey, name, mine["ra"], mine["dec"], running.SIZE)
        assert found.ok.all(), found.notes
        assert (found.coverage > 0).all()
        for kind, band in keys_of(survey):
            file, of = (
                Path(s.url(kind, n, band)) for s, n in ((survey, name), (made.survey, model))
            )
            assert file.stat().st_size == of.stat().st_size
            with fits.open(file) as new, fits.open(of) as old:
                assert new[1].header["BRICK"] == name
                assert new[1].header["CRVAL1"] == float(brick_centre(name)[0])
                for one, other in zip(new[1:], old[1:], strict=True):
                    np.testing.assert_array_equal(one.data, other.data)
        with fits.open(survey.url("invvar", name, "g"), **raw) as hdus:
            assert hdus[1].verify_checksum() == hdus[1].verify_datasum() == 1  # there, and right


@pytest.mark.long
def test_a_run_and_its_kernels_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On disk and S3: no row fails, pixels and arcs are right, figures keep their names."""
    out = tmp_path / "figures.json"
    monkeypatch.setattr(running, "SIDE", 900)
    monkeypatch.setattr(running, "BLOCK", {True: 64})
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--json", str(out)])
    running.main()
    figures = json.loads(out.read_text())
    assert set(figures) == {"version", "block", "per_brick", "local", "accuracy", "s3", "put"}
    for place in ("local", "s3"):
        row = figures[place]
        assert set(row) == {
            "rows", "bricks", "visits", "failed", "wall_s", "cpu_s", "rows_per_cpu_s", "worker_mib",
            "kernels_cpu_s", "whole_over_sum", "bytes_per_pair", "of_raw", "target", "of_seed",
            "sent_of_raw",
        }  # fmt: skip
        assert (row["rows"], row["failed"]) == (64, 0)
        assert set(row["kernels_cpu_s"]) == set(running.KERNELS)
        assert row["worker_mib"] < 1536
    assert figures["local"]["bytes_per_pair"] == figures["s3"]["bytes_per_pair"]
    put = figures["put"]
    assert put["in_turn_s"] > put["objects"] * put["latency_s"]
    right = figures["accuracy"]
    assert right["ctrl_steps"] <= 0.5
    assert right["arc_flux"] < 1e-3
    assert right["arc_pixel"] < 1e-2


@pytest.mark.long
def test_loading_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All formats give the same batches; memory does not follow the rows; figures keep their names."""
    out = tmp_path / "figures.json"
    monkeypatch.setattr(loading, "UNIQUE", {True: 16})
    monkeypatch.setattr(sys, "argv", ["loader.py", "--quick", "--json", str(out)])
    loading.main()
    figures = json.loads(out.read_text())
    assert set(figures) == {
        "rows", "load", "formats", "prepared", "workers", "steps", "memory", "shuffle", "ratio",
    }  # fmt: skip
    assert set(figures["formats"]) == {"zarr", "npz", "parquet"}
    for row in figures["formats"].values():
        assert set(row) == {
            "bytes_per_pair", "files", "same_batches", "cached_when_cold", "cold_pairs_wall_s",
            "warm_pairs_wall_s", "warm_pairs_cpu_s",
        }  # fmt: skip
        assert row["same_batches"]
    assert set(figures["ratio"]) == {
        f"{when}_{kind}" for when in ("warm_cpu", "cold_wall") for kind in ("npz", "parquet")
    }
    assert set(figures["workers"]) == {
        "threads_0", "threads_1", "threads_2", "processes_1", "processes_2",
    }  # fmt: skip
    assert set(figures["steps"]["small"]) == {"step_ms", "load_ms", "step_over_load"}
    assert figures["memory"]["peak_3_mib"] < 1.2 * figures["memory"]["peak_mib"]
    for row in figures["shuffle"]:
        assert abs(row["neighbours"]) < 1.0
        assert row["chunks_per_batch"] <= row["chunks_per_batch_full"]
