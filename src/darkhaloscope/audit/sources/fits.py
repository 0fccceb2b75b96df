"""Folders of FITS stamps: ``stamp/`` and ``ctrl/`` by equal file names, or ``lens/`` and ``nonlens/``."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import fsspec
import numpy as np
import pandas as pd
from astropy.io import fits
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.audit.sources.bands import LETTERS, words
from darkhaloscope.errors import UserError

FOLDERS = ("stamp", "ctrl", "arc", "lens", "nonlens")
OTHER_CLASS = {"lens": "nonlens", "nonlens": "lens"}
"""Of sets without pairs: whose files may have the same names."""

ENDINGS = (".fits", ".fits.gz", ".fits.fz", ".fit")
TABLES = ("rows.parquet", "rows.csv", "rows.fits")
"""Columns of the rows, beside the folders; ``file`` names the stamp."""


class Stamp(NamedTuple):
    """What one file holds."""

    pixels: NDArray[np.float32]
    bands: tuple[str, ...]
    """Empty where the file does not say them."""
    apart: bool
    """Whether each band is an image of its own, called by its name."""


@dataclass(frozen=True)
class FitsFolder:
    """Folders of images as rows; the rows of each are in the order of the files' names.

    Bands are in the order of ``named``, and by their names where a file says them; ``apart`` is whether the
    first file holds an image for each.
    """

    url: str
    files: tuple[tuple[str, tuple[str, ...]], ...]
    named: tuple[str, ...] = ()
    apart: bool = False

    @classmethod
    def find(cls, url: str) -> FitsFolder | None:
        """The folders at ``url``; None where none of the known names holds FITS files."""
        fs, path = fsspec.url_to_fs(url)
        if not fs.isdir(path):
            return None
        found = []
        for name in FOLDERS:
            names = sorted(n for n in storage.names(storage.join(url, name)) if n.endswith(ENDINGS))
            if names:
                found.append((name, tuple(names)))
        return cls(url, tuple(found)) if found else None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape (file, [band,] y, x) of each folder, by its first image."""
        return {
            name: (len(names), *self._image(name, names[0]).pixels.shape)
            for name, names in self.files
        }

    def bands(self) -> tuple[str, ...]:
        """Names of the first file's images, or its header keyword BANDS, as ``grz`` or ``g,r,z``."""
        return self._first().bands

    def in_order_of(self, bands: tuple[str, ...]) -> FitsFolder:
        """The folders with images that are called by their bands in this order.

        Where the words are others, or a keyword says them, they are new names for the first file's bands.
        """
        first = self._first()
        same = first.apart and sorted(bands) == sorted(first.bands)
        return replace(
            self, named=bands if same or not first.bands else first.bands, apart=first.apart
        )

    def _first(self) -> Stamp:
        name, names = self.files[0]
        return self._image(name, names[0])

    def images(self, name: str, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Images of one folder, by the places of their files."""
        files = dict(self.files)[name]
        images = [self._ordered(name, files[i]) for i in places.tolist()]
        if len({i.shape for i in images}) > 1:
            raise UserError(
                f"the images in {self.url}/{name} differ in shape; cut them to one size"
            )
        return np.stack(images)

    def table(self, name: str, rows: slice) -> pd.DataFrame:
        """Columns of one folder's rows, matched by ``file``; without a table there are none.

        Raises
        ------
        UserError
            The table cannot be read, or has not one row for each file. Of the second class of a set
            without pairs it may have none at all.
        """
        names = dict(self.files)[name]
        index = pd.RangeIndex(*rows.indices(len(names)))
        tables = (storage.join(self.url, table) for table in TABLES)
        place = next((t for t in tables if storage.exists(t)), None)
        if place is None:
            return pd.DataFrame(index=index)
        fs, path = fsspec.url_to_fs(place)
        table = _table(place, OTHER_CLASS.get(name), fs.ukey(path))
        files = pd.Index([_stem(f) for f in names])
        known = files.isin(table.index)
        if name == "nonlens" and not known.any():
            return pd.DataFrame(index=index)
        if not known.all():
            raise UserError(
                f"{place} has no row for {(~known).sum()} of the {len(names)} files in {name}, the first "
                f"{names[int((~known).argmax())]}; its column file must name them all"
            )
        return table.loc[files[rows]].set_axis(index)

    def _ordered(self, folder: str, file: str) -> NDArray[np.float32]:
        """The image of a file with its bands in order; each file may store them in one of its own.

        A cube that does not name its bands has them in the order of the first file.
        """
        image, bands, _ = self._image(folder, file)
        if bands == self.named or not (bands or self.apart):
            return image
        if sorted(bands) != sorted(self.named):
            raise UserError(
                f"{storage.join(self.url, folder, file)} holds {_bands(bands)}, the first file "
                f"{_bands(self.named)}; all have to hold the same"
            )
        order = [bands.index(band) for band in self.named]
        return image[order] if len(image) == len(order) else image[..., order]

    def _image(self, folder: str, file: str) -> Stamp:
        """The first image, or those that are named like bands as one."""
        place = storage.join(self.url, folder, file)
        try:
            with fits.open(io.BytesIO(storage.read(place))) as hdus:
                images = [h for h in hdus if h.data is not None and h.data.ndim in (2, 3)]
                # Images of one stamp, called by the names of its bands (EXTNAME).
                named = [h for h in images if h.data.ndim == 2 and h.name.lower() in {*LETTERS}]
                if len(named) > 1:
                    cube = np.stack([np.asarray(h.data, dtype=np.float32) for h in named])
                    return Stamp(cube, tuple(h.name.lower() for h in named), True)
                first = next(iter(images))
                bands = words(str(first.header.get("BANDS", "")))
                return Stamp(np.asarray(first.data, dtype=np.float32), bands, False)
        except (OSError, ValueError, TypeError, StopIteration) as error:
            raise UserError(f"{place} holds no FITS image ({error}); take it out") from None


@lru_cache(maxsize=2)
def _table(place: str, other: str | None, _: str) -> pd.DataFrame:
    """The table at a place, by what ``file`` names, without what it names in the folder ``other``.

    Read once a process and content (its ``ukey``).
    """
    data = io.BytesIO(storage.read(place))
    try:
        if place.endswith(".parquet"):
            table = pd.read_parquet(data)
        elif place.endswith(".csv"):
            table = pd.read_csv(data, dtype={"file": str})
        else:
            from astropy.table import Table  # slow to import

            table = Table.read(data, format="fits", character_as_bytes=False).to_pandas()
    except (ValueError, OSError) as error:
        raise UserError(f"{place} cannot be read ({error})") from None
    if "file" not in table:
        raise UserError(f"{place} has no column file, which names the stamp of a row")
    files = [f.decode() if isinstance(f, bytes) else str(f) for f in table.pop("file")]
    mine = [other not in f.split("/")[:-1] for f in files]
    table = table.set_axis(pd.Index([_stem(f) for f in files]))[mine]
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise UserError(f"{place} has more than one row for {twice[0]}; leave one")
    return table


def _bands(names: tuple[str, ...]) -> str:
    return (
        f"the bands {', '.join(names)}"
        if names
        else "fewer than two images that are named like bands"
    )


def _stem(file: str) -> str:
    """A file's name without its folders and its ending; other dots are part of it."""
    name = file.rsplit("/", 1)[-1].rstrip()
    ending = max((e for e in ENDINGS if name.endswith(e)), key=len, default="")
    return name.removesuffix(ending)
