"""Proof that a run's folder holds what its markers and its plan say, block by block.

Every object of a finished block is read once: its checksum against the marker, then, decoded from the
same bytes, the counts of outcomes, finite values, and the planned columns against ``plan/``. What is
in the folder beside that is named too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr

from darkhaloscope import partial, storage
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.plan import joint_digest
from darkhaloscope.store.dataset import (
    STAMPS,
    Layout,
    block_keys,
    decode_block,
    metadata_objects,
)
from darkhaloscope.store.markers import (
    count_outcomes,
    read_marker,
)
from darkhaloscope.store.planned import PLAN, decode_plan, part_name
from darkhaloscope.store.run import EXPERIMENT, RUN_JSON, read_experiment, read_run
from darkhaloscope.store.state import JOINT, QUARANTINE
from darkhaloscope.store.whole import doubt_of_run, layout_of_run
from darkhaloscope.variables import ALL_VARIABLES, Variable, without_data

THREADS = 4
"""Blocks that are verified at once: each holds one block's pixels."""

Kind = Literal["broken", "set apart", "leftover", "foreign"]


class Finding(NamedTuple):
    """One thing that is wrong.

    ``broken``: of the run, and not what it should be; ``set apart``: rows of a brick in quarantine, as
    they should be; ``leftover``: what a killed writer left, harmless; ``foreign``: not of the run.
    """

    kind: Kind
    block: int | None
    where: str
    """An array, or a file below the run's folder."""
    brick: str
    """The brick of the first bad row, or the bricks of the block; empty where none is meant."""
    says: str


class Verification(NamedTuple):
    """What was found in a run's folder."""

    blocks: int
    finished: int
    """Blocks that have a marker."""
    findings: tuple[Finding, ...]

    def of_kind(self, *kinds: Kind) -> list[Finding]:
        """The findings of some kinds."""
        return [finding for finding in self.findings if finding.kind in kinds]

    @property
    def broken_blocks(self) -> list[int]:
        """Blocks that must be made again."""
        return sorted({f.block for f in self.of_kind("broken") if f.block is not None})

    @property
    def blocks_set_apart(self) -> list[int]:
        """Blocks that hold rows of a brick in quarantine."""
        return sorted({f.block for f in self.of_kind("set apart") if f.block is not None})


OnBlock = Callable[[int], None]


def verify_run(
    run: str, *, threads: int = THREADS, on_block: OnBlock = lambda _: None
) -> Verification:
    """Compare a run's folder with its markers and its plan.

    Parameters
    ----------
    run : str
        A path or any fsspec URL.
    threads : int
        Blocks at once; memory is that of so many blocks, whatever the size of the run.
    on_block : callable
        Told of each verified block.

    Raises
    ------
    UserError
        There is no run, another version made it, or the place cannot be read.
    """
    layout = layout_of_run(run)
    stored = storage.sizes(run)
    finished = sorted(_numbers(stored, "blocks/", "json"))
    inside = [block for block in finished if block < layout.blocks]
    if (doubt := doubt_of_run(run, layout)) is not None:
        # All else is held against what run.json says: it would all seem broken.
        found = Finding("broken", None, RUN_JSON, "", doubt)
        return Verification(layout.blocks, len(inside), (found,))
    _refuse_another_version(run, layout, stored)
    findings = list(_beside_the_blocks(run, layout, stored))
    with ThreadPoolExecutor(threads) as pool:
        running = {pool.submit(_verify_block, run, layout, block): block for block in inside}
        for done in as_completed(running):
            findings += done.result()
            on_block(running.pop(done))
    findings.sort(key=lambda f: (-1 if f.block is None else f.block, f.where, f.says))
    return Verification(layout.blocks, len(inside), tuple(dict.fromkeys(findings)))


def _refuse_another_version(run: str, layout: Layout, stored: Mapping[str, int]) -> None:
    """A whole data set of other arrays is another version's, and not damage."""
    ours = {variable.name for variable in layout.variables}
    for block in sorted(_numbers(stored, "blocks/", "json")):
        try:
            marker = read_marker(run, block, layout.attributes["identity"])
        except UserError:
            continue
        theirs = {key.split("/")[0] for key in (marker or {"objects": ()})["objects"]}
        on_disk = {key.split("/")[1] for key in stored if key.startswith(f"{STAMPS}/")}
        if theirs != ours and theirs <= on_disk:
            raise UserError(
                f"the arrays of {run} are not those that this version of darkhaloscope makes; "
                "use the version in its run.json"
            )
        return


def _numbers(stored: Mapping[str, int], folder: str, kind: str) -> set[int]:
    """Numbers of the blocks that have a file of a kind in a folder."""
    pattern = re.compile(rf"{folder}([0-9]{{6,}})\.{kind}")
    return {int(match[1]) for key in stored if (match := pattern.fullmatch(key))}


# --- what is not of a block -------------------------------------------------------------------


def _beside_the_blocks(run: str, layout: Layout, stored: Mapping[str, int]) -> Iterator[Finding]:
    """Metadata that are wrong, leftovers, and what is not of the run."""
    summary = read_run(run)
    assert summary is not None
    metadata = metadata_objects(layout)
    read = storage.read_objects(storage.join(run, STAMPS), list(metadata))
    for key, wanted in metadata.items():
        if read[key] != wanted:
            says = "is missing" if read[key] is None else "is not what the experiment makes"
            yield Finding("broken", None, f"{STAMPS}/{key}", "", says)
    try:
        read_experiment(run)
    except storage.StorageError:
        raise  # it is out of reach, which says nothing of it
    except UserError:
        says = "is missing or damaged; the same dhs run writes it anew"
        yield Finding("broken", None, EXPERIMENT, "", says)
    yield from _joint_table(run, summary["document"]["contents"].get("joint"))
    expected = {f"{STAMPS}/{key}" for key in metadata}
    for block in range(layout.blocks):
        expected |= {f"{STAMPS}/{key}" for key in block_keys(layout, block)}
        expected |= {f"blocks/{block:06d}.{kind}" for kind in ("json", "npz", "claim")}
        expected.add(f"{PLAN}/{part_name(block)}")
    ours = tuple(f"{folder}/" for folder in (STAMPS, "blocks", PLAN))
    record = re.compile(rf"{QUARANTINE}/[0-9]{{4}}[pm][0-9]{{3}}\.json")
    for key in stored:
        if key.endswith(partial.ENDING):
            yield Finding("leftover", None, key, "", "was left by a killed writer")
        elif key.startswith(ours) and key not in expected:
            yield Finding("foreign", None, key, "", "is not of this run")
        elif key.endswith(".claim"):
            says = "claims a block for a writer that was killed, or writes now"
            yield Finding("leftover", None, key, "", says)
        elif key.startswith(f"{QUARANTINE}/") and not record.fullmatch(key):
            yield Finding("foreign", None, key, "", "is not of this run")


def _joint_table(run: str, wanted: str | None) -> Iterator[Finding]:
    """The run's copy of the joint table against the identity's document."""
    if wanted is None:
        return
    data = storage.read_objects(run, [JOINT])[JOINT]
    table = None if data is None else decode_plan(data)
    if table is None:
        says = "is missing" if data is None else "cannot be read"
    elif joint_digest(table) != wanted:
        says = "is not the table that the run was begun with"
    else:
        return
    yield Finding("broken", None, JOINT, "", says)


# --- one block --------------------------------------------------------------------------------


def _verify_block(run: str, layout: Layout, block: int) -> list[Finding]:
    rows = layout.rows_of(block)
    part = f"{PLAN}/{part_name(block)}"
    data = storage.read_objects(run, [part])[part]
    planned = None if data is None else decode_plan(data)
    bricks = "" if planned is None else _bricks(planned)
    marker_name = f"blocks/{block:06d}.json"
    try:
        marker = read_marker(run, block, layout.attributes["identity"])
    except UserError as error:
        return [Finding("broken", block, marker_name, bricks, str(error).split(";")[0])]
    if marker is None:
        return []  # taken away since the listing
    if set(marker["objects"]) != set(block_keys(layout, block)):
        return [
            Finding("broken", block, marker_name, bricks, "lists other objects than a block has")
        ]
    objects = storage.read_objects(storage.join(run, STAMPS), list(marker["objects"]))
    found = [
        Finding("broken", block, key.split("/")[0], bricks, says)
        for key, described in marker["objects"].items()
        if (says := _compare(objects[key], described)) is not None
    ]
    npz = f"blocks/{block:06d}.npz"
    statistics = storage.read_objects(storage.join(run, "blocks"), [f"{block:06d}.npz"])
    says_npz = _compare(statistics[f"{block:06d}.npz"], {"sha256": marker["statistics"]})
    if says_npz is not None:
        found.append(Finding("broken", block, npz, bricks, says_npz))
    if found:
        return found  # what is in damaged objects says nothing more
    try:
        cube = decode_block(layout, block, objects)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        text = f"cannot be decoded ({type(error).__name__})"
        return [Finding("broken", block, STAMPS, bricks, text)]
    return [*_contents(block, cube, marker), *_against_plan(part, rows, cube, data, marker)]


def _compare(data: bytes | None, described: Mapping[str, Any] | None) -> str | None:
    """What is wrong with an object, against the marker's words on it; None for nothing."""
    if described is None:
        return None if data is None else "is there, and its marker says that it is all fill"
    if data is None:
        return "is missing"
    if len(data) != described.get("bytes", len(data)):
        return f"has {len(data)} bytes, and {described['bytes']} in its marker"
    if hashlib.sha256(data).hexdigest() != described["sha256"]:
        return "is not what its marker says (checksum)"
    return None


def _contents(block: int, cube: xr.Dataset, marker: Mapping[str, Any]) -> Iterator[Finding]:
    """Counts and finite values of a decoded block."""
    brick = cube["brick"].values
    if (counts := count_outcomes(cube)) != marker["counts"]:
        says = f"the marker counts {marker['counts']}, and its rows are {counts}"
        yield Finding("broken", block, "reason", _some(brick), says)
    reason = cube["reason"].values
    ok = ~np.isin(reason, [code for code in Reason if code.failed])
    injected = ok & (cube["lens_model"].values > 0)
    no_data = without_data(cube["nodata"].values, cube.sizes["band"])
    bad = {
        "reason": reason == Reason.NOT_WRITTEN,
        **{
            name: ~np.isfinite(cube[name].values).all(axis=(1, 2, 3))
            for name in ("arc", "extra")
            if name in cube
        },
        "ctrl": (~np.isfinite(cube["ctrl"].values) & ~no_data).any(axis=(1, 2, 3)),
        **{n: injected & ~np.isfinite(cube[n].values) for n in ("arc_snr", "magnification")},
    }
    if "invvar" in cube:
        invvar = cube["invvar"].values
        bad["invvar"] = ~np.isfinite(invvar).all(axis=(1, 2, 3))
        unlike = ok & ((invvar > 0) == no_data).any(axis=(1, 2, 3))
        if unlike.any():
            text = f"{int(unlike.sum())} rows have an invvar that nodata denies"
            yield Finding("broken", block, "invvar", str(brick[unlike.argmax()]), text)
    if (apart := reason == Reason.QUARANTINED).any():
        says = f"{int(apart.sum())} rows were set apart; dhs repair has them tried again"
        yield Finding("set apart", block, "reason", _some(brick[apart]), says)
    for name, rows in bad.items():
        if rows.any():
            says = "not written" if name == "reason" else "not finite"
            text = f"{int(rows.sum())} rows are {says}"
            yield Finding("broken", block, name, str(brick[rows.argmax()]), text)


def _against_plan(
    part: str, rows: slice, cube: xr.Dataset, data: bytes | None, marker: Mapping[str, Any]
) -> Iterator[Finding]:
    """A part of the plan against its block. The block's checksums are right: where the two differ,
    the plan was changed."""
    planned = None if data is None else decode_plan(data)
    count = rows.stop - rows.start
    wrong = _compare(data, marker["plan"]) if marker["plan"] is not None else None
    if planned is None:
        if data is not None or marker["plan"] is not None:
            says = "is missing" if data is None else "cannot be read"
            yield Finding("broken", None, part, "", says)
        return
    if len(planned) != count:
        says = f"has {len(planned)} rows, and its block {count}"
        yield Finding("broken", None, part, "", says)
        return
    for variable in ALL_VARIABLES:
        stored = cube[variable.name].values if variable.name in cube else None
        values = _planned_values(variable, planned, cube)
        if stored is None or values is None:
            continue
        differs = values != stored
        if variable.dtype in ("f4", "f8"):
            differs &= ~(np.isnan(values) & np.isnan(stored))
        rows_differ = differs.reshape(count, -1).any(axis=1)
        if rows_differ.any():
            brick = str(cube["brick"].values[int(rows_differ.argmax())])
            says = f"{variable.name} of {int(rows_differ.sum())} rows is not the stored one"
            yield Finding("broken", None, part, brick, says)
            wrong = None
    if wrong is not None:
        yield Finding("broken", None, part, "", wrong)


def _planned_values(variable: Variable, planned: Any, cube: xr.Dataset) -> Any:
    """A variable's planned values as they are stored; None where it is not planned."""
    dtype = object if variable.dtype == "str" else variable.dtype
    if variable.name in planned:
        return planned[variable.name].to_numpy(dtype)
    names = [f"{variable.name}_{band}" for band in cube["band"].values]
    if "band" in variable.dims and set(names) <= set(planned):
        return planned[names].to_numpy(dtype)
    return None


def _bricks(planned: Any) -> str:
    return _some(planned["brick"].to_numpy(object)) if "brick" in planned else ""


def _some(bricks: Any) -> str:
    """The first brick, and how many more there are."""
    names = list(dict.fromkeys(map(str, bricks)))
    return " and ".join([*names[:1], *([f"{len(names) - 1} more"] if len(names) > 1 else [])])
