"""What a study's readers are given and which rows they score, on arrays of known numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_brick
import xarray as xr
from sklearn.linear_model import LogisticRegression

from darkhaloscope.audit import AuditSpec
from darkhaloscope.config import CoreMask, parse_experiment
from darkhaloscope.errors import Reason
from darkhaloscope.geometry import core_slice
from darkhaloscope.study.arms import Arm
from darkhaloscope.study.coadds import fingerprint
from darkhaloscope.study.parts import KINDS, Reading, _arm_part
from darkhaloscope.study.readers import READERS, arm_scores
from darkhaloscope.study.zones import ZONES, zones_of
from darkhaloscope.views import View, normalize

ROWS, BANDS, SIZE = 60, 2, 32
SIGMA = np.array([0.02, 0.05])
EXPERIMENT = parse_experiment(
    {
        "survey": {"root": "dr9", "bands": ["g", "r"]},
        "targets": {"path": "t.csv"},
        "stamp": {"size": SIZE},
        "lens": {"theta_e": 1.0},
    }
)
SPEC = AuditSpec(1, ("g", "r"), "r", SIZE, 0.262, 20, (0, 0, 0, ROWS, 0, 0))
READING = Reading(SPEC, 1.0)


def _arm(**view: Any) -> Arm:
    return Arm("arm", EXPERIMENT, View(**view))


@pytest.fixture(scope="module")
def base() -> xr.Dataset:
    """Stamps with a sky level and noise of their own, and a round arc."""
    rng = np.random.default_rng(4)
    shape = (ROWS, BANDS, SIZE, SIZE)
    noise = SIGMA[:, None, None] * rng.normal(size=shape) * rng.uniform(0.5, 2, (ROWS, 1, 1, 1))
    radius = np.hypot(*(np.mgrid[:SIZE, :SIZE] - 15.5))
    arc = 0.1 * np.exp(-(((radius - 3) / 1.5) ** 2)) * np.ones(shape)
    of_bands = ("pair", "band")
    images = ("pair", "band", "y", "x")
    return xr.Dataset(
        {
            "slot": ("pair", np.arange(ROWS)),
            "brick": ("pair", np.array(["0591m305"] * ROWS)),
            "reason": ("pair", np.full(ROWS, Reason.OK, np.uint8)),
            "coverage": (of_bands, np.ones((ROWS, BANDS), np.float32)),
            "sky_sigma": (of_bands, np.broadcast_to(SIGMA, (ROWS, BANDS)).copy()),
            "total_injected_flux": (of_bands, arc.sum(axis=(2, 3))),
            "target_x": ("pair", np.full(ROWS, 15.5)),
            "target_y": ("pair", np.full(ROWS, 15.5)),
            "nodata": (("pair", "y", "x"), np.zeros((ROWS, SIZE, SIZE), np.uint8)),
            "ctrl": (images, noise + rng.uniform(0.0, 0.3, (ROWS, BANDS, 1, 1))),
            "arc": (images, arc),
        }
    )


@pytest.fixture(scope="module")
def physics(base: xr.Dataset) -> np.ndarray:
    """The same arcs as another integrator would draw them, so much brighter that none is the other."""
    return np.asarray(1.5 * base["arc"].values)


def _scaled(images: np.ndarray) -> np.ndarray:
    return normalize(images, np.ones(images.shape, bool))


@pytest.mark.parametrize("mask", [None, CoreMask(radius_px=4)], ids=["plain", "masked"])
def test_physics_is_read_on_the_scale_of_its_arm(
    base: xr.Dataset, physics: np.ndarray, mask: CoreMask | None
) -> None:
    """A mask on read hides nothing of it; a scale of each stamp's own is the arm's and physics'."""
    ctrl, core = base["ctrl"].values, core_slice(SIZE)
    for view, seen in ((_arm(normalize=True, input_mask=mask), _scaled), (_arm(), np.asarray)):
        part = _arm_part(view, base, base, physics, READING)
        for name, image in (("core_physics", ctrl + physics), ("core_ctrl", ctrl)):
            expected = seen(image)[..., core, core].reshape(ROWS, -1)
            np.testing.assert_allclose(part[name], expected, rtol=1e-6, atol=1e-6)


def test_a_scale_of_its_own_is_not_divided_by_the_sky_again(
    base: xr.Dataset, physics: np.ndarray
) -> None:
    """Readers see either sky sigma or the annulus' scale: both would bring back the depth that the second
    takes out."""
    ctrl = base["ctrl"].values
    light = dict.fromkeys(KINDS, ctrl + base["arc"].values)
    light |= {"negative": ctrl, "ctrl": ctrl, "physics": ctrl + physics}
    zones = zones_of(CoreMask(), SIZE)

    def in_sigma(images: np.ndarray) -> np.ndarray:
        return np.asarray(images / SIGMA[:, None, None])

    for arm, seen in ((_arm(normalize=True), _scaled), (_arm(), in_sigma)):
        part = _arm_part(arm, base, base, physics, READING)
        for kind in KINDS:
            expected = zones.linear(seen(light[kind]))
            np.testing.assert_allclose(part[f"linear_{kind}"], expected, rtol=1e-5, atol=1e-5)
            expected = zones.profile(seen(light[kind]))
            np.testing.assert_allclose(part[f"profile_{kind}"], expected, rtol=1e-5, atol=1e-5)
        for kind in ("fixed", "negative", "physics"):
            np.testing.assert_allclose(
                part[f"whole_{kind}"], seen(light[kind]), rtol=1e-5, atol=1e-5
            )


def test_plain_arcs_are_scored_on_every_row_also_where_an_arm_has_none(
    base: xr.Dataset, physics: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(b) asks what a model misses: an arm that is scored on its own rows only would leave out the small
    lenses that its cut took, and be praised for it."""
    for reader in READERS:
        monkeypatch.setitem(READERS, reader, LogisticRegression)
    arm = _arm()
    data = _arm_part(arm, base, base, physics, READING)
    row = np.arange(ROWS)
    data |= {
        "use": row % 3 > 0,
        "sound": row != 7,  # nothing is known of this one, in no arm
        "hash": data["whole_hash"],
        "host": row,
        "region": (row % 20).astype(np.uint64),
        "theta_e": np.ones(ROWS),
        "theta_e_over_psf": np.ones(ROWS),
        "flux_plain": data["flux"],
    }
    scores, _ = arm_scores(data, arm, SPEC)
    for side in ("pos", "neg"):
        for reader in READERS:
            for zone in ZONES:
                told = {k: np.isfinite(scores[f"{k}_{reader}_{zone}_{side}"]) for k in "abc"}
                np.testing.assert_array_equal(told["b"], data["sound"])
                for letter in "ac":
                    np.testing.assert_array_equal(told[letter], data["use"])
        np.testing.assert_array_equal(np.isfinite(scores[f"core_{side}"]), data["use"])


def test_a_coadd_of_the_same_size_is_another_one(tmp_path: Path) -> None:
    """Pixels that were made anew, by a later version of a pipeline or a sky: no list says so, the file's
    time does."""
    small_brick.write_brick(tmp_path)
    experiment = EXPERIMENT.model_copy(
        update={"survey": EXPERIMENT.survey.model_copy(update={"root": str(tmp_path)})}
    )

    def now() -> str:
        return fingerprint(experiment, [small_brick.BRICK])

    known = {now()}
    assert now() in known
    for kind, band in (("image", "r"), ("invvar", "g"), ("maskbits", None)):
        file = small_brick.path_of(tmp_path, kind, band)
        before = file.read_bytes()
        seconds = file.stat().st_mtime
        file.write_bytes(before[:-2880] + bytes(2880))
        os.utime(file, (seconds + 60, seconds + 60))
        assert file.stat().st_size == len(before)
        assert now() not in known
        known.add(now())
