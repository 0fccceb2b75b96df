"""What a user sees: help with an example, one sentence for a mistake, exit codes."""

from __future__ import annotations

import http.server
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from astropy.io import fits

from darkhaloscope import cli

pytestmark = pytest.mark.usefixtures("no_pictures")

ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "workflows" / "real-brick.yaml"
BRICK = "0591m305"


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def dhs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Run ``dhs`` in this process; what it prints and its exit code."""

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["dhs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capfd.readouterr()
        return Answer(int(stop.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def answers_503() -> Iterator[str]:
    """A web server that is overburdened."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            """Nothing on the test's output."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_store_that_is_away_at_the_start_is_not_the_users_mistake(
    dhs: Callable[..., Answer], tmp_path: Path, answers_503: str
) -> None:
    for place in (answers_503, "http://127.0.0.1:9"):
        code, _, err = dhs("run", f"{place}/e.yaml", "--out", tmp_path / "run")
        assert code == 4, err
        assert f"cannot read {place}/e.yaml" in err
        assert "the same command goes on" in err
        away = f"survey.root={place}"
        code, _, err = dhs(
            "run", write_experiment(tmp_path), "--set", away, "--out", tmp_path / "run"
        )
        assert code == 4, err
        assert len(err.splitlines()) == 1
    assert dhs("run", "nosuch://bucket/e.yaml").code == 2
    assert dhs("run", "http://127.0.0.1:port/e.yaml").code == 2
    folder = dhs("run", tmp_path)
    assert folder.code == 2
    assert "the same command" not in folder.err


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A copy of the real brick that a test may break."""
    shutil.copytree(ROOT / "tests" / "data" / "dr9", tmp_path / "dr9")
    return tmp_path / "dr9"


def write_experiment(tmp_path: Path, **sections: object) -> Path:
    """A small experiment on the real brick, with some sections replaced."""
    document = yaml.safe_load(EXPERIMENT.read_text())
    document["survey"]["root"] = str(ROOT / "tests" / "data" / "dr9")
    document["targets"] = {"path": str(ROOT / "tests" / "data" / "targets-0591m305.csv")}
    document["plan"] = {"repeats": 1, "control_fraction": 0.1}
    document["lens"]["theta_e"] = 1.0
    document["cluster"] = {"workers": 1}
    for name, value in sections.items():
        if isinstance(value, dict):
            document.setdefault(name, {}).update(value)
        else:
            document[name] = value
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def coadd(release: Path, kind: str, band: str = "r") -> Path:
    stem = f"legacysurvey-{BRICK}-{kind}" + (f"-{band}" if kind != "maskbits" else "")
    return release / "south" / "coadd" / BRICK[:3] / BRICK / f"{stem}.fits.fz"


def assert_one_sentence(answer: Answer, *words: str) -> None:
    assert answer.code == 2, answer
    assert answer.err.startswith("dhs: ")
    assert len(answer.err.strip().splitlines()) == 1, answer.err
    assert "Traceback" not in answer.err + answer.out
    for word in words:
        assert word in answer.err, answer.err


@pytest.mark.parametrize(
    "command", ["sky", "targets", "plan", "run", "audit", "report", "selftest", "demo"]
)
def test_every_command_shows_an_example(dhs: Callable[..., Answer], command: str) -> None:
    answer = dhs(command, "--help")
    assert answer.code == 0
    assert f"Example: dhs {command}" in " ".join(answer.out.split())


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"lens": None}, ("lens",)),
        ({"stamp": {"sise": 64}}, ("stamp.sise", "size")),
        ({"lens": {"theta_e": "5 pix"}}, ("lens.theta_e", "pix", "arcsec")),
        ({"lens": {"theta_e": "[1, 2]"}}, ("lens.theta_e", "[1, 2]")),
        ({"survey": {"root": "http://localhost:notaport/x"}}, ("localhost:notaport",)),
        ({"cluster": {"memory": "lots"}}, ("cluster.memory", "2GiB")),
        ({"cluster": {"memory": "60MiB"}}, ("cluster.memory", "too little", "512MiB")),
        ({"lens": {"theta_e": -1}}, ("lens.theta_e", "-1", "0.01 to 10 arcsec")),
        ({"targets": {"path": "nowhere.csv"}}, ("nowhere.csv",)),
        ({"survey": {"root": "/nowhere/dr9"}}, ("/nowhere/dr9", "survey.root")),
        ({"survey": {"bands": ["g", "r", "i", "z"]}}, ("band i", "survey.bands")),
        ({"survey": {"bad_bits": ["BRIGTH"]}}, ("BRIGTH", "BRIGHT")),
        ({"plan": {"joint": "nowhere.parquet"}}, ("nowhere.parquet",)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_in_the_experiment_is_one_sentence(
    dhs: Callable[..., Answer],
    tmp_path: Path,
    sections: dict[str, object],
    words: tuple[str, ...],
) -> None:
    path = write_experiment(tmp_path, **sections)
    assert_one_sentence(dhs("run", path, "--out", tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists(), "nothing half-written"


def test_a_missing_key_is_one_sentence(dhs: Callable[..., Answer], tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    document = yaml.safe_load(path.read_text())
    del document["lens"]["theta_e"]
    path.write_text(yaml.safe_dump(document))
    assert_one_sentence(dhs("plan", path), "lens.theta_e is missing")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("ra,dec\n", ("targets.csv",)),
        ("name,flux_r\nx,1\n", ("ra", "dec")),
        ("ra,dec\n59.1,north\n", ("dec",)),
        ("ra,dec\n400,0\n", ("ra",)),
        (
            "ra,dec,objid,brick\n59.1,-30.5,1,0591m305\n59.2,-30.5,1,0591m305\n",
            ("OBJID 1", "0591m305"),
        ),
        ("ra,dec,brick\n59.1,-30.5,../../etc\n", ("brick name",)),
        ("ra,dec\n59.1,-30.49\n", ("magnitude", "source.mag")),
    ],
)
def test_a_bad_target_list_is_one_sentence(
    dhs: Callable[..., Answer], tmp_path: Path, table: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "targets.csv").write_text(table)
    experiment = write_experiment(tmp_path, targets={"path": str(tmp_path / "targets.csv")})
    document = yaml.safe_load(experiment.read_text())
    del document["source"]["mag"]
    experiment.write_text(yaml.safe_dump(document))
    assert_one_sentence(dhs("run", experiment, "--out", tmp_path / "run"), *words)


def test_a_missing_brick_is_one_sentence(dhs: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "targets.csv").write_text("ra,dec\n120.0,10.0\n")
    path = write_experiment(tmp_path, targets={"path": str(tmp_path / "targets.csv")})
    assert_one_sentence(dhs("run", path, "--out", tmp_path / "run"), "1200p100", "survey.root")


def test_a_foreign_folder_is_refused(dhs: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    # Said before any cluster is looked for: on Kubernetes it would have to be made first.
    answer = dhs(
        "run", write_experiment(tmp_path), "--out", tmp_path / "run", "--cluster", "tcp://nowhere:9"
    )
    assert_one_sentence(answer, "thesis.tex", "--out")


def test_a_chain_of_addresses_is_one_sentence(dhs: Callable[..., Answer], tmp_path: Path) -> None:
    """fsspec knows how to open one; what is below it, or read by ranges of it, nobody does."""
    chain, out = "simplecache::s3://bucket/x", tmp_path / "out"
    targets = {"path": f"{chain}.parquet"}
    for arguments in (
        ("run", write_experiment(tmp_path), "--out", chain),
        ("run", write_experiment(tmp_path), "--out", out, "--set", f"survey.root={chain}"),
        ("run", write_experiment(tmp_path, targets=targets), "--out", out),
        ("run", write_experiment(tmp_path, survey={"root": chain}), "--out", out),
        ("audit", chain, "--out", out),
        ("targets", chain, "--out", out),
    ):
        assert_one_sentence(dhs(*arguments), chain, "'::'")


def test_an_unreachable_scheduler_is_one_sentence(
    dhs: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkhaloscope.cluster.CONNECT_TIMEOUT", "300ms")
    answer = dhs(
        "run", write_experiment(tmp_path), "--out", tmp_path / "r", "--cluster", "tcp://127.0.0.1:9"
    )
    assert_one_sentence(answer, "tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("source", "says"), [("nowhere", "there is no "), (".", "is no data set")], ids=["nowhere", "."]
)
def test_what_is_no_data_set_cannot_be_audited(
    dhs: Callable[..., Answer], tmp_path: Path, source: str, says: str
) -> None:
    assert_one_sentence(dhs("audit", tmp_path / source), says)


def test_a_single_file_of_stamps_can_be_audited(dhs: Callable[..., Answer], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ctrl = rng.normal(size=(40, 3, 24, 24)).astype(np.float32)
    stamp = ctrl.copy()
    stamp[:, :, 8:16, 8:16] += np.float32(0.5)
    np.savez(tmp_path / "theirs.npz", stamp=stamp, ctrl=ctrl)
    answer = dhs("audit", tmp_path / "theirs.npz", "--out", tmp_path / "out", "--workers", "1")
    assert answer.code == 3
    assert (tmp_path / "out" / "report.html").exists()
    assert "which the set does not say" in answer.out
    assert "no arc can be drawn again; reducing" in answer.out
    assert "re-render" not in answer.out
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert verdict["source"] == str(tmp_path / "theirs.npz")
    assert verdict["mapping"] is None


def test_a_place_where_nothing_can_be_written_is_said_before_anything_is_measured(
    dhs: Callable[..., Answer], tmp_path: Path
) -> None:
    images = np.zeros((4, 3, 24, 24), dtype=np.float32)
    np.savez(tmp_path / "theirs.npz", stamp=images, ctrl=images)
    (tmp_path / "file").write_text("")
    for out in ("/proc/nope", tmp_path / "file" / "below"):
        answer = dhs("audit", tmp_path / "theirs.npz", "--out", out)
        assert_one_sentence(answer, "cannot write to")
        assert "measuring" not in answer.out


def test_light_where_no_arc_can_be_is_a_shortcut(
    dhs: Callable[..., Answer], tmp_path: Path
) -> None:
    """Half a sky sigma in every pixel of a stamp, of a set that says nothing of its arcs."""
    ctrl = np.random.default_rng(1).normal(size=(40, 3, 24, 24)).astype(np.float32)
    np.savez(tmp_path / "theirs.npz", stamp=ctrl + np.float32(0.5), ctrl=ctrl)
    answer = dhs("audit", tmp_path / "theirs.npz", "--out", tmp_path / "out", "--workers", "1")
    assert answer.code == 1
    assert "A shortcut, leak" in answer.out


def test_what_is_no_run_has_no_report(dhs: Callable[..., Answer], tmp_path: Path) -> None:
    assert_one_sentence(dhs("report", tmp_path), str(tmp_path))


def test_an_option_without_value_is_one_sentence(dhs: Callable[..., Answer]) -> None:
    assert_one_sentence(dhs("plan", EXPERIMENT, "--set", "seed"), "--set seed")


def reasons_of(tmp_path: Path) -> dict[str, int]:
    table = pd.read_parquet(tmp_path / "run" / "audit" / "reasons.parquet")
    return {str(name): int(rows) for name, rows in table.groupby("reason")["rows"].sum().items()}


def test_a_truncated_file_fails_rows_and_the_run_says_so(
    dhs: Callable[..., Answer], tmp_path: Path, release: Path
) -> None:
    broken = coadd(release, "image", "g")
    broken.write_bytes(broken.read_bytes()[:100_000])
    experiment = write_experiment(tmp_path, survey={"root": str(release)})
    answer = dhs("run", experiment, "--out", tmp_path / "run")
    assert answer.code == 5, answer
    assert "image-g.fits.fz" in answer.out
    assert f"dhs repair {tmp_path / 'run'} --failed corrupt_file" in answer.out
    assert reasons_of(tmp_path) == {"corrupt_file": 5}
    assert dhs("repair", tmp_path / "run", "--failed", "render_failed").code == 2
    assert dhs("repair", tmp_path / "run", "--failed", "nan_pixels,unreadable").code == 0
    answer = dhs("repair", tmp_path / "run", "--failed", "unreadable, corrupt_file")
    assert answer.code == 4, answer
    assert (
        "dropped 1 blocks of 5 rows, which hold the rows that failed: 5 corrupt_file" in answer.out
    )
    assert not (tmp_path / "run" / "verdict.json").exists()


def test_a_missing_reference_band_fails_rows(
    dhs: Callable[..., Answer], tmp_path: Path, release: Path
) -> None:
    # Another brick has the band, so that it is this brick that lacks it, not the release.
    other = release / "south" / "coadd" / "059" / "0591m302"
    other.mkdir()
    copy = other / "legacysurvey-0591m302-image-r.fits.fz"
    shutil.copy(coadd(release, "image"), copy)
    with fits.open(copy, mode="update", disable_image_compression=True) as hdus:
        hdus[1].header["BRICK"] = "0591m302"
    for kind in ("image", "invvar"):
        coadd(release, kind).unlink()
    targets = tmp_path / "targets.csv"
    table = pd.read_csv(ROOT / "tests" / "data" / "targets-0591m305.csv")
    table.loc[len(table)] = {**table.iloc[0], "targetid": 9, "brickname": "0591m302"}
    table.to_csv(targets, index=False)
    experiment = write_experiment(
        tmp_path, survey={"root": str(release)}, targets={"path": str(targets)}
    )
    assert dhs("run", experiment, "--out", tmp_path / "run").code == 5
    assert reasons_of(tmp_path) == {"missing_band": 5, "missing_file": 1}


def test_a_target_without_pixels_is_a_row_with_a_reason(
    dhs: Callable[..., Answer], tmp_path: Path
) -> None:
    table = pd.read_csv(ROOT / "tests" / "data" / "targets-0591m305.csv")
    outside = {**table.iloc[0], "targetid": 6, "ra": 59.30, "dec": -30.10}
    no_data = {**table.iloc[0], "targetid": 7, "ra": 59.20, "dec": -30.55}
    at_edge = {**table.iloc[0], "targetid": 8, "ra": 59.3299, "dec": -30.50}
    for row in (outside, no_data, at_edge):
        table.loc[len(table)] = row
    table.to_csv(tmp_path / "targets.csv", index=False)
    experiment = write_experiment(
        tmp_path, targets={"path": str(tmp_path / "targets.csv")}, max_failed_fraction=0.5
    )
    assert dhs("run", experiment, "--out", tmp_path / "run").code == 3
    assert reasons_of(tmp_path) == {
        "ok": 5,
        "outside_brick": 1,
        "no_coverage": 1,
        "crosses_edge": 1,
    }


def test_nan_pixels_are_a_reason(dhs: Callable[..., Answer], tmp_path: Path, release: Path) -> None:
    path = coadd(release, "image", "z")
    with fits.open(path) as hdus:
        image, header = hdus[1].data.copy(), hdus[1].header.copy()
    image[1880:2136, 2540:2796] = np.nan
    fits.HDUList(
        [fits.PrimaryHDU(), fits.CompImageHDU(image, header, compression_type="GZIP_1")]
    ).writeto(path, overwrite=True)
    experiment = write_experiment(tmp_path, survey={"root": str(release)})
    assert dhs("run", experiment, "--out", tmp_path / "run").code == 5
    assert reasons_of(tmp_path) == {"nan_pixels": 5}


def test_a_shorter_plan_leaves_nothing_of_a_longer_one(
    dhs: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "run" / "plan").mkdir(parents=True)
    (tmp_path / "run" / "plan" / "000007.parquet").write_bytes(b"of an earlier, longer plan")
    assert dhs("plan", write_experiment(tmp_path), "--out", tmp_path / "run").code == 0
    parts = sorted((tmp_path / "run" / "plan").iterdir())
    assert [part.name for part in parts] == ["000000.parquet"]
    assert len(pd.read_parquet(parts[0])) == 5


def test_no_psf_width_anywhere_is_said_before_the_run(
    dhs: Callable[..., Answer], tmp_path: Path
) -> None:
    path = write_experiment(tmp_path, survey={"absent": ["psfsize"]})
    assert_one_sentence(dhs("run", path, "--out", tmp_path / "run"), "psfsize_r", "survey.absent")


@pytest.mark.parametrize("kind", ["maskbits", "psfsize"])
def test_a_release_without_a_kind_of_file_is_told_how_to_say_so(
    dhs: Callable[..., Answer], tmp_path: Path, release: Path, kind: str
) -> None:
    for path in (release / "south").rglob(f"*{kind}*"):
        path.unlink()
    path = write_experiment(tmp_path, survey={"root": str(release)})
    answer = dhs("run", path, "--out", tmp_path / "run")
    assert_one_sentence(answer, f"survey.absent: [{kind}]")
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_cannot_be_audited(dhs: Callable[..., Answer], tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    assert dhs("run", path, "--out", tmp_path / "run").code == 3
    shutil.rmtree(tmp_path / "run" / "stamps.zarr" / "reason" / "c")
    answer = dhs("audit", tmp_path / "run")
    assert answer.code == 4
    assert "5 of 5 rows" in answer.err


def test_cache_and_then_a_run_s_first_look(
    dhs: Callable[..., Answer], tmp_path: Path, release: Path
) -> None:
    """What ``dhs cache`` says of itself, its exit codes, and that a plan is made of the copy."""
    path = write_experiment(tmp_path, survey={"root": str(release)})
    answer = dhs("cache", path, "--to", tmp_path / "copy", "--layout", "flat")
    assert answer.code == 0, answer
    assert "10 files of 1 bricks copied" in answer.out
    assert f"survey.root: {tmp_path / 'copy'}, survey.layout: flat" in answer.out
    assert (tmp_path / "copy" / coadd(release, "image").name).exists()
    assert (
        "0 files of 1 bricks"
        in dhs("cache", path, "--to", f"{tmp_path}/copy/", "--layout", "flat").out
    )
    assert_one_sentence(dhs("cache", path, "--to", release), "is the release itself")
    assert_one_sentence(dhs("cache", path, "--to", "x", "--layout", "round"), "release or flat")
    (tmp_path / "nowhere").mkdir()
    wrong = write_experiment(tmp_path / "nowhere", survey={"root": str(tmp_path / "nowhere")})
    nothing = dhs("cache", wrong, "--to", tmp_path / "empty")
    assert_one_sentence(nothing, "none of the 1 bricks has an image")
    assert "in the experiment" not in nothing.out
    sums = release / "south" / "tractor" / BRICK[:3] / f"brick-{BRICK}.sha256sum"
    sums.parent.mkdir(parents=True)
    sums.write_text(f"{'0' * 64} *{coadd(release, 'image').name}\n")
    failed = dhs("cache", path, "--to", tmp_path / "other")
    assert failed.code == 4
    assert "10 files could not be copied" in failed.out
