"""Pixels of a data set by inner chunk: what a loader reads, straight from the shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from darkhaloscope import storage, store
from darkhaloscope.errors import UserError


class Pixels(NamedTuple):
    """Rows of one chunk in memory."""

    ctrl: NDArray[np.float32]
    arc: NDArray[np.float32] | None
    """Light added, ``arc`` and ``extra`` together; None where no stamp is wanted."""
    nodata: NDArray[np.uint8]


class ChunkReader:
    """Inner chunks of a run's pixel arrays; safe to call from several threads."""

    def __init__(self, run: str) -> None:
        inside = storage.join(run, store.STAMPS)
        place = inside if storage.exists(storage.join(inside, "zarr.json")) else run
        self.run = run
        self.columns: xr.Dataset = store.open_dataset(run)
        group = zarr.open_group(place, mode="r")
        self._arrays: dict[str, zarr.Array[Any]] = {}
        for name in ("ctrl", "arc", "nodata", "extra"):
            if name in group:
                array = group[name]
                assert isinstance(array, zarr.Array)
                self._arrays[name] = array
        for name in ("ctrl", "arc", "nodata"):
            if name not in self._arrays:
                raise UserError(
                    f"{run} has no {name}; a network reads pairs of ctrl and arc, as dhs run makes them"
                )
        self.chunk: int = self._arrays["ctrl"].chunks[0]
        self.rows: int = self._arrays["ctrl"].shape[0]
        self.size: int = self._arrays["ctrl"].shape[-1]
        self.bands: tuple[str, ...] = tuple(str(b) for b in self.columns["band"].values)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The data set's own attributes."""
        return {str(name): value for name, value in self.columns.attrs.items()}

    def read(self, chunk: int, *, stamps: bool) -> Pixels:
        """All rows of one chunk.

        Raises
        ------
        UserError
            An object is damaged or out of reach, or a pixel is not a finite number.
        """
        rows = slice(chunk * self.chunk, min((chunk + 1) * self.chunk, self.rows))
        names = ["ctrl", "nodata", *(("arc", "extra") if stamps else ())]
        try:
            found = {n: np.asarray(self._arrays[n][rows]) for n in names if n in self._arrays}
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(
                f"rows {rows.start} to {rows.stop} of {self.run} cannot be read "
                f"({type(error).__name__}: {str(error).splitlines()[0]}); dhs verify says what is damaged"
            ) from error
        arc = found.get("arc")
        if arc is not None and "extra" in found:
            arc = arc + found["extra"]
        for name, values in (("ctrl", found["ctrl"]), ("arc", arc)):
            if values is not None and not np.isfinite(values).all():
                row = rows.start + int(np.flatnonzero(~np.isfinite(values).all((1, 2, 3)))[0])
                raise UserError(
                    f"row {row} of {self.run} has pixels in {name} that are not finite numbers; "
                    "dhs verify says what is damaged"
                )
        return Pixels(found["ctrl"], arc, found["nodata"])
