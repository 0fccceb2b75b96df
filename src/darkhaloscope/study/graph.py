"""A study on a Dask client: bricks read once for all arms together, then each arm read by itself.

``parts/ARM-KEY/NNNNNN.npz`` are features of a few bricks, ``results/ARM-KEY.npz`` an arm's scores. KEY is
of what they depend on, so that a study called again makes only what is not there.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import xxhash
from distributed import Client, as_completed
from sklearn.exceptions import ConvergenceWarning

from darkhaloscope import prepare, storage, store
from darkhaloscope.audit.leak_map import MOST
from darkhaloscope.audit.spec import THRESHOLD_MARGIN
from darkhaloscope.errors import UserError
from darkhaloscope.plan import Plan
from darkhaloscope.study.arms import Arm, Study
from darkhaloscope.study.compare import Result
from darkhaloscope.study.parts import Arrays, Reading, brick_part
from darkhaloscope.study.readers import arm_scores, joined

PIECE_ROWS = 64
"""Rows of one task, at least: whole bricks."""

SPARE = 1.25
"""Rows planned for one that is read: some have no coverage in a band."""

FEWEST = 0.9
"""A study with fewer pairs than this fraction of what is asked for does not go on."""


def run_study(
    client: Client,
    folder: str,
    study: Study,
    arms: Sequence[Arm],
    on_step: Callable[[str, int, int], None],
) -> dict[str, Result]:
    """Make and read every arm; resumes where the folder holds a part of it.

    Parameters
    ----------
    folder : str
        Path or URL of the results.
    arms : sequence of Arm
        As :func:`darkhaloscope.study.arms.load_study` gives them.
    on_step : callable
        Told (what, done, all) as tasks finish.

    Returns
    -------
    dict of str to Result
        By the arms' names, in their order.

    Raises
    ------
    UserError
        There are fewer targets than pairs are asked for, or the survey cannot be read.
    """
    reference = arms[0]
    plan = prepare.plan_of(reference.experiment)
    spec = prepare.spec_of(
        reference.experiment, prepare.planned_strata(plan), n_regions=plan.n_regions
    )
    fraction = min(1.0, THRESHOLD_MARGIN * MOST / study.pairs)
    reading = Reading(spec, fraction, plan.joint)
    keys = {arm.name: f"{arm.name}-{arm.key(_contents(arm, plan), study.pairs)}" for arm in arms}
    wanted = [arm for arm in arms if not _there(folder, "results", f"{keys[arm.name]}.npz")]
    if wanted:
        prepare.preflight(plan)
        pieces = _pieces(plan, study.pairs)
        _make_parts(client, folder, plan, pieces, reference, wanted, keys, reading, on_step)
        futures = [
            client.submit(
                judge_arm,
                folder,
                keys[arm.name],
                len(pieces),
                arm,
                study.pairs,
                reading,
                key=f"judge-{keys[arm.name]}-{_mark(folder)}",
            )
            for arm in wanted
        ]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            on_step("read arms", done, len(futures))
    return {arm.name: _read_result(folder, keys[arm.name]) for arm in arms}


def _contents(arm: Arm, plan: Plan) -> dict[str, str]:
    """Digests of what an arm names: that of all arms, and of the galaxies that its own sources are."""
    if "IMAGE" not in arm.experiment.kinds:
        return plan.contents
    return prepare.plan_of(arm.experiment).contents


def _there(folder: str, *parts: str) -> bool:
    return storage.exists(storage.join(folder, *parts))


def _mark(folder: str) -> str:
    """Keeps the keys of two studies on one scheduler apart."""
    return xxhash.xxh64_hexdigest(folder.encode())[:8]


def _pieces(plan: Plan, pairs: int) -> list[list[str]]:
    """Bricks of each task: those of the lowest hashes until there are rows enough, in the plan's order."""
    seed = plan.experiment.seed
    hashed = sorted(
        range(len(plan.bricks)),
        key=lambda b: xxhash.xxh64_intdigest(f"{seed}/{plan.bricks[b]}".encode()),
    )
    per_brick = np.diff(plan.first_row)
    share = 1.0 - plan.experiment.plan.control_fraction
    needed = np.searchsorted(np.cumsum(per_brick[hashed]) * share, SPARE * pairs) + 1
    pieces: list[list[str]] = [[]]
    rows = 0
    for b in sorted(hashed[:needed]):
        if rows >= PIECE_ROWS:
            pieces.append([])
            rows = 0
        pieces[-1].append(str(plan.bricks[b]))
        rows += int(per_brick[b])
    return pieces


def _make_parts(
    client: Client,
    folder: str,
    plan: Plan,
    pieces: Sequence[Sequence[str]],
    reference: Arm,
    arms: Sequence[Arm],
    keys: dict[str, str],
    reading: Reading,
    on_step: Callable[[str, int, int], None],
) -> None:
    futures = []
    for number, bricks in enumerate(pieces):
        names = [_part_name(number)]
        lacking = [a for a in arms if not _there(folder, "parts", keys[a.name], *names)]
        if lacking:
            targets = [plan.targets_of(brick) for brick in bricks]
            mark = xxhash.xxh64_hexdigest(repr([keys[a.name] for a in lacking]).encode())[:8]
            futures.append(
                client.submit(
                    make_piece,
                    folder,
                    number,
                    targets,
                    reference,
                    lacking,
                    keys,
                    reading,
                    key=f"arms-{number:06d}-{mark}-{_mark(folder)}",
                )
            )
    for done, future in enumerate(as_completed(futures), start=1):
        future.result()
        on_step("make arms", done, len(futures))


def _part_name(number: int) -> str:
    return f"{number:06d}.npz"


def make_piece(
    folder: str,
    number: int,
    targets: Sequence[pd.DataFrame],
    reference: Arm,
    arms: Sequence[Arm],
    keys: dict[str, str],
    reading: Reading,
) -> None:
    """Read some bricks, each once for all arms, and write a part of every arm."""
    made = [part for t in targets if (part := brick_part(t, reference, arms, reading))]
    for arm in arms:
        parts = [part[arm.name] for part in made]
        merged = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} if parts else {}
        place = storage.join(folder, "parts", keys[arm.name], _part_name(number))
        storage.write(place, store.encode_statistics(merged))


def judge_arm(folder: str, key: str, pieces: int, arm: Arm, pairs: int, reading: Reading) -> None:
    """Join an arm's parts, read them, and write its scores and its leak map."""
    # Where classes can be told apart for sure the solver changes its method, and says so each time.
    warnings.filterwarnings("ignore", "Line search of Newton solver", ConvergenceWarning)
    parts: list[Arrays] = []
    for number in range(pieces):
        place = storage.join(folder, "parts", key, _part_name(number))
        if part := store.decode_statistics(storage.read(place)):
            parts.append(part)
    data = joined(parts, pairs) if parts else {}
    have = len(data["hash"]) if data else 0
    if have < FEWEST * pairs:
        raise UserError(
            f"the study has {have} pairs with every band, and study.pairs asks for {pairs}; "
            "give it more targets, or --set study.pairs to fewer"
        )
    scores, leak = arm_scores(data, arm, reading.spec)
    buffer = io.BytesIO()
    leak.to_parquet(buffer, index=False)
    storage.write(storage.join(folder, "results", f"{key}.parquet"), buffer.getvalue())
    # The scores last: they say that the arm is whole.
    storage.write(storage.join(folder, "results", f"{key}.npz"), store.encode_statistics(scores))


def _read_result(folder: str, key: str) -> Result:
    scores = store.decode_statistics(storage.read(storage.join(folder, "results", f"{key}.npz")))
    leak = storage.read(storage.join(folder, "results", f"{key}.parquet"))
    return Result(scores, pd.read_parquet(io.BytesIO(leak)))
