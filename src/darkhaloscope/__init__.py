"""Dark Halo Scope: strong-lens injection at survey scale, and the audit of what it made."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import distributed
    import xarray

__version__ = "0.1.0"


def open(
    url: str | os.PathLike[str],
    *,
    split: str | Sequence[str] | None = None,
    drop_failed: bool = False,
) -> xarray.Dataset:
    """A run's data set, pixels lazy, with ``stamp = ctrl + arc (+ extra)`` and closed lists as text.

    See :func:`darkhaloscope.store.open_run`. Of a finished run that lost an object a UserError says which;
    one that is not finished opens with what is there. The import waits, so that ``darkhaloscope.lensing``
    alone does not bring Zarr along.
    """
    from darkhaloscope.store import check_not_lost, open_run

    check_not_lost(str(url))
    return open_run(url, split=split, drop_failed=drop_failed)


def connect(run: str, *, namespace: str | None = None) -> distributed.Client:
    """A Dask client of the scheduler that works on a run; see :func:`darkhaloscope.cluster.attach`."""
    from darkhaloscope.cluster import attach

    return attach(run, namespace=namespace)
