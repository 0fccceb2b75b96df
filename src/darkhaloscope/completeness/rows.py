"""The planned injections of the test split: every one is a row here, whatever became of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope import store, views
from darkhaloscope.completeness.axes import AXES, Floats
from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.variables import SPLITS
from darkhaloscope.views.cuts import BAD_PIXEL_FRAC

SETS = ("all", "clean", "no_psf_fallback")
"""``all``: every planned injection. The others: rows of the quality set of that name that no cut marked."""

SPLIT = "test"
NEEDED = (
    "lens_model", "region_split", "cutout_ok", "reason", "brick", "slot", "host_id", "region_id",
    "bad_pixel_frac", "arc_snr", "coverage", "psf_fwhm_used", "psf_source",
)  # fmt: skip
REMOVED_COLUMNS = ["set", "why", "rows", "fraction"]


@dataclass(frozen=True)
class Injections:
    """Planned injections of one split, as columns; all arrays are (row,).

    Attributes
    ----------
    columns : Dataset
        The run's columns of these rows, as stored.
    values : dict of ndarray
        By name of an axis; NaN where a row has none.
    members : dict of ndarray of bool
        By name of a set.
    region, host : ndarray of int64
        Numbers from 0.
    removed : DataFrame
        What each set leaves out of the planned injections, and why: :data:`REMOVED_COLUMNS`.
    reference : int
        Number of the reference band.
    identity : str
        Of the data set.
    experiment : Experiment or None
        What drew them.
    """

    columns: xr.Dataset
    values: dict[str, Floats]
    members: dict[str, NDArray[np.bool_]]
    region: NDArray[np.int64]
    host: NDArray[np.int64]
    removed: pd.DataFrame
    reference: int
    identity: str
    experiment: Experiment | None = None

    def __len__(self) -> int:
        return len(self.region)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Rows that have their pixels."""
        return self.columns["cutout_ok"].values.astype(bool)

    def keys(self) -> pd.MultiIndex:
        """(brick, slot) of each row."""
        columns = self.columns
        return pd.MultiIndex.from_arrays(
            [columns["brick"].values.astype(object), columns["slot"].values.astype(np.int64)]
        )


def read_injections(run: str) -> Injections:
    """The planned injections of a finished run's test split.

    Parameters
    ----------
    run : str
        A run's folder: a path or any fsspec URL. Only columns are read, no pixels.

    Raises
    ------
    UserError
        There is no run, it lost an object, or its test split holds no injection.
    Incomplete
        Rows were never written.
    """
    experiment = parse_experiment(store.read_experiment(run), f"{run}/experiment.yaml")
    store.check_not_lost(run)
    dataset = store.open_dataset(run)
    wanted = {*NEEDED, *(name for axis in AXES for name in axis.reads)}
    light = [name for name in dataset.data_vars if "y" not in dataset[name].dims]
    lacking = sorted(wanted - set(map(str, light)))
    if lacking:
        raise UserError(f"{run} has no column {lacking[0]}; give the folder of a run of dhs run")
    codes = dataset[["lens_model", "region_split", "reason"]].load()
    unwritten = int((codes["reason"].values == Reason.NOT_WRITTEN).sum())
    if unwritten:
        raise Incomplete(
            f"{run} is not finished: {unwritten} of its {dataset.sizes['pair']} rows were never written; "
            "run it again, it resumes"
        )
    chosen = (codes["lens_model"].values > 0) & (
        codes["region_split"].values == SPLITS.index(SPLIT)
    )
    if not chosen.any():
        raise UserError(
            f"{run} has no injection in its {SPLIT} split, on which completeness is measured; "
            "plan more regions or a larger targets.splits.test"
        )
    columns = dataset[light].isel(pair=np.flatnonzero(chosen)).load()
    reference = experiment.survey.bands.index(experiment.survey.reference)
    identity = str(dataset.attrs.get("identity", ""))
    return replace(of_columns(columns, reference, identity), experiment=experiment)


def of_columns(columns: xr.Dataset, reference: int, identity: str = "") -> Injections:
    """Rows that are all planned injections of one split, from their columns."""
    region = np.unique(columns["region_id"].values.astype(object), return_inverse=True)[1]
    host = np.unique(columns["host_id"].values, return_inverse=True)[1]
    uncut = columns["reason"].values == Reason.OK
    members = {"all": np.ones(len(region), bool)}
    members |= {name: views.quality_set(columns, name) & uncut for name in SETS[1:]}
    return Injections(
        columns,
        {axis.name: axis.value(columns, reference) for axis in AXES},
        members,
        region.reshape(-1).astype(np.int64),
        host.reshape(-1).astype(np.int64),
        _removed(columns, members),
        reference,
        identity,
    )


def _removed(columns: xr.Dataset, members: dict[str, NDArray[np.bool_]]) -> pd.DataFrame:
    """Of each set how many planned injections are left out: failed, marked by a cut, or unclean."""
    reason = columns["reason"].values
    bad = columns["bad_pixel_frac"].values > BAD_PIXEL_FRAC
    total = len(reason)
    lines: list[tuple[str, str, int, float]] = []
    for name, kept in members.items():
        out = ~kept
        parts = [
            (Reason(int(code)).text, out & (reason == code))
            for code in np.unique(reason)
            if code != Reason.OK
        ]
        left = out & (reason == Reason.OK)
        if name == "clean":
            parts += [
                (f"bad_pixel_frac > {BAD_PIXEL_FRAC:g}", left & bad),
                ("no S/N, or a band with pixels and no PSF width", left & ~bad),
            ]
        elif name == "no_psf_fallback":
            parts.append(("a PSF width that is not the map's own", left))
        lines += [(name, why, int(r.sum()), float(r.sum()) / total) for why, r in parts if r.any()]
        lines.append((name, "kept", int(kept.sum()), float(kept.sum()) / total))
    return pd.DataFrame(lines, columns=REMOVED_COLUMNS)
