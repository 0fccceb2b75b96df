"""An arm's scores, never by a model that saw a row of the same region or host.

Four questions: what a linear reader sees in the core; (a) whether the arm's injections can be told from the
plain ones of the arm ``none``; (b) how well a model trained on the arm's two classes finds plain arcs; (c)
whether the arm's negatives can be told from plain ctrl.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from darkhaloscope import audit
from darkhaloscope.audit import AuditSpec
from darkhaloscope.audit.core_gate import group_folds, linear_reader, match, out_of_fold_scores
from darkhaloscope.audit.leak_map import LEAK_COLUMNS, Stamps, leak_map, lowest_hashes
from darkhaloscope.audit.selection import boosted_reader
from darkhaloscope.study.arms import Arm
from darkhaloscope.study.parts import KINDS, Arrays, mask_of
from darkhaloscope.study.zones import ZONES, zones_of

Floats = NDArray[np.float64]

READERS = {"linear": linear_reader, "profile": boosted_reader}
"""Logistic regression on pixels, and gradient boosting on the radial profile."""

LETTERS = ("a", "b", "c")
"""The questions that are asked of readers, inside, at and outside a mask's edge."""


def joined(parts: list[Arrays], pairs: int) -> Arrays:
    """The parts of an arm as one, of the rows with the ``pairs`` lowest hashes that can be read at all."""
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = lowest_hashes(whole["hash"], whole["sound"], pairs)
    out = {k: v[rows] for k, v in whole.items() if not k.startswith("whole_")}
    kept = np.isin(whole["whole_hash"], out["hash"])
    return out | {k: v[kept] for k, v in whole.items() if k.startswith("whole_")}


def arm_scores(data: Arrays, arm: Arm, spec: AuditSpec) -> tuple[Arrays, pd.DataFrame]:
    """Scores of every row, and the leak map.

    Returns
    -------
    scores : dict of ndarray
        ``core_…``, ``physics_…`` and, for each of :data:`LETTERS`, ``a_READER_ZONE_…``, with ``pos`` and
        ``neg`` (row,), NaN where a row is not read; ``negative_row``: of which row each negative is, -1
        where there is none; ``brightness_gap`` (2,).
    leak : DataFrame
        As :func:`darkhaloscope.audit.leak_map.leak_map`.
    """
    use = data["use"]
    fold = group_folds(data["host"], data["region"], data["hash"])
    row = np.arange(len(use))
    bands = len(spec.bands)
    if arm.view.match_controls:
        row = _matched(data, fold, use, bands)
        use = use & (row >= 0)
    data = _negatives_of(data, row)
    zones = zones_of(mask_of(arm), spec.size)
    scores: Arrays = {"use": use, "negative_row": row}
    keep = (
        "theta_e", "theta_e_over_psf", "host", "region", "flux", "flux_plain", "hash", "reason",
    )  # fmt: skip
    scores |= {name: data[name] for name in keep}
    scores["brightness_gap"] = _brightness_gap(data, use, bands)
    tied = (data["core_fixed"] == data["core_negative"]).all(axis=1)
    scores["tied"] = tied & use
    scores |= _core(data, fold, use)
    for reader in READERS:
        for zone in ZONES:
            columns = zones.columns(zone, reader, bands)
            fixed, negative, plain, ctrl = (data[f"{reader}_{kind}"][:, columns] for kind in KINDS)
            told = {
                "a": across(reader, fixed, plain, fixed, plain, fold, use, use),
                "b": across(reader, fixed, negative, plain, ctrl, fold, use, data["sound"]),
                "c": across(reader, negative, ctrl, negative, ctrl, fold, use, use),
            }
            for letter, (pos, neg) in told.items():
                scores[f"{letter}_{reader}_{zone}_pos"] = pos
                scores[f"{letter}_{reader}_{zone}_neg"] = neg
    return scores, _leak(data, arm, use, spec)


def _core(data: Arrays, fold: NDArray[np.int64], use: NDArray[np.bool_]) -> Arrays:
    """The core gate of the arm's classes, and of its physics, by the audit's own reader."""
    out: Arrays = {}
    for name, pos, neg in (
        ("core", "core_fixed", "core_negative"),
        ("physics", "core_physics", "core_ctrl"),
    ):
        scores = out_of_fold_scores(
            data[pos][use].astype(float), data[neg][use].astype(float), fold[use]
        )
        for side, values in zip(("pos", "neg"), scores, strict=True):
            full = np.full(len(use), np.nan)
            full[use] = values
            out[f"{name}_{side}"] = full
    return out


def across(
    reader: str,
    pos: NDArray[Any],
    neg: NDArray[Any],
    test_pos: NDArray[Any],
    test_neg: NDArray[Any],
    fold: NDArray[np.int64],
    use: NDArray[np.bool_],
    tested: NDArray[np.bool_],
) -> tuple[Floats, Floats]:
    """Scores of test images by models trained on other images of other folds.

    Parameters
    ----------
    reader : {"linear", "profile"}
    pos, neg, test_pos, test_neg : ndarray (row, feature)
    fold : ndarray (row,)
    use, tested : ndarray of bool (row,)
        Rows to train on, and rows to score.

    Returns
    -------
    pos, neg : ndarray (row,)
        Log odds; NaN where a row is not scored; all equal where the two classes are.
    """
    out = np.full((2, len(fold)), np.nan)
    with threadpool_limits(1):
        for name in np.unique(fold):
            train, test = (fold != name) & use, (fold == name) & tested
            if not train.any() or not test.any():
                continue
            if np.array_equal(pos[train], neg[train]):  # or there is no feature: nothing to learn
                out[:, test] = 0.0
                continue
            model = READERS[reader]()
            label = np.repeat([1, 0], int(train.sum()))
            model.fit(np.concatenate([pos[train], neg[train]]).astype(float), label)
            for k, images in enumerate((test_pos, test_neg)):
                out[k, test] = model.decision_function(images[test].astype(float))
    return out[0], out[1]


def _brightness(data: Arrays, kind: str, bands: int) -> Floats:
    """Light of a class's cores, (row, band)."""
    cores = data[f"core_{kind}"]
    return np.asarray(cores.reshape(len(cores), bands, -1).astype(float).sum(axis=-1))


def _matched(
    data: Arrays, fold: NDArray[np.int64], use: NDArray[np.bool_], bands: int
) -> NDArray[np.int64]:
    """For each row another one of its fold whose core is as bright as the row's stamp, each taken once; -1
    where there is none.

    The audit's matching, of two groups of galaxies in each fold: the stamps of one are matched with the
    cores of the other, so that none is matched with itself.
    """
    row = np.full(len(use), -1, dtype=np.int64)
    members = np.flatnonzero(use)
    n = len(members)
    if n == 0:
        return row
    half = np.zeros(n, dtype=np.int64)
    for name in np.unique(fold[members]):
        here = fold[members] == name
        half[here] = np.unique(data["host"][members][here], return_inverse=True)[1].reshape(-1) % 2
    light = [_brightness(data, kind, bands)[members] for kind in ("fixed", "negative")]
    group = np.concatenate([2 * fold[members] + half, 2 * fold[members] + 1 - half])
    found = audit.match_controls(np.concatenate(light), np.arange(2 * n) < n, group)
    row[members[found[:, 0]]] = members[found[:, 1] - n]
    return row


def _brightness_gap(data: Arrays, use: NDArray[np.bool_], bands: int) -> Floats:
    """How much brighter physical stamps are in the core than plain ctrl, and the arm's stamps than its
    negatives: standardised mean differences of arcsinh magnitudes (Rosenbaum & Rubin 1985), of the band where
    each is largest."""
    gaps = np.full(2, np.nan)
    for k, kinds in enumerate((("physics", "ctrl"), ("fixed", "negative"))):
        bright, plain = (_brightness(data, kind, bands)[use] for kind in kinds)
        if not len(bright):
            continue
        soft = np.median(np.abs(bright), axis=0)
        soft = np.where(soft > 0, soft, 1.0)
        a, b = np.arcsinh(bright / soft), np.arcsinh(plain / soft)
        spread = np.sqrt((a.var(axis=0) + b.var(axis=0)) / 2)
        gap = (a.mean(axis=0) - b.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        gaps[k] = gap[np.argmax(np.abs(gap))]
    return gaps


def _negatives_of(data: Arrays, row: NDArray[np.int64]) -> Arrays:
    """The same rows, each with the negative of row ``row``."""
    names = ("core_negative", "linear_negative", "profile_negative")
    return data | {name: data[name][np.maximum(row, 0)] for name in names}


def _leak(data: Arrays, arm: Arm, use: NDArray[np.bool_], spec: AuditSpec) -> pd.DataFrame:
    """The audit's leak map of the arm's classes, beside the arm's physics on its negatives.

    It compares images of one sky, so there is none where negatives are other galaxies.
    """
    if arm.view.match_controls:
        return pd.DataFrame(columns=LEAK_COLUMNS)
    row = match(data["whole_hash"], data["hash"])
    kept = lowest_hashes(data["whole_hash"], (row >= 0) & use[np.maximum(row, 0)])
    row = row[kept]
    stamps = Stamps(
        data["whole_negative"][kept].astype(float),
        data["whole_fixed"][kept].astype(float),
        data["whole_physics"][kept].astype(float),
        data["whole_good"][kept],
        data["region"][row],
        data["host"][row],
        data["hash"][row],
        row,
    )
    return leak_map(stamps, spec)
