"""What a run's folder says of the run itself: its signs of life, and the bricks that were set apart.

Nothing of this decides a pixel, but for a brick that is set apart: its rows fail as ``quarantined``.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd

from darkhaloscope import storage
from darkhaloscope.store.documents import Progress, is_whole, parse

PROGRESS = "progress.json"
QUARANTINE = "quarantine"
JOINT = "joint.parquet"


def write_progress(run: str, progress: dict[str, Any]) -> None:
    """Say how far a run is, for :func:`read_progress` of another process."""
    storage.write(storage.join(run, PROGRESS), json.dumps(progress, sort_keys=True).encode())


def read_progress(run: str) -> dict[str, Any] | None:
    """The last sign of life of a run; None where it gave none that can be read."""
    try:
        found = parse(storage.read(storage.join(run, PROGRESS)))
    except FileNotFoundError:
        return None
    return found if found is not None and is_whole(found, Progress) else None


def write_joint(run: str, joint: pd.DataFrame) -> None:
    """The joint table of a run, for its tasks and for whoever reads the plan later."""
    buffer = io.BytesIO()
    joint.to_parquet(buffer, index=False)
    storage.write(storage.join(run, JOINT), buffer.getvalue())


def set_apart(run: str, brick: str, block: int, deaths: int) -> None:
    """Record that a brick, alone in its task, killed one fresh worker after another.

    ``dhs repair`` takes it out again, and drops its blocks, so that a run tries it once more.
    """
    record = {"brick": brick, "block": block, "workers_killed": deaths}
    storage.write(
        storage.join(run, QUARANTINE, f"{brick}.json"), json.dumps(record, sort_keys=True).encode()
    )


def release_brick(run: str, brick: str) -> None:
    """Take a brick out of quarantine."""
    storage.remove(storage.join(run, QUARANTINE, f"{brick}.json"))


def bricks_set_apart(run: str) -> frozenset[str]:
    """Bricks in quarantine."""
    found = storage.names(storage.join(run, QUARANTINE))
    return frozenset(name.removesuffix(".json") for name in found if name.endswith(".json"))
