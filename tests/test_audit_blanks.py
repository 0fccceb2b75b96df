"""Pixels that one image of a pair has not are found, whatever stands in their place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darkhaloscope.audit import open_source
from darkhaloscope.audit.integrity import ONE_SIDED

Pair = tuple[np.ndarray, np.ndarray]
ROWS, SIZE = 20, 32
SIGMA = 0.01


def pair() -> Pair:
    """Stamps and ctrl: noise, a galaxy, and an arc on the first half of the rows."""
    y, x = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    galaxy, ring = np.exp(-np.hypot(x, y) / 4), np.exp(-((np.hypot(x, y) - 6) ** 2) / 4)
    sky = np.random.default_rng(3).normal(size=(ROWS, 2, SIZE, SIZE)) * SIGMA
    ctrl = (sky + galaxy).astype("f4")
    stamp = ctrl.copy()
    stamp[: ROWS // 2] += (0.3 * ring).astype("f4")
    return stamp, ctrl


def counted(folder: Path, names: tuple[str, str], images: Pair) -> dict[str, int]:
    np.savez(folder / "x.npz", **dict(zip(names, images, strict=True)), bands=["g", "r"])
    block = open_source(str(folder / "x.npz")).block(slice(0, ROWS))
    return {name: n for name in ONE_SIDED if (n := int(block[name].values.sum()))}


def put(image: np.ndarray, value: float, *place: slice, rows: slice = slice(None)) -> np.ndarray:
    out = image.copy()
    out[(rows, slice(None), *place)] = value
    return out


STRIP, CORNER = (slice(4, 12), slice(None)), (slice(0, 3), slice(0, 3))
THIRD = slice(None, None, 3)


def both(value: float) -> Pair:
    stamp, ctrl = pair()
    return put(stamp, value, *STRIP, rows=THIRD), put(ctrl, value, *STRIP, rows=THIRD)


def overflow() -> Pair:
    with np.errstate(over="ignore"):
        return tuple((1.4e5 * v).astype("f2").astype("f4") for v in pair())  # type: ignore[return-value]


PLANTS: dict[str, tuple[Callable[[], Pair], dict[str, int]]] = {
    "NaN in ctrl, 0 in stamps": (
        lambda: (both(0.0)[0], both(np.nan)[1]),
        {"no_data_in_ctrl": 7},
    ),
    "one pixel of one stamp": (
        lambda: (put(pair()[0], np.nan, slice(5, 6), slice(5, 6), rows=slice(2, 3)), pair()[1]),
        {"no_data_in_stamp": 1},
    ),
    "too bright for float16": (overflow, {"no_data_in_stamp": 10}),
    "a corner": (lambda: (put(pair()[0], 0, *CORNER), pair()[1]), {"zeros_in_stamp": ROWS}),
    "an edge": (lambda: (put(pair()[0], 0, slice(-1, None)), pair()[1]), {"zeros_in_stamp": ROWS}),
    "a strip of ctrl": (lambda: (pair()[0], both(0.0)[1]), {"zeros_in_ctrl": 7}),
    "an arc on a gap": (
        lambda: (both(0.0)[0] + np.float32(1e-6), both(0.0)[1]),
        {"zeros_in_ctrl": 7},
    ),
}


def test_what_a_fourier_transform_leaves_of_nothing_is_no_sky(tmp_path: Path) -> None:
    """Arcs alone, whose faintest pixels are dust, on a ctrl that is blank."""
    stamp, ctrl = pair()
    arc = np.where(np.abs(stamp - ctrl) > 1e-4, stamp - ctrl, np.float32(0))
    dust = 1e-8 * np.random.default_rng(4).normal(size=arc.shape).astype("f4")
    dust[ROWS // 2 :] = 0.0
    assert counted(tmp_path, ("stamp", "ctrl"), (arc + dust, 0 * ctrl)) == {}
    assert counted(tmp_path, ("stamp", "ctrl"), (arc + 1e4 * dust, 0 * ctrl)) != {}


@pytest.mark.parametrize("case", PLANTS)
def test_what_one_image_lacks_is_counted(case: str, tmp_path: Path) -> None:
    make, wanted = PLANTS[case]
    assert counted(tmp_path, ("stamp", "ctrl"), make()) == wanted


def noiseless() -> Pair:
    """A galaxy that ends, on nothing, and an arc whose wings do not."""
    stamp, ctrl = pair()
    arc = stamp - ctrl
    galaxy = np.where(ctrl.mean(axis=0) > 3 * SIGMA, ctrl.mean(axis=0), 0).astype("f4")
    return galaxy + arc + np.float32(1e-9), np.broadcast_to(galaxy, arc.shape)


CLEAN: dict[str, Callable[[], Pair]] = {
    "as they are": pair,
    "NaN in both": lambda: both(np.nan),
    "0 in both": lambda: both(0.0),
    "few counts": lambda: tuple(np.round(v / SIGMA).astype("i4") for v in pair()),  # type: ignore[return-value]
    "clipped": lambda: tuple(np.maximum(v, 0) for v in pair()),  # type: ignore[return-value]
    "rounded ctrl": lambda: (pair()[0], np.round(pair()[1] / SIGMA * 16) * SIGMA / 16),
    "noiseless": noiseless,
    "a row without pixels": lambda: (put(pair()[0], np.nan, rows=slice(3, 4)), pair()[1]),
}


@pytest.mark.parametrize("case", CLEAN)
def test_what_both_lack_is_nothing_wrong(case: str, tmp_path: Path) -> None:
    assert counted(tmp_path, ("stamp", "ctrl"), CLEAN[case]()) == {}


def test_an_arc_that_is_no_number_makes_a_stamp_that_is_none(tmp_path: Path) -> None:
    stamp, ctrl = pair()
    arc = put(stamp - ctrl, np.nan, *CORNER, rows=slice(0, 4))
    assert counted(tmp_path, ("ctrl", "arc"), (ctrl, arc)) == {"no_data_in_stamp": 4}
    gap = put(ctrl, np.nan, *CORNER)
    assert counted(tmp_path, ("ctrl", "arc"), (gap, stamp - ctrl)) == {}
