"""Whether the PSF widths that a network is given, or is balanced by, tell the classes apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.core_gate import group_folds
from darkhaloscope.audit.intervals import DESCRIBED_REGIONS, generator, region_interval
from darkhaloscope.audit.selection import FEWEST, MOST_ROWS, class_auc, out_of_fold
from darkhaloscope.errors import UserError

TOLERANCE = 0.02
"""Above 0.5: what an audit tolerates."""


class MetadataTest(NamedTuple):
    """AUC of the classes from PSF widths alone, by a model that saw none of a row's region or host."""

    auc: float
    lo: float
    hi: float
    images: int
    regions: int
    outcome: str
    """``alike`` by construction, ``pass``, ``not_enough``."""


def psf_test(
    widths: NDArray[np.float32],
    positive: NDArray[np.int64],
    negative: NDArray[np.int64],
    host: NDArray[np.int64],
    region: NDArray[np.object_],
) -> MetadataTest:
    """The audit's metadata test on PSF widths, of the rows as a network is shown them.

    Parameters
    ----------
    widths : ndarray (row of the data set, band)
        Arcsec, missing where there is none.
    positive, negative : ndarray
        Rows of each class, of one epoch.
    host, region : ndarray (row of the data set,)

    Raises
    ------
    UserError
        The widths tell the classes apart: the interval of the AUC lies above 0.52.
    """
    if np.array_equal(np.sort(positive), np.sort(negative)):
        return MetadataTest(0.5, 0.5, 0.5, 2 * len(positive), 0, "alike")
    rows = np.concatenate([positive, negative])
    label = np.arange(len(rows)) < len(positive)
    if len(rows) > MOST_ROWS:
        some = np.sort(generator(0, 17).choice(len(rows), MOST_ROWS, replace=False))
        rows, label = rows[some], label[some]
    nan = float("nan")
    of = region[rows]
    fold = group_folds(host[rows], of, rows.astype(np.uint64))
    if min(label.sum(), (~label).sum()) < FEWEST or len(np.unique(fold)) < 2:
        return MetadataTest(nan, nan, nan, len(rows), len(np.unique(of)), "not_enough")
    score = out_of_fold(widths[rows].astype(float), label, fold)
    value, replicates, n = class_auc(score, label, of, 0)
    lo, hi = (float(v) for v in region_interval(value, replicates, n))
    if n < DESCRIBED_REGIONS:
        return MetadataTest(value, nan, nan, len(rows), n, "not_enough")
    if lo > 0.5 + TOLERANCE:
        raise UserError(
            f"PSF widths alone tell positives from negatives with an AUC of {value:.3f} ({lo:.3f} to "
            f"{hi:.3f}, {n} regions), so a network that is given them needs no arc; "
            "use negatives: ctrl or stratify_psf, or take aux_psf out"
        )
    outcome = "pass" if hi <= 0.5 + TOLERANCE else "not_enough"
    return MetadataTest(value, lo, hi, len(rows), n, outcome)
