"""What cannot be planned, as one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.errors import UserError
from darkhaloscope.plan.rows import parameters
from darkhaloscope.plan.targetlist import (
    TargetList,
    target_column,
)

_MAX_OBJID = 2**22 - 1
"""An OBJID fits in 22 bits of a DESI TARGETID."""


def check_targets(targets: TargetList, experiment: Experiment, joint: pd.DataFrame | None) -> None:
    """See that every target can be planned; a UserError names the first that cannot."""
    if not len(targets.bricks):
        raise UserError("the target list is empty; an experiment needs at least one target")
    reference = experiment.survey.reference
    without_mag = total = 0
    for chunk in targets.chunks():
        double = chunk.duplicated(["brick", "objid"])
        if double.any():
            first = chunk[double].iloc[0]
            raise UserError(
                f"two targets share OBJID {first['objid']} in brick {first['brick']}; "
                "remove one, or give them different objid"
            )
        out = ~chunk["objid"].between(0, _MAX_OBJID)
        if out.any():
            raise UserError(
                f"OBJID {chunk['objid'][out].iloc[0]} is outside 0 to {_MAX_OBJID}; "
                "check the column objid"
            )
        without_mag += int((~np.isfinite(target_column(chunk, f"mag_{reference}"))).sum())
        total += len(chunk)
    given = experiment.source.mag is not None or (joint is not None and "source.mag" in joint)
    if without_mag and not given and experiment.plan.control_fraction < 1:
        raise UserError(
            f"{without_mag} of {total} targets have no magnitude in {reference}; "
            "add source.mag, the unlensed magnitude of their sources, to the experiment"
        )


def check_joint(joint: pd.DataFrame, experiment: Experiment) -> None:
    """See that a joint table holds parameters, within the ranges of the keys that they replace, of which none
    is a grid: its values would be nobody's, and its rows there all the same."""
    rules = parameters(experiment)
    known: Sequence[str] = list(rules)
    unknown = [name for name in joint.columns if name not in known]
    if unknown or joint.empty:
        raise UserError(
            f"the joint table has {len(joint)} rows and the unknown columns {unknown}; "
            f"its columns are parameters: {', '.join(known)}"
        )
    if grids := [name for name in joint.columns if rules[str(name)].cells > 1]:
        raise UserError(
            f"{grids[0]} is a grid of {rules[str(grids[0])].cells} values and a column of the joint table; "
            "take one of the two out"
        )
    numbers = joint.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(numbers).all():
        raise UserError("the joint table holds a value that is missing or no number; mend it")
    for name in joint.columns:
        low, high = joint[name].min(), joint[name].max()
        _check_joint_column(str(name), float(low), float(high), experiment)


def _check_joint_column(name: str, low: float, high: float, experiment: Experiment) -> None:
    """A joint column obeys the same range as the key that it replaces."""
    document = experiment.model_dump(mode="json")
    for value in (low, high):
        place = document
        *path, key = name.split(".")
        for part in path:
            place = place.setdefault(part, {})
        place[key] = value
        parse_experiment(document, f"the joint table, column {name}")
