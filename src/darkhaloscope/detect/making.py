"""Batches from chunks in memory: images, second looks, scale, turns; the same whoever makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from darkhaloscope.detect.chunks import ChunkReader, Pixels
from darkhaloscope.detect.order import Order, generator
from darkhaloscope.errors import UserError
from darkhaloscope.variables import without_data
from darkhaloscope.views import (
    SECOND,
    STAMP,
    Looks,
    Reading,
    Scale,
    channels,
    dihedral,
    dithered,
    mask_weight,
    network_input,
    noise_sigma,
    noised,
)

Images = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Batch(NamedTuple):
    """Images of both classes, ready for a network."""

    images: torch.Tensor
    """(image, channel, y, x) float32."""
    label: torch.Tensor
    """(image,) float32; 1 holds an arc."""
    row: torch.Tensor
    """(image,) int64: row of the data set."""
    image: torch.Tensor
    """(image,) uint8: 0 ctrl, 1 stamp."""
    weight: torch.Tensor
    """(image,) float32."""
    aux: torch.Tensor
    """(image, aux) float32."""


class Cut(NamedTuple):
    """Images of the data set, (image, band, y, x), nMgy, dithered where the reading says so."""

    images: Images
    arc: Images | None
    """Light that was added; only where asked for."""
    ctrl: Images | None
    """The sky of the second look; only where there is one."""
    empty: Mask
    """Pixels without data."""
    empty_second: Mask
    sigma: Images | None
    """Noise of a pixel; only where there is a second look."""


class Maker:
    """Makes the images that a reading shows of rows in memory.

    Parameters
    ----------
    reader : ChunkReader
    reading : Reading
    seed : int
    train : bool
        Whether images are turned.
    """

    def __init__(self, reader: ChunkReader, reading: Reading, seed: int, *, train: bool) -> None:
        self.reader, self.reading, self.seed = reader, reading, seed
        self.turned = train and reading.augment
        self.scale: Scale | None = None
        self.aux = np.zeros((reader.rows, 0), np.float32)
        self._places: tuple[NDArray[np.float64], ...] = ()
        if reading.input_mask is not None:
            columns = (reader.column(name) for name in ("target_x", "target_y"))
            self._places = tuple(values.astype(float) for values in columns)
        self._sky = reader.column("sky_sigma") if reading.dither or reading.option != "b" else None
        self._second_sky = self._sky
        if reader.second is not None and self._sky is not None:
            self._second_sky = reader.second.column("sky_sigma")

    def cut(
        self, row: NDArray[np.int64], image: NDArray[np.uint8], pixels: Mapping[int, Pixels]
    ) -> Cut:
        """The images of some rows, from chunks in memory.

        Raises
        ------
        UserError
            A pixel with data is not a finite number.
        """
        chunk, size, bands = self.reader.chunk, self.reader.size, len(self.reader.bands)
        shape = (len(row), bands, size, size)
        two = self.reading.option != "b"
        images = np.empty(shape, np.float32)
        arc = np.zeros(shape, np.float32) if two else None
        ctrl = np.empty(shape, np.float32) if two else None
        nodata = np.empty((len(row), size, size), np.uint8)
        nodata_second = np.empty_like(nodata) if two else nodata
        invvar = np.empty(shape, np.float32) if two and self.reader.has_invvar else None
        for i, (r, what) in enumerate(zip(row.tolist(), image.tolist(), strict=True)):
            held, at = pixels[r // chunk], r % chunk
            nodata[i] = held.nodata[at]
            if what == STAMP:
                assert held.arc is not None
                np.add(held.ctrl[at], held.arc[at], out=images[i])
                if arc is not None:
                    arc[i] = held.arc[at]
            else:
                images[i] = held.ctrl[at]
            if ctrl is not None:
                again = held if held.second is None else held.second
                ctrl[i], nodata_second[i] = again.ctrl[at], again.nodata[at]
            if invvar is not None:
                assert held.invvar is not None
                invvar[i] = held.invvar[at]
        empty, empty_second = self._empty(nodata), self._empty(nodata_second)
        self._check_finite(images, empty, row)
        if ctrl is not None:
            self._check_finite(ctrl, empty_second, row)
        sigma = None
        if two:
            assert self._sky is not None
            sigma = noise_sigma(self._sky[row], invvar, empty)
        if self.reading.dither:
            assert self._sky is not None
            assert self._second_sky is not None
            images = dithered(images, self._sky[row], row, image)
            if ctrl is not None:
                ctrl = dithered(ctrl, self._second_sky[row], row, np.full_like(image, SECOND))
        return Cut(images, arc, ctrl, empty, empty_second, sigma)

    def _check_finite(self, images: Images, empty: Mask, row: NDArray[np.int64]) -> None:
        bad = ~np.isfinite(images) & ~empty
        if bad.any():
            rows = row[bad.any((1, 2, 3))]
            raise UserError(
                f"{len(rows)} images of a batch from {self.reader.run} have pixels that are not finite "
                f"numbers, the first is row {rows[0]}; dhs verify says what is damaged"
            )

    def _empty(self, nodata: NDArray[np.uint8]) -> Mask:
        return without_data(nodata, len(self.reader.bands))

    def looks(self, cut: Cut, rng: np.random.Generator) -> Looks:
        """Both looks of options A and C."""
        assert cut.ctrl is not None
        assert cut.sigma is not None
        if self.reading.second_look == "reobserved":
            return Looks(cut.images, cut.ctrl)
        return noised(cut.images, cut.ctrl, np.float32(self.reading.noise) * cut.sigma, rng)

    def shown(
        self, row: NDArray[np.int64], cut: Cut, rng: np.random.Generator
    ) -> tuple[Images, Mask, NDArray[np.float64] | None]:
        """Channels in nMgy, their pixels without data, and what the input mask leaves of each pixel."""
        weight = None
        if self.reading.input_mask is not None:
            x, y = (place[row] for place in self._places)
            weight = mask_weight(self.reading.input_mask, self.reader.size, x, y)
        if self.reading.option == "b":
            return cut.images, cut.empty, weight
        images = channels(self.reading.option, self.looks(cut, rng))
        if self.reading.option == "a":
            return images, np.concatenate([cut.empty, cut.empty_second], axis=1), weight
        return images, cut.empty | cut.empty_second, weight

    def batch(
        self,
        order: Order,
        part: slice,
        pixels: Mapping[int, Pixels],
        epoch: int | None,
        number: int,
    ) -> Batch:
        """One batch of an order; ``epoch`` is None where images are scored, which are not turned."""
        row, image = order.row[part], order.image[part]
        rng = generator(self.seed, 2, 0 if epoch is None else epoch, number)
        turns = rng.integers(0, 8, len(row))
        images, empty, weight = self.shown(row, self.cut(row, image, pixels), rng)
        seen = network_input(images, empty, self.reading, weight=weight, scale=self.scale)
        if epoch is not None and self.turned:
            if self.reading.batch == "paired":
                turns = np.repeat(turns[::2], 2)[: len(row)]  # a stamp and its ctrl turn together
            for one, k in zip(seen, turns.tolist(), strict=True):
                one[:] = dihedral(one.copy(), k)
        return Batch(
            torch.from_numpy(seen),
            torch.from_numpy(order.label[part].astype(np.float32)),
            torch.from_numpy(row.copy()),
            torch.from_numpy(image.copy()),
            torch.from_numpy(order.weight[part].copy()),
            torch.from_numpy(self.aux[row]),
        )
