"""Take away what is broken in a run's folder, so that a resume makes it again, the same bytes.

Nothing is made here but the data set's metadata, which follow from ``run.json``. Files that are not of
the run are left alone: they are somebody's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from darkhaloscope import storage
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.store.dataset import STAMPS, Layout, block_keys, metadata_objects
from darkhaloscope.store.markers import block_url, finished_blocks, read_markers
from darkhaloscope.store.planned import PLAN
from darkhaloscope.store.run import RUN_JSON
from darkhaloscope.store.state import JOINT, bricks_set_apart, release_brick
from darkhaloscope.store.verify import Finding, Verification
from darkhaloscope.store.whole import doubt_of_run, layout_of_run
from darkhaloscope.store.write import release_claim


class Repair(NamedTuple):
    """What a repair did."""

    blocks: tuple[int, ...]
    """Blocks that were dropped; a resume makes them again."""
    plan: tuple[str, ...]
    """Parts of the plan, or the joint table, that were dropped; a resume writes them again."""
    released: tuple[str, ...]
    """Bricks that were in quarantine; a resume tries them again."""
    metadata: tuple[str, ...]
    """Metadata of the data set that were written again."""
    swept: int
    """Leftovers of killed writers that were removed."""
    left: tuple[Finding, ...]
    """What is still there: files that are not of the run, and what cannot be mended."""
    missing: int = 0
    """Blocks that were not there before."""

    @property
    def needs_resume(self) -> bool:
        """Whether ``dhs run`` has something to make again."""
        return bool(self.blocks or self.plan or self.missing)


def drop_block(run: str, layout: Layout, block: int) -> None:
    """Take one block away; a resume makes it again."""
    # Marker first: killed right here, the block is one that was never finished.
    storage.remove(block_url(run, block, "json"))
    storage.remove(block_url(run, block, "npz"))
    for key in block_keys(layout, block):
        storage.remove(storage.join(run, STAMPS, key))


class DroppedRows(NamedTuple):
    """What was dropped for the sake of rows that failed."""

    blocks: tuple[int, ...]
    """A resume makes them again."""
    failed: dict[Reason, int]
    """Rows with each of the reasons."""
    rows: int
    """All rows of these blocks."""


def drop_failed(run: str, reasons: Collection[Reason]) -> DroppedRows:
    """Drop every finished block that holds rows which failed for some reasons, by its marker alone.

    Parameters
    ----------
    run : str
        A run's folder that nothing writes to meanwhile.
    reasons : collection of Reason

    Raises
    ------
    UserError
        There is no run, ``run.json`` is not the data set's, a marker is damaged, or the place cannot be
        written.
    """
    layout = layout_of_run(run)
    if (doubt := doubt_of_run(run, layout)) is not None:
        raise UserError(f"{storage.join(run, RUN_JSON)} is not to be trusted: {doubt}")
    numbers = sorted(block for block in finished_blocks(run) if block < layout.blocks)
    dropped, failed, rows = [], Counter[Reason](), 0
    for marker in read_markers(run, numbers, layout.attributes["identity"]):
        counts = Counter[Reason]()
        for by_reason in marker["counts"].values():
            counts.update({Reason[text.upper()]: count for text, count in by_reason.items()})
        found = {reason: counts[reason] for reason in reasons if counts[reason]}
        if found:
            drop_block(run, layout, marker["block"])
            dropped.append(marker["block"])
            failed.update(found)
            rows += counts.total()
    return DroppedRows(tuple(dropped), dict(failed), rows)


def repair_run(run: str, found: Verification) -> Repair:
    """Drop every broken block, marker first, and whatever else can be made again; nothing at all while
    ``run.json`` is in doubt.

    Bricks in quarantine are released: the blocks that hold rows of them are dropped too.

    Parameters
    ----------
    run : str
        A run's folder that nothing writes to meanwhile.
    found : Verification
        :func:`~darkhaloscope.store.verify_run` of it.

    Raises
    ------
    UserError
        The place cannot be written.
    """
    doubts = [finding for finding in found.findings if finding.where == RUN_JSON]
    if doubts:
        return Repair((), (), (), (), 0, tuple(doubts))
    layout = layout_of_run(run)
    stamps = storage.join(run, STAMPS)
    dropped = sorted({*found.broken_blocks, *found.blocks_set_apart})
    for block in dropped:
        drop_block(run, layout, block)
    released = sorted(bricks_set_apart(run))
    for brick in released:
        release_brick(run, brick)
    others = [finding for finding in found.of_kind("broken") if finding.block is None]
    metadata = metadata_objects(layout)
    wrong = [key for key in metadata if any(f.where == f"{STAMPS}/{key}" for f in others)]
    storage.write_all(stamps, {key: metadata[key] for key in wrong})
    plan = sorted({f.where for f in others if f.where == JOINT or f.where.startswith(f"{PLAN}/")})
    for name in plan:
        storage.remove(storage.join(run, name))
    claims = [f.where for f in found.of_kind("leftover") if f.where.endswith(".claim")]
    for name in claims:
        release_claim(run, int(name.removeprefix("blocks/").removesuffix(".claim")))
    mended = {*(f"{STAMPS}/{key}" for key in wrong), *plan}
    left = [f for f in others if f.where not in mended]
    return Repair(
        tuple(dropped),
        tuple(plan),
        tuple(released),
        tuple(wrong),
        storage.sweep(run) + len(claims),
        (*left, *found.of_kind("foreign")),
        found.blocks - found.finished,
    )
