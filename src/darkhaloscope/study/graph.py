"""A study on a Dask client: bricks read once for all arms together, then each arm read by itself.

``parts/ARM-KEY/NNNNNN.npz`` are features of a few bricks, ``rows/KEY/NNNNNN.parquet`` what became of each of
their pairs, ``results/ARM-KEY.npz`` an arm's scores. KEY is of what they depend on, the coadds among it, so
that a study called again makes only what is not there, and of other coadds everything.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import xxhash
from distributed import Client, as_completed

from darkhaloscope import prepare, storage, store
from darkhaloscope.audit.leak_map import MOST
from darkhaloscope.audit.spec import THRESHOLD_MARGIN
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.plan import Plan
from darkhaloscope.study.arms import Arm, Study
from darkhaloscope.study.coadds import fingerprint
from darkhaloscope.study.numbers import ALL, Result
from darkhaloscope.study.parts import ROW_COLUMNS, SOUND, Arrays, Reading, brick_part
from darkhaloscope.study.readers import arm_scores, joined

PIECE_ROWS = 64
"""Rows of one task, at least: whole bricks."""

SPARE = 1.25
"""Rows planned for one that is read: some have no coverage in a band."""

FEWEST = 0.9
"""A study with fewer pairs than this fraction of what is asked for does not go on."""

READ, SPARED = "read", "spare"
"""Outcomes of a sound pair: among the first ``pairs``, or not needed."""

OUTCOME_COLUMNS = ["arm", "outcome", "pairs"]

T = TypeVar("T")
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Ready:
    """A study whose targets and coadds were looked at, and that can begin."""

    study: Study
    arms: Sequence[Arm]
    plan: Plan
    reading: Reading
    pieces: Sequence[Sequence[str]]
    """Bricks of each task."""
    keys: dict[str, str]
    """Names of the arms' parts and results."""

    @property
    def reference(self) -> Arm:
        """The arm ``none``."""
        return self.arms[0]

    @property
    def planned(self) -> int:
        """Rows of all pieces; where the plan has controls, pairs are fewer."""
        rows = dict(zip(self.plan.bricks, np.diff(self.plan.first_row), strict=True))
        return int(sum(rows[brick] for piece in self.pieces for brick in piece))


@dataclass(frozen=True)
class Read:
    """Every arm as its readers saw it, and what became of every planned pair."""

    results: dict[str, Result]
    """By the arms' names, in their order."""
    rows: pd.DataFrame
    """``brick``, ``slot``, ``hash``, ``outcome``: ``read``, ``spare`` (sound, and not needed), or why it is
    neither."""
    notes: list[str]
    """A sentence for every file that was in the way."""

    @property
    def outcomes(self) -> pd.DataFrame:
        """Pairs by arm and outcome, :data:`OUTCOME_COLUMNS`; of ``all`` arms every planned pair, of each arm
        those that were read, unless all are in use."""
        lines = [(ALL, name, n) for name, n in self.rows["outcome"].value_counts().items()]
        for arm, result in self.results.items():
            use, reason = result.scores["use"], result.scores["reason"]
            if use.all():
                continue
            why = np.array([Reason(code).text for code in reason.tolist()], dtype=object)
            why[reason == Reason.OK] = "not_redrawn"
            why[(reason == Reason.OK) & (result.scores["negative_row"] < 0)] = "no_match"
            why[use] = "in_use"
            lines += [(arm, name, n) for name, n in pd.Series(why).value_counts().items()]
        return pd.DataFrame(lines, columns=OUTCOME_COLUMNS)

    def sentence(self, asked: int) -> str:
        """What became of the planned pairs, with their numbers."""
        counts = self.rows["outcome"].value_counts()
        read = int(counts.get(READ, 0))
        left = ", ".join(f"{n} {name}" for name, n in counts.items() if name != READ)
        said = f"pairs: {read} of the {asked} asked for are read, of {len(self.rows)} planned"
        return f"{said}; {left}" if left else said


def prepare_study(study: Study, arms: Sequence[Arm]) -> Ready:
    """Look at targets and coadds, before a cluster is started.

    Parameters
    ----------
    arms : sequence of Arm
        As :func:`darkhaloscope.study.arms.load_study` gives them.

    Raises
    ------
    UserError
        The targets or the survey cannot be read, or there are fewer targets than pairs are asked for.
    """
    reference = arms[0]
    plan = prepare.plan_of(reference.experiment)
    planned = int(plan.first_row[-1] * (1.0 - reference.experiment.plan.control_fraction))
    if planned < FEWEST * study.pairs:
        raise UserError(_too_few(planned, study.pairs))
    prepare.preflight(plan)
    spec = prepare.spec_of(
        reference.experiment, prepare.planned_strata(plan), n_regions=plan.n_regions
    )
    fraction = min(1.0, THRESHOLD_MARGIN * MOST / study.pairs)
    pieces = _pieces(plan, study.pairs)
    pixels = fingerprint(reference.experiment, [brick for piece in pieces for brick in piece])
    keys = {
        arm.name: f"{arm.name}-{arm.key(_contents(arm, plan), study.pairs, pixels)}" for arm in arms
    }
    return Ready(study, arms, plan, Reading(spec, fraction, plan.joint), pieces, keys)


def is_made(folder: str, ready: Ready) -> bool:
    """Whether nothing is left of a study but to read what :func:`make_study` wrote."""
    arms = all(_is_read(folder, ready.keys[arm.name]) for arm in ready.arms)
    return arms and all(_there(folder, *_rows_place(ready, n)) for n in range(len(ready.pieces)))


def make_study(client: Client, folder: str, ready: Ready, on_step: OnStep) -> None:
    """Make and judge every arm; resumes where the folder holds a part of it.

    Parameters
    ----------
    folder : str
        Path or URL of the results.
    on_step : callable
        Told (what, done, all) as tasks finish.

    Raises
    ------
    UserError
        There are fewer pairs with every band than are asked for.
    Incomplete
        The survey was out of reach for some bricks; called again, the study makes theirs.
    """
    keys, pairs = ready.keys, ready.study.pairs
    wanted = [arm for arm in ready.arms if not _is_read(folder, keys[arm.name])]
    _make_parts(client, folder, ready, wanted, on_step)
    futures = [
        client.submit(
            judge_arm,
            folder,
            keys[arm.name],
            len(ready.pieces),
            arm,
            pairs,
            ready.reading,
            key=f"judge-{keys[arm.name]}-{_mark(folder)}",
        )
        for arm in wanted
    ]
    for done, future in enumerate(as_completed(futures), start=1):
        future.result()
        on_step("read arms", done, len(futures))


def read_study(folder: str, ready: Ready) -> Read:
    """What :func:`make_study` wrote.

    Raises
    ------
    UserError
        A file of it is cut short.
    """
    results = {arm.name: _read_result(folder, ready.keys[arm.name]) for arm in ready.arms}
    chosen = results[ready.reference.name].scores["hash"]
    return Read(results, *_planned_rows(folder, ready, chosen))


def _contents(arm: Arm, plan: Plan) -> dict[str, str]:
    """Digests of what an arm names: that of all arms, and of the galaxies that its own sources are."""
    if "IMAGE" not in arm.experiment.kinds:
        return plan.contents
    return prepare.plan_of(arm.experiment).contents


def _too_few(have: int | str, asked: int) -> str:
    return (
        f"the study has {have} pairs with every band, and study.pairs asks for {asked}; "
        "give it more targets, or --set study.pairs to fewer"
    )


def _there(folder: str, *parts: str) -> bool:
    return storage.exists(storage.join(folder, *parts))


def _is_read(folder: str, key: str) -> bool:
    return all(_there(folder, "results", f"{key}.{kind}") for kind in ("npz", "parquet"))


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
    client: Client, folder: str, ready: Ready, arms: Sequence[Arm], on_step: OnStep
) -> None:
    keys = ready.keys
    numbers = {}
    for number, bricks in enumerate(ready.pieces):
        lacking = [a for a in arms if not _there(folder, "parts", keys[a.name], _part(number))]
        if lacking or not _there(folder, *_rows_place(ready, number)):
            targets = [ready.plan.targets_of(brick) for brick in bricks]
            mark = xxhash.xxh64_hexdigest(repr([keys[a.name] for a in lacking]).encode())[:8]
            future = client.submit(
                make_piece,
                folder,
                number,
                targets,
                ready.reference,
                lacking,
                keys,
                ready.reading,
                key=f"arms-{number:06d}-{mark}-{_mark(folder)}",
            )
            numbers[future] = number
    most, asked = ready.planned, ready.study.pairs
    waiting = []
    for done, future in enumerate(as_completed(list(numbers)), start=1):
        if note := future.result():
            waiting.append(note)
        else:
            most -= int((_rows(folder, ready, numbers[future])["outcome"] != SOUND).sum())
        if most < FEWEST * asked:  # before hours of work on what is too little
            client.cancel(list(numbers))
            raise UserError(_too_few(f"at most {most}", asked))
        on_step("make arms", done, len(numbers))
    if waiting:
        raise Incomplete(
            f"the survey was out of reach for {len(waiting)} of {len(ready.pieces)} groups of bricks, and "
            f"the study waits for them: {min(waiting).rstrip('.')}; call the same command again, it resumes"
        )


def _part(number: int) -> str:
    return f"{number:06d}.npz"


def _rows_place(ready: Ready, number: int) -> tuple[str, ...]:
    return "rows", ready.keys[ready.reference.name], f"{number:06d}.parquet"


def _rows(folder: str, ready: Ready, number: int) -> pd.DataFrame:
    """What became of the pairs of some bricks."""
    return _whole(storage.join(folder, *_rows_place(ready, number)), _table)


def _table(data: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(data))


def _whole(url: str, decode: Callable[[bytes], T]) -> T:
    """A file of a study, read.

    Raises
    ------
    UserError
        It is cut short: every file was written whole, so something else did that.
    """
    data = storage.read(url)
    try:
        return decode(data)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        raise UserError(
            f"{url} is cut short or damaged; remove it, and the same command makes it again"
        ) from None


def make_piece(
    folder: str,
    number: int,
    targets: Sequence[pd.DataFrame],
    reference: Arm,
    arms: Sequence[Arm],
    keys: dict[str, str],
    reading: Reading,
) -> str:
    """Read some bricks, each once for all arms, and write a part of every arm.

    Returns
    -------
    str
        Empty; or why the survey is out of reach, and then nothing was written: what an outage left would
        stand for what the survey has.
    """
    bricks = []
    for table in targets:
        bricks.append(brick_part(table, reference, arms, reading))
        if bricks[-1].out_of_reach:
            return bricks[-1].notes[-1] if bricks[-1].notes else "a brick cannot be read"
    for arm in arms:
        parts = [brick.arms[arm.name] for brick in bricks if brick.arms]
        merged = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} if parts else {}
        place = storage.join(folder, "parts", keys[arm.name], _part(number))
        storage.write(place, store.encode_statistics(merged))
    rows = pd.concat([brick.rows for brick in bricks], ignore_index=True)
    rows = rows.astype({"brick": str, "slot": np.int64, "hash": np.uint64, "outcome": str})
    rows.attrs["notes"] = [note for brick in bricks for note in brick.notes]
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False)
    # Last: what says what became of the rows says that their parts are whole.
    place = storage.join(folder, "rows", keys[reference.name], f"{number:06d}.parquet")
    storage.write(place, buffer.getvalue())
    return ""


def _planned_rows(folder: str, ready: Ready, chosen: np.ndarray) -> tuple[pd.DataFrame, list[str]]:
    """What became of every planned pair, and the notes of all bricks."""
    tables = [_rows(folder, ready, number) for number in range(len(ready.pieces))]
    rows = pd.concat(tables, ignore_index=True)[ROW_COLUMNS]
    sound = rows["outcome"] == SOUND
    rows.loc[sound, "outcome"] = np.where(rows["hash"][sound].isin(chosen), READ, SPARED)
    return rows, [note for table in tables for note in table.attrs.get("notes", [])]


def judge_arm(folder: str, key: str, pieces: int, arm: Arm, pairs: int, reading: Reading) -> None:
    """Join an arm's parts, read them, and write its scores and its leak map."""
    # Where classes can be told apart for sure the solver changes its method, and says so each time.
    from sklearn.exceptions import ConvergenceWarning  # slow to import

    warnings.filterwarnings("ignore", "Line search of Newton solver", ConvergenceWarning)
    parts: list[Arrays] = []
    for number in range(pieces):
        place = storage.join(folder, "parts", key, _part(number))
        if part := _whole(place, store.decode_statistics):
            parts.append(part)
    data = joined(parts, pairs) if parts else {}
    have = len(data["hash"]) if data else 0
    if have < FEWEST * pairs:
        raise UserError(_too_few(have, pairs))
    scores, leak = arm_scores(data, arm, reading.spec)
    buffer = io.BytesIO()
    leak.to_parquet(buffer, index=False)
    storage.write(storage.join(folder, "results", f"{key}.parquet"), buffer.getvalue())
    # The scores last: they say that the arm is whole.
    storage.write(storage.join(folder, "results", f"{key}.npz"), store.encode_statistics(scores))


def _read_result(folder: str, key: str) -> Result:
    place = storage.join(folder, "results", key)
    scores = _whole(f"{place}.npz", store.decode_statistics)
    return Result(scores, _whole(f"{place}.parquet", _table))
