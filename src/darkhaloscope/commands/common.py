"""What commands share: exit codes, options of a cluster, and what more than one says or drops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console

from darkhaloscope import storage
from darkhaloscope.errors import UserError
from darkhaloscope.survey import regions
from darkhaloscope.trouble import StorageError

EXIT_BUG, EXIT_USER = 1, 2
EXIT_INCOMPLETE, EXIT_FAILED_ROWS, EXIT_OURS = 4, 5, 70


def with_cluster(
    overrides: Mapping[str, Any] | None, address: str | None, workers: int | None
) -> dict[str, Any]:
    """Overrides of an experiment with the cluster that the command line names."""
    changed = dict(overrides or {})
    if address is not None:
        changed["cluster.address"] = address
    if workers is not None:
        changed["cluster.workers"] = workers
    return changed


def say_splits(region: np.ndarray, split: np.ndarray, console: Console) -> None:
    """What came out of the splitting by regions."""
    console.print(
        f"{len(np.unique(region))} regions; targets by split: {regions.counts(split)}",
        soft_wrap=True,
        highlight=False,
    )


def check_writable(folder: str) -> None:
    """See that something can be written to a folder, before anything is computed for it.

    Raises
    ------
    UserError
        It cannot.
    """
    probe = storage.join(folder, ".dhs-probe")
    try:
        storage.write(probe, b"")
    except StorageError as error:
        # A store may come back; a disk on which no folder can be made, as in /proc, does not.
        if "://" in folder or not error.passes:
            raise
        raise UserError(
            f"cannot write to {folder}: no folder can be made there; say another place with --out"
        ) from None
    storage.remove(probe)


def drop_conclusions(folder: str) -> None:
    """An earlier verdict is not this data set's until it is reached again."""
    for name in ("verdict.json", "report.html"):
        storage.remove(storage.join(folder, name))
