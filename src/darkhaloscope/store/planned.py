"""The planned rows of a run's folder: ``plan/k.parquet`` has those of block k, and is written with it."""

from __future__ import annotations

import io
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from darkhaloscope import partial, storage
from darkhaloscope.errors import UserError

PLAN = "plan"

_PART_NAME = re.compile(r"([0-9]{6,})\.parquet")
_UNREADABLE = (pa.ArrowException, OSError, ValueError)


def encode_plan(planned: pd.DataFrame) -> bytes:
    """Planned rows as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    planned.to_parquet(buffer, index=False)
    return buffer.getvalue()


def write_plan(run: str, block: int, planned: pd.DataFrame) -> None:
    """Write the part of the plan that one block is made from."""
    storage.write(part_url(run, block), encode_plan(planned))


def drop_plan(run: str, blocks: int) -> None:
    """Remove parts of an earlier plan from block number ``blocks`` on; other files are somebody's."""
    for block in planned_blocks(run):
        if block >= blocks:
            storage.remove(part_url(run, block))


def check_part(run: str, block: int, part: bytes) -> None:
    """See that the part of the plan that is there, if any, has the rows that the experiment plans.

    Raises
    ------
    UserError
        It has others.
    """
    there = storage.read_objects(storage.join(run, PLAN), [part_name(block)])[part_name(block)]
    if there is None or there == part:
        return
    found, planned = decode_plan(there), decode_plan(part)
    if found is None or planned is None or not found.equals(planned):
        raise UserError(
            f"{part_url(run, block)} is not what the experiment plans: it was edited, or is another "
            f"experiment's; delete {storage.join(run, PLAN)} and run again, or choose a new --out"
        )


def foreign_in_plan(run: str) -> list[str]:
    """Files below ``plan`` that are no parts of a plan, nor left by a killed writer."""
    found = storage.names(storage.join(run, PLAN))
    return [n for n in found if not _PART_NAME.fullmatch(n) and not n.endswith(partial.ENDING)]


def decode_plan(data: bytes) -> pd.DataFrame | None:
    """The rows of :func:`encode_plan`; None where they cannot be read."""
    try:
        return pq.read_table(io.BytesIO(data)).to_pandas()
    except _UNREADABLE:
        return None


def planned_blocks(run: str) -> frozenset[int]:
    """Numbers of the blocks that have their part of the plan, from one listing."""
    found = storage.names(storage.join(run, PLAN))
    return frozenset(int(match[1]) for name in found if (match := _PART_NAME.fullmatch(name)))


def part_name(block: int) -> str:
    """Name of a block's part of the plan, below ``plan``."""
    return f"{block:06d}.parquet"


def part_url(run: str, block: int) -> str:
    """Where a block's part of the plan is."""
    return storage.join(run, PLAN, part_name(block))
