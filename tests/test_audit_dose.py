"""AUC against dose and on each sample's own scale: what is known without any audit."""

from __future__ import annotations

import numpy as np
import pytest

from darkhaloscope.audit import AuditSpec
from darkhaloscope.audit.core_gate import group_folds, out_of_fold_scores
from darkhaloscope.audit.dose import PER_SAMPLE, RAW, dose_table
from darkhaloscope.audit.intervals import auc
from darkhaloscope.audit.leak_map import Stamps

SIZE, N = 32, 200
SPEC = AuditSpec(7, ("r",), "r", SIZE, 0.262, N, (N, 0, 0, 0, 0, 0))


def _stamps(scale: np.ndarray, excess: float = 1.0) -> Stamps:
    """Noise of its own scale in every pair, and in its core a faint light in the same unit."""
    rng = np.random.default_rng(1)
    ctrl = rng.normal(size=(N, 1, SIZE, SIZE)) * scale[:, None, None, None]
    arc = np.zeros_like(ctrl)
    arc[..., 11:21, 11:21] = 0.15 * scale[:, None, None, None]
    index = np.arange(N)
    return Stamps(
        ctrl, ctrl + excess * arc, ctrl + arc, np.ones(ctrl.shape, dtype=bool),
        index.astype(np.uint64), index, index.astype(np.uint64), index,
    )  # fmt: skip


def test_the_auc_rises_from_a_coin_and_ends_at_the_reader_s_own() -> None:
    stamps = _stamps(np.ones(N))
    table = dose_table(stamps, SPEC)
    raw = table[table["scale"] == RAW]
    assert raw["auc"].iloc[0] == 0.5
    assert raw["auc"].is_monotonic_increasing
    core = [v[..., 11:21, 11:21].reshape(N, -1) for v in (stamps.seen, stamps.ctrl)]
    fold = group_folds(stamps.host, stamps.region, stamps.hashes)
    assert raw["auc"].iloc[-1] == pytest.approx(auc(*out_of_fold_scores(core[0], core[1], fold)))
    np.testing.assert_array_equal(raw["auc"], raw["auc_rerendered"])
    assert (raw["hosts"] == N).all()


def test_too_much_light_lies_above_the_rerendered_curve() -> None:
    raw = dose_table(_stamps(np.ones(N), 2.0), SPEC).query("scale == @RAW and dose >= 0.5")
    assert (raw["auc"] > raw["auc_rerendered"] + 0.02).all()


def test_a_sample_s_own_scale_brings_out_what_its_depth_hides() -> None:
    """With depths a hundred apart the deep pairs are lost in the shallow ones, until each is scaled."""
    scale = 10.0 ** np.random.default_rng(2).uniform(-2, 0, N)
    table = dose_table(_stamps(scale), SPEC).query("dose == 1").set_index("scale")
    same = dose_table(_stamps(np.ones(N)), SPEC).query("dose == 1").set_index("scale")
    assert table.loc[PER_SAMPLE, "auc"] > table.loc[RAW, "auc"] + 0.02
    # Only the scale differed: scaled, they are the pairs of equal depth.
    assert table.loc[PER_SAMPLE, "auc"] == pytest.approx(same.loc[PER_SAMPLE, "auc"], abs=1e-3)
