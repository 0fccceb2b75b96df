"""What is done with a run's folder: verify, repair, export, status."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from darkhaloscope import (
    prepare,
    storage,
    store,
)
from darkhaloscope.commands.common import (
    EXIT_BUG,
    EXIT_INCOMPLETE,
    drop_conclusions,
)
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.mapping import load_mapping
from darkhaloscope.progress import Bar
from darkhaloscope.status import SILENT_S, Status, how_to_mend, lines, status_of, writes_now


def verify(run: str, *, threads: int = 4, console: Console | None = None) -> store.Verification:
    """Prove that a run's folder holds what its markers and its plan say; print what does not.

    Parameters
    ----------
    run : str
        A run's folder; a path or any fsspec URL.
    threads : int
        Blocks that are read at once; memory is that of so many blocks.
    """
    console = console or Console()
    run = storage.absolute(run)
    blocks = len(store.finished_blocks(run))
    with Bar(console, "verify", blocks, "blocks") as bar:
        found = store.verify_run(run, threads=threads, on_block=lambda _: bar.advance(1))
    if found.findings:
        table = Table(box=None, pad_edge=False)
        for name in ("block", "where", "brick", "what is wrong"):
            table.add_column(name, overflow="fold")
        for finding in found.findings:
            block = "" if finding.block is None else str(finding.block)
            table.add_row(block, finding.where, finding.brick, finding.says)
        console.print(table)
    wrong = len(found.of_kind("broken", "foreign"))
    console.print(
        f"{found.finished} of {found.blocks} blocks are finished; "
        + (f"{wrong} things are wrong" if wrong else "what is there is what it should be"),
        highlight=False,
    )
    if any(finding.where != store.RUN_JSON for finding in found.of_kind("broken")):
        console.print(f"dhs repair {run} drops what is broken", soft_wrap=True, highlight=False)
    return found


def verify_exit_code(found: store.Verification) -> int:
    """0 proved complete, 1 something is wrong, 4 right as far as it goes."""
    if found.of_kind("broken", "foreign"):
        return EXIT_BUG
    return 0 if found.finished == found.blocks else EXIT_INCOMPLETE


def repair(run: str, *, threads: int = 4, console: Console | None = None) -> store.Repair:
    """Verify a run's folder and drop what is broken, so that ``dhs run`` makes it again.

    Raises
    ------
    UserError
        A run writes to the folder.
    """
    console = console or Console()
    run = storage.absolute(run)
    _check_nobody_writes(run)
    done = store.repair_run(run, verify(run, threads=threads, console=console))
    if done.needs_resume:
        drop_conclusions(run)
    named = ", ".join(map(str, done.blocks)) or "none"
    console.print(
        f"dropped blocks: {named}; parts of the plan: {len(done.plan)}; bricks out of quarantine: "
        f"{', '.join(done.released) or 'none'}; metadata written again: {len(done.metadata)}; "
        f"leftovers removed: {done.swept}",
        soft_wrap=True,
        highlight=False,
    )
    for finding in done.left:
        console.print(
            f"left alone: {finding.where} {finding.says}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    if done.needs_resume:
        console.print("dhs run with the same experiment and --out makes them again")
    return done


def repair_exit_code(done: store.Repair) -> int:
    """0 nothing was or is wrong, 1 something is left that only its owner can mend, 4 to be resumed."""
    if done.left:
        return EXIT_BUG
    return EXIT_INCOMPLETE if done.needs_resume else 0


def repair_failed(
    run: str, reasons: Iterable[str], *, console: Console | None = None
) -> store.DroppedRows:
    """Drop the finished blocks that hold rows which files made fail, so that ``dhs run`` makes them again.

    Nothing is verified: the markers say which blocks these are.

    Parameters
    ----------
    run : str
        A run's folder; a path or any fsspec URL.
    reasons : iterable of str
        Reasons that files cause, as the data set has them: ``unreadable``, ``missing_file``, …

    Raises
    ------
    UserError
        Files cause no such reason, or a run writes to the folder.
    """
    console = console or Console()
    run = storage.absolute(run.rstrip("/"))
    wanted = [_reason_of_files(text) for text in reasons]
    _check_nobody_writes(run)
    done = store.drop_failed(run, wanted)
    if not done.blocks:
        texts = " or ".join(reason.text for reason in wanted)
        console.print(f"no row of a finished block is {texts}", highlight=False)
        return done
    drop_conclusions(run)
    said = ", ".join(f"{count} {reason.text}" for reason, count in sorted(done.failed.items()))
    console.print(
        f"dropped {len(done.blocks)} blocks of {done.rows} rows, which hold the rows that failed: {said}",
        soft_wrap=True,
        highlight=False,
    )
    console.print("dhs run with the same experiment and --out makes them again")
    return done


def _reason_of_files(text: str) -> Reason:
    known = {reason.text: reason for reason in Reason if reason.of_files}
    if text not in known:
        raise UserError(
            f"--failed {text}: files cause {', '.join(known)}; other rows would fail again, and those of "
            "bricks in quarantine are tried again after dhs repair without --failed"
        )
    return known[text]


def _check_nobody_writes(run: str) -> None:
    if (last := writes_now(run)) is not None:
        raise UserError(
            f"a run writes to {run} (its last sign of life is {last:.0f} s old): stop it first; if it "
            f"was killed, call again when that is {SILENT_S:.0f} s"
        )


def export(
    source: str,
    to: str,
    *,
    stamps: bool = False,
    mapping: str = "seed",
    console: Console | None = None,
) -> list[str]:
    """Write a finished data set as Parquet tables in a mapping's column names; gives their names.

    Parameters
    ----------
    source : str
        A run's folder, or a Zarr group of pairs.
    to : str
        An empty folder, or one that is not there; a path or any fsspec URL.
    stamps : bool
        Pixels as well, as ``.npz`` blobs.
    mapping : str
        A shipped mapping's name, or a YAML file.
    """
    console = console or Console()
    names = load_mapping(mapping)
    dataset = store.open_dataset(source, cache=False)
    prepare.check_complete(dataset, source)
    blocks = prepare.StoredPairs(source).blocks()
    with Bar(console, "export", dataset.sizes["pair"], "rows") as bar:
        written = store.export_tables(
            storage.absolute(source),
            storage.absolute(to.rstrip("/")),
            blocks,
            names,
            stamps=stamps,
            on_block=lambda rows: bar.advance(rows.stop - rows.start),
        )
    console.print(f"{len(written)} tables -> {to}", soft_wrap=True, highlight=False)
    return written


def status(folder: str, *, console: Console | None = None) -> Status:
    """Say how far a run is, from its folder alone: while it runs, and after a crash."""
    console = console or Console()
    run = storage.absolute(folder.rstrip("/"))
    found = status_of(run)
    said = lines(found)
    if found.state != "running":
        said += how_to_mend(run, found.rows_by_reason)
    for line in said:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return found
