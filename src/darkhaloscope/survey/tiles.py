"""The images of a FITS file, and the pixels of small windows of them.

An image knows the byte range of each of its compressed tiles, so that only those that the windows
touch are fetched and decoded, each once. What :mod:`.decode` has no recipe for (plain images, rare
options) astropy decodes, out of the same bytes.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from darkhaloscope.survey.decode import (
    ASTROPY,
    BROKEN_TILE,
    Recipe,
    decode_tile,
    inflate,
    recipe_of,
)
from darkhaloscope.survey.reading import Ranges
from darkhaloscope.survey.source import (
    BROKEN,
    CorruptFileError,
    Hdu,
    Source,
    unparsable,
    walk,
)

MAX_SIDE = 20_000
"""A larger image is no coadd but a broken header: it would ask for gigabytes."""

_PLAIN_TILE = 100  # a plain image is read as if it had tiles of that side
_COLUMN = re.compile(r"[01]?([PQ])B\(\d+\)|1?([DE])")
_FIELDS = {"P": ("i4", 2), "Q": ("i8", 2), "D": ("f8", 1), "E": ("f4", 1)}


@dataclass(frozen=True)
class TileTable:
    """The rows of a compressed image: where each tile's bytes are, and its scale.

    ``rows`` has one row a tile, from the first row of the image on; a column of descriptors holds
    (bytes, first byte counted from ``heap``). ``end`` is where the HDU's data end in the file.
    """

    rows: NDArray[np.void]
    heap: int
    end: int

    def range(self, column: str, tile: int) -> tuple[int, int]:
        """Byte range (first, end) of a tile in the file; empty where that column has none.

        Raises
        ------
        ValueError
            The descriptor points out of the file's data.
        """
        size, place = (int(value) for value in self.rows[column][tile])
        first = self.heap + place
        if size < 0 or place < 0 or first + size > self.end:
            raise ValueError("a tile lies outside its file")
        return first, first + size

    def ranges(self, column: str, tiles: NDArray[np.int64]) -> Ranges:
        """As :meth:`range` of many tiles, without those that are empty or point out of the file: these
        are found broken again, and said, when they are decoded."""
        size, place = self.rows[column][tiles].astype(np.int64).T
        inside = (size > 0) & (place >= 0) & (place <= self.end - self.heap - size)
        first = self.heap + place[inside]
        return list(zip(first.tolist(), (first + size[inside]).tolist(), strict=True))

    @property
    def columns(self) -> list[str]:
        """Names of the columns that hold tiles."""
        names = self.rows.dtype.names or ()
        return [name for name in names if name.endswith("COMPRESSED_DATA")]


Tiles = Sequence[NDArray[Any]]
"""Pixels (y, x) of tiles; one at the edge of its image may be smaller."""


@dataclass(frozen=True)
class TiledImage:
    """One 2-D image of a FITS file, still compressed.

    ``shape`` and ``tile`` are (y, x) in pixels; ``table`` is None where the image is plain or its
    table has columns that we do not know, ``recipe`` where astropy decodes.
    """

    name: str
    header: fits.Header
    bitpix: int
    shape: tuple[int, int]
    tile: tuple[int, int]
    source: Source
    hdu: Hdu
    table: TileTable | None = None
    recipe: Recipe | None = None

    def needed(
        self, y0: NDArray[np.int64], x0: NDArray[np.int64], height: int, width: int
    ) -> NDArray[np.bool_]:
        """The tiles that windows touch, as a map of tiles; windows as in :meth:`windows`."""
        ty, tx = self.tile
        found = np.zeros((-(-self.shape[0] // ty), -(-self.shape[1] // tx)), dtype=bool)
        ends = (y0 + height - 1) // ty, (x0 + width - 1) // tx
        for j0, i0, j1, i1 in zip(y0 // ty, x0 // tx, *ends, strict=True):
            found[j0 : j1 + 1, i0 : i1 + 1] = True
        return found

    def byte_ranges(self, needed: NDArray[np.bool_]) -> Ranges:
        """The byte ranges of the file that hold some of its tiles."""
        if not needed.any():
            return []
        if self.table is None:
            size = abs(self.bitpix) // 8 * self.shape[1] * self.tile[0]
            if _is_compressed(self.hdu.header):
                return [(self.hdu.data, self.source.size)]
            rows = np.flatnonzero(needed.any(axis=1))
            starts = [self.hdu.data + int(row) * size for row in rows]
            return [(start, min(start + size, self.source.size)) for start in starts]
        tiles = np.flatnonzero(needed)
        return [part for column in self.table.columns for part in self.table.ranges(column, tiles)]

    def windows(
        self, y0: NDArray[np.int64], x0: NDArray[np.int64], height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels of windows that lie inside the image, out of bytes that were fetched.

        Parameters
        ----------
        y0, x0 : ndarray of int
            First pixels, shape (window,).
        height, width : int
            Pixels.

        Returns
        -------
        pixels : ndarray
            Shape (window, y, x), in the image's own type.
        readable : ndarray of bool
            Shape (window,). False where a tile of this window cannot be decoded; its pixels are 0.
            It depends on the window alone, never on which others are asked for with it.
        """
        needed = self.needed(y0, x0, height, width)
        tiles, broken = self._tiles(needed) if self.recipe else self._sections(needed)
        if tiles is None:  # Nothing could be decoded, or nothing was asked for.
            kind = np.float32 if self.bitpix < 0 else np.int32
            return np.zeros((len(y0), height, width), kind), np.zeros(len(y0), dtype=bool)
        ty, tx = self.tile
        number = _numbered(needed)
        out = np.zeros((len(y0), height, width), dtype=tiles[0].dtype)
        readable = np.ones(len(y0), dtype=bool)
        for k, (y, x) in enumerate(zip(y0.tolist(), x0.tolist(), strict=True)):
            rows = range(y // ty, (y + height - 1) // ty + 1)
            columns = range(x // tx, (x + width - 1) // tx + 1)
            readable[k] = not broken[rows.start : rows.stop, columns.start : columns.stop].any()
            if not readable[k]:
                continue
            for j in rows:
                low, high = max(j * ty, y), min((j + 1) * ty, y + height)
                for i in columns:
                    left, right = max(i * tx, x), min((i + 1) * tx, x + width)
                    part = tiles[int(number[j, i])][low - j * ty : high - j * ty]
                    out[k, low - y : high - y, left - x : right - x] = part[
                        :, left - i * tx : right - i * tx
                    ]
        return out, readable

    def _tiles(self, needed: NDArray[np.bool_]) -> tuple[Tiles | None, NDArray[np.bool_]]:
        """The needed tiles in the order of :func:`_numbered`, and those that are broken.

        Not on a canvas of the image's size: a tile would touch a page of memory for each of its rows.
        """
        assert self.recipe is not None
        broken = np.zeros_like(needed)
        tiles: list[NDArray[Any]] = []
        for j, i in np.argwhere(needed).tolist():
            try:
                tiles.append(self._tile(j * needed.shape[1] + i, self._size_of(j, i)))
            except BROKEN_TILE:
                broken[j, i] = True
                tiles.append(np.zeros((0, 0), self.recipe.pixel))
        return (None if (broken == needed).all() else tiles), broken

    def _size_of(self, j: int, i: int) -> tuple[int, int]:
        """Pixels (y, x) of a tile."""
        (ny, nx), (ty, tx) = self.shape, self.tile
        return min(ty, ny - j * ty), min(tx, nx - i * tx)

    def _tile(self, tile: int, shape: tuple[int, ...]) -> NDArray[Any]:
        recipe, table = self.recipe, self.table
        assert recipe is not None
        assert table is not None
        height, width = shape
        names = table.rows.dtype.names or ()
        first, end = table.range("COMPRESSED_DATA", tile)
        if end > first:
            scale = float(table.rows["ZSCALE"][tile]) if "ZSCALE" in names else 1.0
            zero = float(table.rows["ZZERO"][tile]) if "ZZERO" in names else 0.0
            data = self.source.get(first, end)
            return decode_tile(recipe, data, (height, width), tile, scale, zero)
        if "GZIP_COMPRESSED_DATA" in names:  # could not be quantised: its pixels as they were
            data = self.source.get(*table.range("GZIP_COMPRESSED_DATA", tile))
            return inflate(data, height * width, recipe.pixel).reshape(height, width)
        raise ValueError("a tile has no bytes")

    def _sections(self, needed: NDArray[np.bool_]) -> tuple[Tiles | None, NDArray[np.bool_]]:
        """As :meth:`_tiles`, by astropy."""
        ty, tx = self.tile
        number = _numbered(needed)
        tiles: NDArray[Any] | None = None
        broken = np.zeros_like(needed)
        pending = _rectangles(needed)
        while pending:
            j0, j1, i0, i1 = pending.pop()
            try:
                pixels = self._section(slice(j0 * ty, j1 * ty), slice(i0 * tx, i1 * tx))
            except BROKEN:
                if (j1 - j0) * (i1 - i0) == 1:
                    broken[j0, i0] = True
                else:  # One broken tile must not cost its neighbours.
                    pending += [(j, j + 1, i, i + 1) for j in range(j0, j1) for i in range(i0, i1)]
                continue
            if tiles is None:
                kind = pixels.dtype.newbyteorder("=")
                tiles = np.zeros((int(needed.sum()), *self.tile), dtype=kind)
            for j in range(j0, j1):
                for i in range(i0, i1):
                    y, x = (j - j0) * ty, (i - i0) * tx
                    part = pixels[y : y + ty, x : x + tx]
                    tiles[number[j, i], : part.shape[0], : part.shape[1]] = part
        return (None if tiles is None else list(tiles)), broken

    def _section(self, y: slice, x: slice) -> NDArray[Any]:
        y = slice(y.start, min(y.stop, self.shape[0]))
        x = slice(x.start, min(x.stop, self.shape[1]))
        with ASTROPY, warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            pixels: NDArray[Any] = np.asarray(self._astropy.section[y, x])
        if pixels.shape != (y.stop - y.start, x.stop - x.start):
            raise CorruptFileError("a section comes out in the wrong shape")
        return pixels

    @functools.cached_property
    def _astropy(self) -> Any:
        """astropy's HDU over the bytes that were fetched."""
        stream: Any = self.source.stream()
        if self.source.get(0, 8) == b"XTENSION":  # astropy wants an HDU 0.
            stream = io.BytesIO(fits.PrimaryHDU().header.tostring().encode() + stream.read())
        return fits.open(stream, memmap=False)[self.hdu.number]


def _numbered(needed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The place of each True tile among all of them, row by row."""
    return np.cumsum(needed).reshape(needed.shape) - 1


def _rectangles(needed: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """Rectangles (y first, y end, x first, x end) of tiles that cover all True ones, each once.

    Equal rows are taken together: files with tiles of one image row have thousands of them.
    """
    found = []
    row = 0
    while row < len(needed):
        end = row + 1
        while end < len(needed) and np.array_equal(needed[end], needed[row]):
            end += 1
        steps = np.flatnonzero(
            np.diff(np.concatenate([[False], needed[row], [False]]).astype(np.int8))
        )
        found += [(row, end, int(a), int(b)) for a, b in steps.reshape(-1, 2)]
        row = end
    return found


def _is_compressed(header: fits.Header) -> bool:
    return bool(header.get("XTENSION", "").strip() == "BINTABLE" and header.get("ZIMAGE") is True)


def _is_plain(header: fits.Header) -> bool:
    return bool(header.get("XTENSION", "IMAGE").strip() == "IMAGE")


def images_of(source: Source) -> Generator[tuple[int, int], None, list[TiledImage]]:
    """All 2-D images of a file, compressed or plain; yields the byte ranges that it needs.

    Raises
    ------
    CorruptFileError
        Where the bytes end before the file does, go on after it, cannot be parsed, or hold no
        image.
    """
    found = []
    for hdu in (yield from walk(source)):
        try:
            if _is_compressed(hdu.header):
                if hdu.header["ZNAXIS"] == 2:
                    size = int(hdu.header["NAXIS1"]) * int(hdu.header["NAXIS2"])
                    yield (hdu.data, hdu.data + size)
                    found.append(_compressed(source, hdu))
            elif _is_plain(hdu.header) and hdu.header["NAXIS"] == 2:
                found.append(_plain(source, hdu))
        except CorruptFileError:
            raise
        except BROKEN as error:
            raise unparsable(error) from error
    if not found:
        raise CorruptFileError("it holds no two-dimensional image")
    return found


def read_images(raw: bytes) -> list[TiledImage]:
    """All 2-D images of a file that is in memory; errors as :func:`images_of`."""
    steps = images_of(Source.whole(raw))
    try:
        while True:
            next(steps)
    except StopIteration as done:
        found: list[TiledImage] = done.value
        return found


def _plain(source: Source, hdu: Hdu) -> TiledImage:
    header = hdu.header
    shape = _checked((int(header["NAXIS2"]), int(header["NAXIS1"])))
    name = str(header.get("EXTNAME", "")).strip().upper()
    tile = (_PLAIN_TILE, _PLAIN_TILE)
    return TiledImage(name, header, int(header["BITPIX"]), shape, tile, source, hdu)


def _compressed(source: Source, hdu: Hdu) -> TiledImage:
    header = hdu.header
    shape = _checked((int(header["ZNAXIS2"]), int(header["ZNAXIS1"])))
    tile = (int(header.get("ZTILE2", 1)), int(header.get("ZTILE1", shape[1])))
    if min(tile) < 1:
        raise CorruptFileError(f"its tiles claim {tile[1]} x {tile[0]} pixels")
    tile = min(tile[0], shape[0]), min(tile[1], shape[1])  # or memory of a size that nobody checked
    table = _table(source, hdu, -(-shape[0] // tile[0]) * -(-shape[1] // tile[1]))
    recipe = None
    if table is not None:
        recipe = recipe_of(header, frozenset(table.rows.dtype.names or ()))
    name = str(header.get("EXTNAME", "")).strip().upper()
    bitpix = int(header["ZBITPIX"])
    return TiledImage(name, header, bitpix, shape, tile, source, hdu, table, recipe)


def _table(source: Source, hdu: Hdu, tiles: int) -> TileTable | None:
    """The table of a compressed image; None where it is not as the releases' are."""
    header = hdu.header
    width, count = int(header["NAXIS1"]), int(header["NAXIS2"])
    fields: list[tuple[Any, ...]] = []
    for n in range(1, int(header["TFIELDS"]) + 1):
        match = _COLUMN.fullmatch(str(header[f"TFORM{n}"]).strip())
        if match is None:
            return None
        code, length = _FIELDS[match[1] or match[2]]
        name = str(header[f"TTYPE{n}"]).strip()
        fields.append((name, f">{code}", (2,)) if length == 2 else (name, f">{code}"))
    row = np.dtype(fields)
    if row.itemsize != width or count != tiles or "COMPRESSED_DATA" not in (row.names or ()):
        return None
    rows = np.frombuffer(source.get(hdu.data, hdu.data + width * count), row)
    heap = int(header.get("THEAP", width * count))
    end = hdu.data + width * count + int(header["PCOUNT"])
    return TileTable(rows, hdu.data + heap, end)


def _checked(shape: tuple[int, int]) -> tuple[int, int]:
    if not all(0 < side <= MAX_SIDE for side in shape):
        raise CorruptFileError(f"its image claims {shape[1]} x {shape[0]} pixels")
    return shape
