"""How far a run is, read from its folder alone: while it runs, and after a crash."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from darkhaloscope import storage, store
from darkhaloscope.errors import Reason, UserError

SILENT_S = 60.0
"""A run that gave no sign of life for so long is not running."""


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes
    ----------
    state : str
        ``whole``, ``running``, ``stopped`` (as asked, or by an error that it said), ``silent`` (no sign
        of life for a minute: it was killed, or its machine was lost), ``not started``.
    rows, rows_done, blocks, blocks_done : int
    rows_by_reason : dict
        Of the finished rows.
    running : list of (block, bricks, bricks done)
        Blocks in flight when the run gave its last sign of life.
    workers : int
    rows_per_s, eta_s : float or None
        Since the present call of ``dhs run`` began; None where nothing was finished since.
    last_sign_s : float or None
        Seconds since the last sign of life.
    set_apart : tuple of str
        Bricks in quarantine.
    """

    state: str
    rows: int
    rows_done: int
    blocks: int
    blocks_done: int
    rows_by_reason: dict[str, int]
    running: list[tuple[int, int, int]]
    workers: int
    rows_per_s: float | None
    eta_s: float | None
    last_sign_s: float | None
    set_apart: tuple[str, ...]
    judged: bool
    """Whether the run has its verdict, which comes after the last block."""


def status_of(run: str) -> Status:
    """Look at a run's folder; a path or any fsspec URL.

    Raises
    ------
    UserError
        It holds no run.
    """
    summary = store.read_run(run)
    if summary is None:
        raise UserError(f"{run} holds no run (no run.json); give the folder of a run")
    finished = [b for b in store.finished_blocks(run) if b < summary["blocks"]]
    said = store.read_progress(run)
    counts: Counter[str] = Counter()
    if said is not None and said["blocks_whole"] == len(finished):
        counts.update(said["rows_by_reason"])
    else:
        for marker in store.read_markers(run, finished, summary["identity"]):
            for by_reason in marker["counts"].values():
                counts.update(by_reason)
    done, rows = sum(counts.values()), summary["rows"]
    rate = last = None
    state = "whole" if len(finished) == summary["blocks"] else "not started"
    if said is not None:
        last = max(0.0, time.time() - said["written"])
        if state != "whole":
            silent = said["state"] == "running" and last > SILENT_S
            # Blocks of a whole run were dropped since.
            dropped = said["state"] == "whole"
            state = "silent" if silent else "stopped" if dropped else said["state"]
        spent = said["written"] - said["started"]
        fresh = said["rows_fresh"]
        rate = fresh / spent if fresh and spent > 0 else None
    going = said is not None and state == "running"
    return Status(
        state=state,
        rows=rows,
        rows_done=done,
        blocks=summary["blocks"],
        blocks_done=len(finished),
        rows_by_reason=dict(counts),
        running=[(t["block"], t["bricks"], t["bricks_done"]) for t in said["running"]]
        if said is not None and state in ("running", "silent")
        else [],
        workers=said["workers"] if said is not None and going else 0,
        rows_per_s=rate,
        eta_s=(rows - done) / rate if rate and going else None,
        last_sign_s=last,
        set_apart=tuple(sorted(store.bricks_set_apart(run))),
        judged=storage.exists(storage.join(run, "verdict.json")),
    )


def writes_now(run: str) -> float | None:
    """Seconds since the last sign of life of a run that is running; None where none is."""
    said = store.read_progress(run)
    if said is None or said["state"] != "running":
        return None
    last = max(0.0, time.time() - said["written"])
    return last if last <= SILENT_S else None


def how_to_mend(run: str, rows_by_reason: Mapping[str, int]) -> list[str]:
    """What to do about rows that files made fail, as one line; none where there are no such rows."""
    found = {r.text: n for r in Reason if r.of_files and (n := rows_by_reason.get(r.text, 0))}
    if not found:
        return []
    return [
        f"{sum(found.values())} rows failed for their files' sake: once these are mended, dhs repair {run} "
        f"--failed {','.join(found)} and the same dhs run make them again"
    ]


def lines(status: Status) -> list[str]:
    """A status in words."""
    share = status.rows_done / status.rows if status.rows else 1.0
    said = [
        f"{status.state}: {status.rows_done} of {status.rows} rows ({share:.0%}), "
        f"{status.blocks_done} of {status.blocks} blocks"
    ]
    counts = sorted(status.rows_by_reason.items())
    failed = [f"{n} {reason}" for reason, n in counts if Reason[reason.upper()].failed]
    said.append(f"failed: {', '.join(failed) or 'none'}")
    marked = [f"{n} {r}" for r, n in counts if r != Reason.OK.text and not Reason[r.upper()].failed]
    said += [f"marked: {', '.join(marked)}"] if marked else []
    if status.running:
        bricks = sum(n for _, n, _ in status.running)
        done = sum(n for _, _, n in status.running)
        in_flight = "in flight" if status.state == "running" else "were in flight"
        said.append(
            f"{len(status.running)} blocks {in_flight}, {done} of their {bricks} bricks injected"
            + (f"; {status.workers} workers" if status.workers else "")
        )
    if status.rows_per_s is not None:
        eta = f", ETA {status.eta_s:.0f} s" if status.eta_s is not None else ""
        said.append(f"{status.rows_per_s:.3g} rows/s{eta}")
    if status.set_apart:
        said.append(f"in quarantine: {', '.join(status.set_apart)}")
    if status.state == "whole" and not status.judged:
        said.append("not judged yet: the same dhs run goes on")
    if status.state != "whole" and status.last_sign_s is not None:
        said.append(f"last sign of life {status.last_sign_s:.0f} s ago")
    return said
