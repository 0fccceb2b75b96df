"""A look at the first bricks before a run: whether they are there at all, and rows of one of them."""

from __future__ import annotations

import contextlib

import numpy as np
import pandas as pd

from darkhaloscope import storage
from darkhaloscope.config import Experiment
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.inject import load_brick, survey_of
from darkhaloscope.plan import Plan, WithBrickWidths, brick_rows
from darkhaloscope.survey import Cutouts
from darkhaloscope.survey.health import check_not_all_fail, check_readable, shared_trouble
from darkhaloscope.survey.maskbits import check_names
from darkhaloscope.trial import check_trial

PREFLIGHT_BRICKS = 5

SECOND_LOOKS = 3
"""Further bricks that are read before a run where no row of the first can be made."""


def preflight(made: Plan) -> str:
    """Look at the first bricks, read one and make a few of its rows, before anything is written; says what
    reading costs.

    Raises
    ------
    UserError
        The address cannot be read, none of the first bricks has files, a band has none, checksums are
        asked for and there are none, bricks from all over the plan fail alike for their files' sake, or the
        rows of the trial are wrong (:mod:`darkhaloscope.trial`).
    """
    exp = made.experiment
    needed = {"maskbits"} if _targets_have_widths(made) else {"maskbits", "psfsize"}
    if "psfsize" in needed & set(exp.survey.absent):
        raise UserError(
            "survey.absent names psfsize and the target table has no column psfsize_"
            f"{exp.survey.reference}: no PSF width is known anywhere; add that column (arcsec)"
        )
    if exp.survey.bad_bits is not None:
        check_names(exp.survey.bad_bits, {})
    bricks = [str(b) for b in made.bricks[:PREFLIGHT_BRICKS]]
    first = _first_with_coadds(exp, bricks)
    for kind in sorted(needed - set(exp.survey.absent)):
        _check_some_has(exp, bricks, kind)
    checksums = survey_of(exp).checksums_url(first)
    if exp.read.checksums and not _may_be_there(checksums, True):
        raise UserError(
            f"read.checksums is set and the release has no {checksums}; take it out, "
            "or read a copy that dhs cache made: it lists them"
        )
    rows, cutouts = _read_one(made, first)
    check_trial(exp, rows, cutouts, made.theta_e_prior())
    return f"brick {cutouts.brick}, read.mode {exp.read.mode}: {cutouts.cost}{widths_known(made)}"


def _first_with_coadds(exp: Experiment, bricks: list[str]) -> str:
    """The first of some bricks that has an image; every band must have one in some of them."""
    layout = survey_of(exp)
    seen = {
        band: [b for b in bricks if _may_be_there(layout.url("image", b, band), b == bricks[0])]
        for band in exp.survey.bands
    }
    if not any(seen.values()):
        example = layout.url("image", bricks[0], exp.survey.reference)
        with contextlib.suppress(FileNotFoundError):
            storage.read(example)  # says why, where the place cannot be read at all
        raise UserError(
            f"none of the bricks {', '.join(bricks)} has coadds: there is no {example}; "
            "check survey.root, survey.hemisphere and survey.layout, and the targets' bricks"
        )
    missing = [band for band, found in seen.items() if not found]
    if missing:
        raise UserError(
            f"band {missing[0]} has no file in the first bricks ({', '.join(bricks)}): there is no "
            f"{layout.url('image', bricks[0], missing[0])}; take {missing[0]} out of survey.bands"
        )
    return next(b for b in bricks if any(b in found for found in seen.values()))


def _check_some_has(exp: Experiment, bricks: list[str], kind: str) -> None:
    """See that some of the first bricks have a map, of whichever band."""
    bands = [None] if kind == "maskbits" else list(exp.survey.bands)
    layout = survey_of(exp)
    places = [(layout.url(kind, b, band), b) for b in bricks for band in bands]
    if not any(_may_be_there(place, b == bricks[0]) for place, b in places):
        raise UserError(
            f"the first bricks ({', '.join(bricks)}) have no {kind}: there is no {places[0][0]}; "
            f"where the release has none, say so with survey.absent: [{kind}]"
        )


def _read_one(made: Plan, first: str) -> tuple[pd.DataFrame, Cutouts]:
    """Planned rows and pixels of a brick; where rows that cannot be made may end a run, of the first brick
    among some from all over the plan that has rows that can."""
    exp = made.experiment
    rows = brick_rows(exp, made.targets_of(first), made.joint)
    tried = [load_brick(rows, exp)]
    check_readable(tried[0])
    spread = np.linspace(0, len(made.bricks) - 1, SECOND_LOOKS + 1).round().astype(int)
    others = [name for name in map(str, made.bricks[np.unique(spread)]) if name != first]
    for name in others[-SECOND_LOOKS:] if exp.read.stop_after else []:
        if shared_trouble(tried[-1]) is Reason.OK:
            break
        rows = brick_rows(exp, made.targets_of(name), made.joint)
        tried.append(load_brick(rows, exp))
    check_not_all_fail(tried)
    return rows, tried[-1]


def _may_be_there(url: str, is_first: bool) -> bool:
    """Whether a file exists. Out of reach is an error in the first brick only; later it is for its rows to
    say."""
    try:
        return storage.exists(url)
    except storage.StorageError:
        if is_first:  # an answer of S3 says why; to the question for a size it is a number alone
            (answer,) = storage.read_ranges([(url, 0, 1)])
            if isinstance(answer, storage.StorageError):
                raise answer from None
            raise
        return True


def widths_known(made: Plan) -> str:
    """What stands in for a PSF width that the maps do not have, as the end of a sentence."""
    exp = made.experiment
    if isinstance(made.targets, WithBrickWidths):
        known = made.targets.widths.notna()
        lacking = {band: int((~known[f"psfsize_{band}"]).sum()) for band in exp.survey.bands}
        said = [f"{band} in {count}" for band, count in lacking.items() if count]
        text = f"; {exp.survey.bricks_table} gives the PSF widths of {len(known)} bricks"
        return text + (f", but not {', '.join(said)} of them" if said else "")
    if _targets_have_widths(made):
        return ""
    return (
        f"; no PSF widths of bricks (survey.bricks_table): where a map has none, "
        f"that of {exp.survey.reference} is taken"
    )


def _targets_have_widths(made: Plan) -> bool:
    """Whether the target table has PSF widths of its own, of any band."""
    return any(f"psfsize_{band}" in made.targets.columns for band in made.experiment.survey.bands)
