"""Any set of images as rows of the data set's own contract, with a record of what it does not say."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.audit.looks import LOST_CTRL, LOST_STAMP
from darkhaloscope.audit.sources.arrays import ArrayFile
from darkhaloscope.audit.sources.blanks import one_sided
from darkhaloscope.audit.sources.complete import NEEDED, complete, sky_of, unsaid
from darkhaloscope.audit.sources.difference import Steps, difference_error, steps
from darkhaloscope.audit.sources.fits import FitsFolder
from darkhaloscope.audit.sources.spread import Rows, cuts, spread
from darkhaloscope.audit.sources.tables import BlobTable
from darkhaloscope.audit.sources.units import Factors
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.mapping import Mapping, import_rows

BLOCK_ROWS = 1024
MOST_STORED = 8192
"""Rows of a stored chunk above which a block is smaller than it, and decodes it more than once."""
Pixels = NDArray[np.float32]
NONLENS = "nonlens_"
"""Prefix of columns of the second class of a set without pairs."""


@dataclass(frozen=True)
class PairSource:
    """A set of pairs, or of two classes, that is read block by block.

    Attributes
    ----------
    reader : ArrayFile, BlobTable or FitsFolder
    first, second : str
        Names of the two stacks, and ``way``, what they are.
    lengths : (int, int)
    paired : bool
        Whether row i of one belongs to row i of the other.
    lacks : tuple of str
        Variables that the set does not hold.
    notes : tuple of str
        What was taken for granted, in sentences.
    """

    reader: ArrayFile | BlobTable | FitsFolder
    way: tuple[str, str]
    first: str
    second: str
    lengths: tuple[int, int]
    bands: tuple[str, ...]
    size: int
    channels_last: bool
    mapping: Mapping
    scaled: Factors = ()
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a task needs no copy of all columns."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def url(self) -> str:
        return self.reader.url

    @property
    def paired(self) -> bool:
        return self.way != ("lens", "nonlens")

    @property
    def rows(self) -> int:
        """Pairs, or images of the smaller class."""
        return min(self.lengths)

    def places(self, which: int, rows: slice | None = None) -> Rows:
        """Where the images of these rows lie in the first (0) or second (1) stack; of the first, in
        :attr:`columns` as well."""
        number = np.arange(*(rows or slice(None)).indices(self.rows), dtype=np.int64)
        return spread(number, self.rows, self.lengths[which])

    @property
    def pixel_scale(self) -> float:
        return self.mapping.pixel_scale or PIXEL_SCALE

    def blocks(self, wanted: int = BLOCK_ROWS) -> list[slice]:
        """Slices of rows, one a task."""
        if isinstance(self.reader, BlobTable):
            return self.reader.blocks(wanted)
        if self.lengths[0] != self.lengths[1]:
            return self._blocks_of_two(wanted)
        step = wanted
        if isinstance(self.reader, ArrayFile):
            stored = self.reader.rows_at_once((self.first, self.second))
            step = stored * -(-wanted // stored) if stored <= MOST_STORED else wanted
        return [slice(a, min(a + step, self.rows)) for a in range(0, self.rows, step)]

    def _blocks_of_two(self, wanted: int) -> list[slice]:
        """Of classes of other lengths: the larger the one, the fewer rows a block has."""
        chunks = (1, 1)
        if isinstance(self.reader, ArrayFile):
            names = (self.first, self.second)
            one, two = (self.reader.rows_at_once((name,)) for name in names)
            chunks = (one, two)
        return cuts((self.places(0), self.places(1)), chunks, wanted, MOST_STORED)

    def block(self, rows: slice) -> xr.Dataset:
        """Some rows in memory: pixels and every variable; what is missing holds its fill value.

        In a set without pairs ``arc`` is what a lens image has more than the other one of its row. Where
        the arc is a difference, ``arc_error`` (pair, band) says how far its sum may be off. A row without
        a finite pixel has failed, and failed rows have pixels 0, as everywhere. What is no data in either
        image is none in both; rows in which the two differ in that are marked (:mod:`.blanks`).

        Raises
        ------
        UserError
            Pixels are larger than float32 holds, or a column is not what its variable needs.
        """
        ctrl_name, light_name = (
            (self.first, self.second) if self.way == ("ctrl", "arc") else (self.second, self.first)
        )
        ctrl, ctrl_step = self._images(ctrl_name, rows)
        light, light_step = self._images(light_name, rows)
        ctrl_lost, light_lost = ~np.isfinite(ctrl), ~np.isfinite(light)
        nodata = ctrl_lost | light_lost
        differ = one_sided(*self._pair(ctrl, light)) if self.paired else {}
        arc = light if self.way == ("ctrl", "arc") else np.where(nodata, 0.0, light) - ctrl
        arc = np.where(nodata, 0.0, arc).astype(np.float32)
        ctrl = np.where(nodata, 0.0, ctrl).astype(np.float32)
        number = self.places(0, rows)
        found = self._columns(number)
        made = complete(found, number, self.size, self.bands)
        self._fail(made, nodata)
        failed = ~made["cutout_ok"].values
        ctrl[failed] = 0.0
        lost = nodata | ~(made["coverage"].values > 0)[:, :, None, None]
        lost |= failed[:, None, None, None]
        bits = (np.uint8(1) << np.arange(len(self.bands), dtype=np.uint8))[:, None, None]
        if "coverage" not in found:
            made["coverage"] = (("pair", "band"), (1 - nodata.mean(axis=(2, 3))).astype("f4"))
        if "sky_sigma" not in found:
            made["sky_sigma"] = (("pair", "band"), sky_of(ctrl, nodata))
        cube = ("pair", "band", "y", "x")
        if self.way != ("ctrl", "arc"):
            off = difference_error(arc, nodata, ctrl_step + light_step)
            # Where pixels are lost nobody knows how much of the recorded light they held.
            off[nodata.any(axis=(2, 3))] = np.inf
            made["arc_error"] = (
                ("pair", "band"),
                off if self.paired else np.full_like(off, np.inf),
            )
        made = made.assign({name: ("pair", rows & ~failed) for name, rows in differ.items()})
        if not self.paired:
            share = {LOST_STAMP: light_lost, LOST_CTRL: ctrl_lost}
            made = made.assign(
                {k: (("pair", "band"), v.mean(axis=(2, 3))) for k, v in share.items()}
            )
        return made.assign(
            ctrl=(cube, ctrl),
            arc=(cube, np.where(lost, np.float32(0), arc)),
            nodata=(("pair", "y", "x"), (nodata * bits).sum(axis=1).astype(np.uint8)),
        )

    @cached_property
    def columns(self) -> xr.Dataset:
        """All rows without pixels: what the set holds, and what an audit cannot do without.

        In a set without pairs the rows of the second class follow those of the first, as controls.
        """
        first, n = self.lengths[0], sum(self.lengths)
        found = self._columns(np.arange(first))
        made = complete(found, np.arange(first), self.size, self.bands)
        said = unsaid((found, first))
        if not self.paired:
            other = import_rows(self.table(self.second, 1), self.mapping, self.bands)
            second = complete(other, np.arange(first, n), self.size, self.bands)
            said = unsaid((found, first), (other, n - first))
            second["lens_model"] = ("pair", np.zeros(self.lengths[1], np.uint8))
            made = xr.concat(
                [made, second], "pair", data_vars="all", coords="minimal", compat="override"
            )
        made = made.drop_vars([v for v in self.lacks if v not in NEEDED and v in made])
        return made.assign_attrs(unsaid=said)

    @property
    def record(self) -> tuple[str, ...]:
        """What was taken for granted, and what single rows do not say; it reads all columns."""
        said: tuple[str, ...] = self.columns.attrs["unsaid"]
        return self.notes + said

    def _columns(self, places: Rows) -> xr.Dataset:
        """What the set says of the images at these places of the first stack."""
        stretch = _stretch(places)
        table = self.table(self.first, 0, stretch)
        if len(places) < len(table):
            table = table.iloc[places - stretch.start]
        return import_rows(table, self.mapping, self.bands)

    def table(self, name: str, which: int, rows: slice | None = None) -> pd.DataFrame:
        """Columns of all rows, or some, of the first (0) or second (1) stack as the set has them."""
        length = self.lengths[which]
        rows = rows or slice(0, length)
        if isinstance(self.reader, BlobTable):
            return self.reader.table(rows)
        if isinstance(self.reader, FitsFolder):
            return self.reader.table(name, rows)
        table = self.reader.table(rows, length, self.bands)
        for column, factor in self.scaled:
            for name in (column, *(f"{column}_{band}" for band in self.bands)):
                if name in table:
                    table[name] = factor * table[name].astype(float)
        if self.paired:
            return table
        named = [str(c) for c in table if str(c).startswith(NONLENS)]
        if which == 0:
            return table.drop(columns=named)
        return table[named].rename(columns=lambda c: c.removeprefix(NONLENS))

    def _pair(self, ctrl: Pixels, light: Pixels) -> tuple[Pixels, Pixels]:
        """Stamps and ctrl as a classifier sees them."""
        if self.way != ("ctrl", "arc"):
            return light, ctrl
        with np.errstate(invalid="ignore", over="ignore"):
            return ctrl + light, ctrl

    def _fail(self, made: xr.Dataset, nodata: NDArray[np.bool_]) -> None:
        """Rows without one pixel that is a number have failed."""
        empty = nodata.all(axis=(1, 2, 3)) & made["cutout_ok"].values.astype(bool)
        made["cutout_ok"] = ("pair", made["cutout_ok"].values.astype(bool) & ~empty)
        made["reason"].values[empty] = Reason.NAN_PIXELS

    def _images(self, name: str, rows: slice) -> tuple[NDArray[np.float32], Steps]:
        """Rows of a stack, and the step of its numbers."""
        places = self.places(int(name == self.second), rows)
        stretch = _stretch(places)
        if isinstance(self.reader, BlobTable):
            stored: NDArray[Any] = self.reader.images(name, stretch, self.bands, self.size)
        elif isinstance(self.reader, FitsFolder):
            stored = self.reader.images(name, places)
        else:
            stored = _picked(self.reader, name, places)
        factor = dict(self.scaled).get(name, 1.0)
        with np.errstate(over="ignore"):
            images = stored.astype(np.float32)
            images *= np.float32(factor)
        if np.isinf(images).sum() > np.isinf(stored).sum():
            raise UserError(
                f"{name} of {self.url} holds pixels up to {np.nanmax(np.abs(stored)):.1g}, more than "
                "float32 can hold; divide them, fluxes are nanomaggies"
            )
        if images.ndim == 3:
            images = images[:, None]
        if self.channels_last:
            images = np.moveaxis(images, -1, 1)
        if isinstance(self.reader, ArrayFile):
            stored_as, unit = self.reader.step(name)
            return images, steps(images, stored_as, factor * unit)
        return images, steps(images, stored.dtype)


def _stretch(places: Rows) -> slice:
    """From the first of ascending places to the last."""
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _picked(reader: ArrayFile, name: str, places: Rows) -> NDArray[Any]:
    """Images at ascending places of a stack; those between them are held for a few chunks at a time."""
    stretch = _stretch(places)
    if len(places) == stretch.stop - stretch.start:
        return reader.images(name, stretch)
    chunk = reader.rows_at_once((name,))
    piece = places // (chunk * -(-BLOCK_ROWS // chunk))
    parts = np.split(places, np.flatnonzero(np.diff(piece)) + 1)
    return np.concatenate([reader.images(name, _stretch(p))[p - p[0]] for p in parts])
