"""Whether a run's folder is whole, by what is cheap to look at: listings, markers and metadata.

:mod:`darkhaloscope.store.verify` reads every object.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from darkhaloscope import storage
from darkhaloscope.config import digest_of
from darkhaloscope.errors import UserError
from darkhaloscope.store.dataset import STAMPS, Layout, attributes, metadata_objects
from darkhaloscope.store.documents import parse
from darkhaloscope.store.markers import (
    check_none_lost,
    check_objects,
    finished_blocks,
    read_markers,
)
from darkhaloscope.store.run import read_run


def layout_of_run(run: str) -> Layout:
    """The layout that ``run.json`` speaks of.

    Raises
    ------
    UserError
        There is no run, or ``run.json`` is damaged.
    """
    summary = read_run(run)
    if summary is None:
        raise UserError(f"{run} holds no run (no run.json); give the folder of a run")
    try:
        document = summary["document"]
        return Layout(
            int(summary["rows"]),
            int(summary["block"]),
            tuple(document["survey"]["bands"]),
            int(document["stamp"]["size"]),
            attributes(summary["identity"], document["seed"], document["targets"]["splits"]),
            tuple(summary["kinds"]),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{run}/run.json is damaged; choose a new --out") from None


def check_stored(run: str, *, without: Sequence[str] = ()) -> None:
    """See that a run's objects are there, in the size that its markers say: a lost one reads as fill.

    Arrays named in ``without`` are not looked at, nor is the plan, which nobody reads who reads rows.

    Raises
    ------
    UserError
        There is no run, an object is missing or of another size, or a marker is damaged.
    """
    layout = layout_of_run(run)
    finished = [block for block in finished_blocks(run) if block < layout.blocks]
    markers = read_markers(run, finished, layout.attributes["identity"])
    check_objects(run, layout, markers, without=without, plan=False)


def check_not_lost(run: str) -> None:
    """See that a finished run lacks no object, which would read as fill; of anything else, nothing.

    Where the place gives objects but no listings, that is a warning.

    Raises
    ------
    UserError
        An object is missing, a marker is damaged, or another version made the run.
    """
    if read_run(run) is None:
        return
    layout = layout_of_run(run)
    try:
        finished = [block for block in finished_blocks(run) if block < layout.blocks]
        if len(finished) == layout.blocks:
            check_none_lost(run, layout, finished)
    except storage.StorageError as error:
        if error.passes:
            raise
        warnings.warn(f"a lost object of {run} would read as fill: {error}", stacklevel=3)


def doubt_of_run(run: str, layout: Layout) -> str | None:
    """What speaks against ``run.json``, on which every other proof and every repair stands; None for nothing.

    Rows, block and kinds are in no identity, so the data set is the witness: metadata that agree with each
    other, or most of which differ from what ``run.json`` makes, were not damaged one by one.
    """
    summary = read_run(run)
    assert summary is not None
    if digest_of(summary["document"]) != summary["identity"]:
        return "its identity is not that of its document"
    if summary["blocks"] != layout.blocks:
        return f"{layout.rows} rows in blocks of {layout.block} are {layout.blocks}, not {summary['blocks']}"
    wanted = {k: v for k, v in metadata_objects(layout).items() if k.endswith("zarr.json")}
    there = storage.read_objects(storage.join(run, STAMPS), list(wanted))
    stored = {key: data for key, data in there.items() if data is not None}
    root = stored.pop("zarr.json", None)
    if root == wanted["zarr.json"]:
        return None
    unlike = [key for key, data in stored.items() if data != wanted[key]]
    if 2 * len(unlike) <= len(stored) and not (unlike and _agrees(root, stored)):
        return None
    shape = _rows_and_block(stored.get("ctrl/zarr.json"))
    return (
        f"its rows, block and kinds ({layout.rows}, {layout.block}, {', '.join(layout.kinds) or 'none'}) are "
        f"not those of the arrays{shape}: dhs run with the same experiment writes it anew, unless another "
        "version of darkhaloscope made them"
    )


def _agrees(root: bytes | None, stored: Mapping[str, bytes]) -> bool:
    """Whether a group's consolidated metadata are those of its arrays."""
    group = parse(root or b"") or {}
    listed = (group.get("consolidated_metadata") or {}).get("metadata") or {}
    return all(
        listed.get(key.removesuffix("/zarr.json")) == parse(data) for key, data in stored.items()
    )


def _rows_and_block(metadata: bytes | None) -> str:
    """Rows and block that an array's metadata speak of, in brackets; nothing where they cannot be read."""
    array = parse(metadata or b"") or {}
    try:
        rows, block = array["shape"][0], array["chunk_grid"]["configuration"]["chunk_shape"][0]
    except (KeyError, TypeError, IndexError):
        return ""
    return f" ({rows}, {block})"
