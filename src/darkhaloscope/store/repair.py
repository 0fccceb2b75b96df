"""Take away what is broken in a run's folder, so that a resume makes it again, the same bytes.

Nothing is made here but the data set's metadata, which follow from ``run.json``. Files that are not of
the run are left alone: they are somebody's.
"""

from __future__ import annotations

from typing import NamedTuple

from darkhaloscope import storage
from darkhaloscope.store.dataset import STAMPS, Layout, block_keys, metadata_objects
from darkhaloscope.store.planned import PLAN
from darkhaloscope.store.run import block_url
from darkhaloscope.store.verify import Finding, Verification, layout_of_run


class Repair(NamedTuple):
    """What a repair did."""

    blocks: tuple[int, ...]
    """Blocks that were dropped; a resume makes them again."""
    plan: bool
    """Whether the plan was dropped; a resume writes it again."""
    metadata: tuple[str, ...]
    """Metadata of the data set that were written again."""
    swept: int
    """Leftovers of killed writers that were removed."""
    left: tuple[Finding, ...]
    """What is still there: files that are not of the run, and what cannot be mended."""

    @property
    def needs_resume(self) -> bool:
        """Whether ``dhs run`` has something to make again."""
        return bool(self.blocks) or self.plan


def drop_block(run: str, layout: Layout, block: int) -> None:
    """Take one block away; a resume makes it again."""
    # Marker first: killed right here, the block is one that was never finished.
    storage.remove(block_url(run, block, "json"))
    storage.remove(block_url(run, block, "npz"))
    for key in block_keys(layout, block):
        storage.remove(storage.join(run, STAMPS, key))


def repair_run(run: str, found: Verification) -> Repair:
    """Drop every broken block, marker first, and whatever else can be made again.

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
    layout = layout_of_run(run)
    stamps = storage.join(run, STAMPS)
    for block in found.broken_blocks:
        drop_block(run, layout, block)
    others = [finding for finding in found.of_kind("broken") if finding.block is None]
    metadata = metadata_objects(layout)
    wrong = [key for key in metadata if any(f.where == f"{STAMPS}/{key}" for f in others)]
    storage.write_all(stamps, {key: metadata[key] for key in wrong})
    plan = any(f.where.split("/")[0] == PLAN for f in others)
    if plan:
        for name in storage.names(storage.join(run, PLAN)):
            storage.remove(storage.join(run, PLAN, name))
    mended = {f"{STAMPS}/{key}" for key in wrong}
    left = [f for f in others if f.where not in mended and f.where.split("/")[0] != PLAN]
    return Repair(
        tuple(found.broken_blocks),
        plan,
        tuple(wrong),
        storage.sweep(run),
        (*left, *found.of_kind("foreign")),
    )
