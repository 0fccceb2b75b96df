"""The core AUC against the dose of light, and after every stamp is put on one scale.

A linear reader's score is linear in the pixels: at a fraction d of an arc it is
``ctrl + d (stamp - ctrl)``, so that one fit gives every dose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.audit.core_gate import components, group_folds, out_of_fold_scores
from darkhaloscope.audit.intervals import Floats, RegionAuc
from darkhaloscope.audit.leak_map import Stamps
from darkhaloscope.audit.noise import flat
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.geometry import core_slice
from darkhaloscope.views import annulus_scale

DOSES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
DOSE_COLUMNS = [
    "scale", "dose", "pairs", "hosts", "regions", "auc", "auc_lo", "auc_hi", "auc_rerendered",
]  # fmt: skip
RAW, PER_SAMPLE = "raw", "per sample"


def dose_table(stamps: Stamps, spec: AuditSpec) -> pd.DataFrame:
    """AUC of the central 10x10 pixels at every dose, raw and with each sample on its own scale.

    Parameters
    ----------
    stamps : Stamps
        The rows that were kept whole: the scale is that of the outer annulus.

    Returns
    -------
    DataFrame
        :data:`DOSE_COLUMNS`. ``per sample`` takes from every image of every band the median of its
        outer annulus and divides by the annulus's 1.4826 median absolute deviation, as a loader that
        normalises each stamp would do; it is not linear in the dose, and given at dose 1 alone.
        Empty where a set has no pairs: there is no arc of which to add a part.
    """
    if (
        not spec.paired
        or len(stamps.row) < 2
        or len(np.unique(components(stamps.host, stamps.region))) < 2
    ):
        return pd.DataFrame(columns=DOSE_COLUMNS)
    fold = group_folds(stamps.host, stamps.region, stamps.hashes)
    counts = (len(stamps.row), len(np.unique(stamps.host)), len(np.unique(stamps.region)))
    lines: list[tuple[Any, ...]] = []
    for scale in (RAW, PER_SAMPLE):
        ctrl, seen, *promised = (
            _core(v, stamps.good, scale)
            for v in (stamps.ctrl, stamps.seen, stamps.promised)
            if v is not None
        )
        observed = out_of_fold_scores(seen, ctrl, fold)
        expected = out_of_fold_scores(promised[0], ctrl, fold) if promised else None
        for dose in DOSES if scale == RAW else (1.0,):
            read = _read(observed, dose, stamps.region, spec.seed)
            lo, hi = read.interval()
            there = np.nan
            if expected is not None:
                there = _read(expected, dose, stamps.region, spec.seed).value
            lines.append((scale, dose, *counts, read.value, max(lo, 0.0), min(hi, 1.0), there))
    return pd.DataFrame(lines, columns=DOSE_COLUMNS)


def _read(scores: tuple[Floats, Floats], dose: float, region: NDArray[Any], seed: int) -> RegionAuc:
    stamp, ctrl = scores
    return RegionAuc(ctrl + dose * (stamp - ctrl), ctrl, region, seed)


def _core(images: Floats, good: NDArray[np.bool_], scale: str) -> Floats:
    """Core pixels of each pair, (pair, band * 100)."""
    size = images.shape[-1]
    core = core_slice(size)
    out = images[..., core, core]
    if scale == PER_SAMPLE:
        middle, spread = annulus_scale(images, good)
        out = (out - middle) / spread
    return flat(np.asarray(out))
