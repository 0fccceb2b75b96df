"""The planned rows of a run's folder: ``plan/k.parquet`` has those of block k, and is written with it."""

from __future__ import annotations

import io
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from darkhaloscope import storage

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
    """Remove parts of an earlier plan from block number ``blocks`` on."""
    kept = {part_name(block) for block in range(blocks)}
    for name in set(storage.names(storage.join(run, PLAN))) - kept:
        storage.remove(storage.join(run, PLAN, name))


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
