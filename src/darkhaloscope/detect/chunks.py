"""Pixels of a data set by inner chunk: what a loader reads, straight from the shards."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from darkhaloscope import storage, store
from darkhaloscope.errors import UserError
from darkhaloscope.views import Reading


class Pixels(NamedTuple):
    """All rows of one chunk."""

    ctrl: NDArray[np.float32]
    arc: NDArray[np.float32] | None
    """Light added, ``arc`` and ``extra`` together; None where no stamp is wanted."""
    nodata: NDArray[np.uint8]
    invvar: NDArray[np.float32] | None = None
    second: Pixels | None = None
    """The same rows of another run."""


class ChunkReader:
    """Inner chunks of a run's pixel arrays; safe to call from several threads.

    Parameters
    ----------
    run : str
        A run's folder, or its ``stamps.zarr``; a path or any fsspec URL.
    reading : Reading
        Says whether there is a second look, and of which run.

    Raises
    ------
    UserError
        There is no data set; it lacks ctrl or arc, or one of its objects; the second run has other rows.
    """

    def __init__(self, run: str, reading: Reading) -> None:
        inside = storage.join(run, store.STAMPS)
        place = inside if storage.exists(storage.join(inside, "zarr.json")) else run
        self.run = run
        store.check_not_lost(run)
        self.columns: xr.Dataset = store.open_dataset(run)
        group = zarr.open_group(place, mode="r")
        self._arrays: dict[str, zarr.Array[Any]] = {}
        for name in ("ctrl", "arc", "nodata", "extra", "invvar"):
            if name in group:
                array = group[name]
                assert isinstance(array, zarr.Array)
                self._arrays[name] = array
        for name in ("ctrl", "arc", "nodata"):
            if name not in self._arrays:
                raise UserError(
                    f"{run} has no {name}; a network is shown pairs of ctrl and arc, as dhs run makes them"
                )
        self.chunk: int = self._arrays["ctrl"].chunks[0]
        self.rows: int = self._arrays["ctrl"].shape[0]
        self.size: int = self._arrays["ctrl"].shape[-1]
        self.bands: tuple[str, ...] = tuple(str(b) for b in self.columns["band"].values)
        self.identity = str(self.columns.attrs.get("identity", ""))
        self.has_invvar = reading.option != "b" and "invvar" in self._arrays
        self.second: ChunkReader | None = None
        if reading.second_run is not None:
            alone = reading.model_copy(update={"option": "b", "second_run": None})
            self.second = ChunkReader(reading.second_run, alone)
            self._check_second(self.second)

    def column(self, name: str) -> NDArray[Any]:
        """A variable of provenance, whole.

        Raises
        ------
        UserError
            There is none of that name.
        """
        if name not in self.columns:
            raise UserError(f"{self.run} has no column {name}, which this reading needs")
        return np.asarray(self.columns[name].values)

    def _check_second(self, other: ChunkReader) -> None:
        shape = (self.rows, self.size, self.bands, self.chunk)
        same = shape == (other.rows, other.size, other.bands, other.chunk) and all(
            np.array_equal(self.column(name), other.column(name)) for name in ("brick", "slot")
        )
        if not same:
            raise UserError(
                f"{other.run} does not hold the rows of {self.run}; a second look needs the same plan, "
                "bands and stamp size on other exposures"
            )
        if other.identity == self.identity and other.run.rstrip("/") == self.run.rstrip("/"):
            raise UserError(f"second_run is {self.run} itself; those are the very same pixels")

    def read(self, chunk: int, *, stamps: bool) -> Pixels:
        """All rows of one chunk; ``stamps`` says whether arcs are wanted.

        Raises
        ------
        UserError
            An object is damaged or out of reach.
        """
        rows = slice(chunk * self.chunk, min((chunk + 1) * self.chunk, self.rows))
        names = ["ctrl", "nodata", *(("arc", "extra") if stamps else ())]
        if self.has_invvar:
            names.append("invvar")
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
        second = None if self.second is None else self.second.read(chunk, stamps=False)
        return Pixels(found["ctrl"], arc, found["nodata"], found.get("invvar"), second)
