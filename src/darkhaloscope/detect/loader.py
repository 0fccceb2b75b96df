"""Batches of a run for a network, straight from the shards: shuffled, balanced, the same for any workers."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope import prepare
from darkhaloscope.detect.ahead import Ahead
from darkhaloscope.detect.chunks import ChunkReader, Pixels
from darkhaloscope.detect.making import Batch, Maker
from darkhaloscope.detect.metadata import MetadataTest, psf_test
from darkhaloscope.detect.order import (
    Order,
    ShuffleQuality,
    epoch_order,
    generator,
    shuffle_quality,
    stored_order,
)
from darkhaloscope.errors import UserError
from darkhaloscope.variables import default_reference_band
from darkhaloscope.views import (
    COMPARISONS,
    CTRL,
    STAMP,
    Chosen,
    Reading,
    Scale,
    check_separability,
    choose,
    readable,
    separability,
    standardised,
    statistics,
    strata,
    used_widths,
)

__all__ = ["Batch", "Loader"]

Floats = NDArray[np.float64]
Statistics = dict[str, Floats]

SCALE_ROWS, GATE_ROWS = 2048, 512
"""Rows that a global scale, and the gate on second looks, are measured on: about so many at most."""

LOOKED_AT, ENOUGH_ROWS = 4096, 64
"""Where fewer rows than these have pixels without arc in each band, the gate looks at so many for more."""

SAME_PIXELS = 0.5
"""Share of equal pixels above which a second run shows the same exposures; rounding makes 1 in 40 equal."""

_NOTHING, _NO_ROWS = np.zeros(0, np.float32), np.zeros(0, np.int64)
_NOBODY = Chosen(_NO_ROWS, _NO_ROWS, CTRL, _NOTHING, _NOTHING, _NOTHING)

AT_ONCE = 256
"""Images that the gate looks at together."""


class Loader:
    """Epochs of batches of one split of a run.

    Parameters
    ----------
    run : str
        A run's folder, or its ``stamps.zarr``; a path or any fsspec URL.
    reading : Reading
    split : str or None
        ``train``, ``val`` or ``test``; None takes no row of its own, and reads those that
        :meth:`in_order` is given.
    seed : int
        Order, turns and noise follow from it, the epoch and the batch alone.
    workers : int
        Threads that read and prepare ahead; 0 does it when a batch is asked for.
    scale, aux_scale : Scale, optional
        As another loader had them; by default they are measured on the train split of this run, both
        classes alike.

    Attributes
    ----------
    channels, size, bands, identity
        Of an image; ``identity`` is the data set's.
    columns : Dataset
        Provenance, lazy, closed lists as codes.
    aux_scale : Scale or None
        Mean and standard deviation of each PSF width (arcsec) that is given.
    separability : DataFrame or None
        Of options A and C, train: what tells the classes apart where there is no arc.
    metadata : MetadataTest or None
        Where PSF widths are given, or batches stratified by them, train: whether they tell the classes
        apart.

    Raises
    ------
    UserError
        The data set lacks what the reading asks for, nothing of a class is left, or the reading gives
        the classes away.
    Incomplete
        Rows of the run were never written.
    """

    def __init__(
        self,
        run: str,
        reading: Reading,
        *,
        split: str | None,
        seed: int,
        workers: int = 0,
        scale: Scale | None = None,
        aux_scale: Scale | None = None,
    ) -> None:
        self.run, self.reading, self.split, self.seed = run, reading, split, seed
        self.workers = workers
        self._reader = reader = ChunkReader(run, reading)
        self.columns = reader.columns
        if "reason" in reader.columns:
            prepare.check_written(reader.columns, run)
        self._chosen = _NOBODY if split is None else choose(reader.columns, reading, split)
        self.bands, self.size, self.identity = reader.bands, reader.size, reader.identity
        self.channels = len(self.bands) * (2 if reading.option == "a" else 1)
        self._maker = Maker(reader, reading, seed, train=split == "train")
        self._at = (0, 0)
        """Epoch, and how many of its batches were given."""
        self._resumed = False
        self._stratum: NDArray[np.int16] | None = None
        self.aux_scale: Scale | None = None
        self.metadata: MetadataTest | None = None
        self.separability: pd.DataFrame | None = None
        train = self._chosen
        unknown = reading.normalize == "global" and scale is None
        if split != "train" and (unknown or (reading.aux_psf and aux_scale is None)):
            train = choose(reader.columns, reading, "train")
        if reading.aux_psf or reading.stratify_psf:
            self._read_widths(train, aux_scale)
        if reading.option != "b" and split == "train":
            self.separability = self._measure_separability()
            check_separability(self.separability, reading.option)
        if reading.normalize == "global":
            self.scale = scale or self._measure_scale(train)

    @property
    def scale(self) -> Scale | None:
        """Mean and standard deviation of each channel, nMgy, with ``normalize: global``."""
        return self._maker.scale

    @scale.setter
    def scale(self, scale: Scale | None) -> None:
        self._maker.scale = scale

    def batches(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return -(-len(self._order(epoch).row) // self.reading.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, from where :meth:`resume` said if it said this epoch.

        The same for any number of workers. Where a window holds more rows than a batch has images, a
        ``shuffled`` batch never holds a stamp and its ctrl.
        """
        start = self._at[1] if self._resumed and self._at[0] == epoch else 0
        self._resumed = False
        return self._give(self._order(epoch), epoch, start)

    def shuffle_quality(self, epoch: int = 0) -> ShuffleQuality:
        """How near the order of an epoch is to a full shuffle, measured on that order."""
        size, chunk = self.reading.batch_size, self._reader.chunk
        return shuffle_quality(self._order(epoch), size, chunk)

    def in_order(self, rows: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Every chosen image once, as it lies in the store, unturned: for scores.

        With ``rows`` of the data set, in stored order and chosen or not, ctrl and stamp of each; the label
        of a row that is not chosen is 0.
        """
        chosen, images = self._chosen, (CTRL, STAMP)
        wanted = np.union1d(chosen.positive, chosen.negative) if rows is None else rows
        positive = np.isin(wanted, chosen.positive)
        label = positive[:, None] & (np.array(images) == STAMP)
        order = stored_order(
            wanted, images, label.astype(np.uint8), self._reader.chunk, self.reading.window
        )
        if rows is None:
            negative = np.isin(wanted, chosen.negative)
            keep = (
                label | (negative[:, None] & (np.array(images) == chosen.negative_image))
            ).ravel()
            order = Order(*(part[keep] for part in order))
        return self._give(order, None, 0)

    def state(self) -> dict[str, Any]:
        """Where this loader is, for :meth:`resume`: plain JSON."""
        epoch, batch = self._at
        return self._who() | {"epoch": epoch, "batch": batch}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken: ``epoch(state["epoch"])`` starts with the next batch.

        Raises
        ------
        UserError
            The state is of another data set, reading, split or seed.
        """
        for name, value in self._who().items():
            if state.get(name) != value:
                raise UserError(
                    f"the position to resume from is of another {name} ({state.get(name)}, not {value}); "
                    "start again, or take the change back"
                )
        self._at, self._resumed = (int(state["epoch"]), int(state["batch"])), True

    def _who(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.reading.model_dump_json().encode()).hexdigest()
        return {
            "data set": self.identity,
            "reading": digest[:16],
            "split": self.split,
            "seed": self.seed,
        }

    def _order(self, epoch: int) -> Order:
        return epoch_order(
            self._chosen,
            self.reading,
            self.seed,
            epoch,
            chunk=self._reader.chunk,
            train=self.split == "train",
            stratum=self._stratum,
        )

    def _give(self, order: Order, epoch: int | None, start: int) -> Iterator[Batch]:
        batches = -(-len(order.row) // self.reading.batch_size)
        asked = start
        with Ahead(self._reader, self._maker, order, epoch, self.workers) as ahead:
            waiting: deque[Future[Batch]] = deque()
            for number in range(start, batches):
                while asked < min(number + self.workers + 1, batches):
                    waiting.append(ahead.batch(asked))
                    asked += 1
                batch = waiting.popleft().result()
                if epoch is not None:
                    self._at = (epoch, number + 1)
                yield batch

    def _read_widths(self, train: Chosen, aux_scale: Scale | None) -> None:
        reader, reading = self._reader, self.reading
        widths = used_widths(reader.column("psfdepth"), reader.column("sky_sigma"))
        if reading.stratify_psf:
            band = self.bands.index(default_reference_band(self.bands))
            both = np.union1d(self._chosen.positive, self._chosen.negative)
            self._stratum = strata(widths[:, band], both, reading.stratify_psf)
        if self.split == "train":
            order = self._order(0)
            self.metadata = psf_test(
                widths,
                order.row[order.label == 1],
                order.row[order.label == 0],
                reader.column("host_id"),
                reader.column("region_id").astype(object),
            )
        if reading.aux_psf:
            self.aux_scale = aux_scale or _scale_of(
                np.concatenate([widths[train.positive], widths[train.negative]]).astype(float)
            )
            self._maker.aux = standardised(widths, *(np.array(v) for v in self.aux_scale))

    def _measure_scale(self, train: Chosen) -> Scale:
        """Mean and standard deviation of each channel's pixels with data, of as many of either class."""
        count, total, squares = np.zeros((3, self.channels))
        rng = generator(0, 3, 0)  # not the loader's seed: val has the scale of train
        for rows, kind in ((train.positive, STAMP), (train.negative, train.negative_image)):
            for row, pixels in self._pieces(rows, SCALE_ROWS // 2):
                image = np.full(len(row), kind, np.uint8)
                seen, empty, weight = self._maker.shown(
                    row, self._maker.cut(row, image, pixels), rng
                )
                values = seen.astype(float) if weight is None else seen * weight
                count += (~empty).sum((0, 2, 3))
                total += np.where(empty, 0.0, values).sum((0, 2, 3))
                squares += np.where(empty, 0.0, values**2).sum((0, 2, 3))
        return _scale(count, total, squares)

    def _measure_separability(self) -> pd.DataFrame:
        """Positives against negatives of the same rows, with looks of their own, many times over."""
        rng = generator(self.seed, 4, 0)
        rows, times = self._compared()
        of_row: list[NDArray[np.int64]] = []
        found: tuple[list[Statistics], list[Statistics]] = ([], [])
        for few, pixels in self._pieces(rows, len(rows)):
            here = times[np.searchsorted(rows, few)]
            repeats = here.max(1)
            index = np.repeat(np.arange(len(few)), repeats)
            turn = np.arange(len(index)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
            due = turn[:, None] < here[index]
            for part in np.array_split(np.arange(len(index)), -(-len(index) // AT_ONCE)):
                row = few[index[part]]
                of_row.append(row)
                cuts = [
                    self._maker.cut(row, np.full(len(row), kind, np.uint8), pixels)
                    for kind in (STAMP, CTRL)
                ]
                arc, sigma = cuts[0].arc, cuts[0].sigma
                assert arc is not None
                assert sigma is not None
                counted = np.where(due[part][:, :, None, None], sigma, np.float32(0.0))
                for cut, of_class in zip(cuts, found, strict=True):
                    looks = self._maker.looks(cut, rng)
                    of_class.append(statistics(looks, arc, counted, self.bands))
        positive, negative = (
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for parts in found
        )
        return separability(positive, negative, np.concatenate(of_row))

    def _compared(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows that the gate compares, and how many times in each band, (row, band).

        Those that have pixels without arc, each so often that a band comes to :data:`COMPARISONS`; looks
        that were taken once are compared once.
        """
        rows, known = np.zeros(0, np.int64), np.zeros((0, len(self.bands)), bool)
        equal: list[float] = []
        for most in (GATE_ROWS, LOOKED_AT):
            seen, told = [], []
            for few, pixels in self._pieces(self._chosen.positive, most):
                cut = self._maker.cut(few, np.full(len(few), STAMP, np.uint8), pixels)
                assert cut.arc is not None
                assert cut.sigma is not None
                seen.append(few)
                told.append(readable(cut.arc, cut.sigma))
                at = few % self._reader.chunk
                equal += [_equal(held, at) for held in pixels.values() if held.second is not None]
            rows, known = np.concatenate(seen), np.concatenate(told)
            if (known.sum(0) >= ENOUGH_ROWS).all():
                break
        if equal and np.mean(equal) > SAME_PIXELS:
            raise UserError(
                f"option {self.reading.option} is refused: {np.mean(equal):.0%} of the pixels of "
                f"{self.reading.second_run} are those of {self.run}, to the last bit; a second look needs "
                "other exposures of the sky"
            )
        for band in range(len(self.bands)):
            there = np.flatnonzero(known[:, band])
            kept = there[np.linspace(0, len(there) - 1, min(len(there), GATE_ROWS)).astype(int)]
            known[:, band] = np.isin(np.arange(len(rows)), kept)
        times = known.astype(np.int64)
        if self.reading.second_look == "noised":
            times *= -(-COMPARISONS // np.maximum(known.sum(0), 1))
        some = np.asarray(known.any(1))
        if not some.any():  # compared all the same: the gate says that nothing can be read
            some[0], times[0] = True, 1
        return rows[some], times[some]

    def _pieces(
        self, rows: NDArray[np.int64], most: int
    ) -> Iterator[tuple[NDArray[np.int64], dict[int, Pixels]]]:
        """At most about so many of these rows with their pixels, of chunks spread evenly over all."""
        chunks, start, size = np.unique(
            rows // self._reader.chunk, return_index=True, return_counts=True
        )
        few = max(round(most / size.mean()), 1) if len(size) else 0
        for c in np.linspace(0, len(chunks) - 1, min(few, len(chunks))).astype(int).tolist():
            pixels = self._reader.read(int(chunks[c]), stamps=True)
            yield rows[start[c] : start[c] + size[c]], {int(chunks[c]): pixels}


def _equal(held: Pixels, at: NDArray[np.int64]) -> float:
    """Share of the ctrl pixels with data that are the same number in the second run, of rows ``at``."""
    assert held.second is not None
    ctrl, again, data = held.ctrl[at], held.second.ctrl[at], held.nodata[at] == 0
    same = (ctrl == again) & data[:, None]
    return float(same.sum() / max(data.sum() * ctrl.shape[1], 1))


def _scale_of(values: Floats) -> Scale:
    """Mean and standard deviation of each column's known values."""
    known = np.isfinite(values)
    values = np.where(known, values, 0.0)
    return _scale(known.sum(0).astype(float), values.sum(0), (values**2).sum(0))


def _scale(count: Floats, total: Floats, squares: Floats) -> Scale:
    """Mean and standard deviation from sums; a channel without pixels, or all equal, keeps its unit."""
    mean = total / np.maximum(count, 1)
    variance = squares / np.maximum(count, 1) - mean**2
    std = np.sqrt(np.where(variance > 0, variance, 1.0))
    return Scale(tuple(mean.tolist()), tuple(std.tolist()))
