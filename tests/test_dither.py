"""The comb that rounding leaves tells stamps from their ctrl; read with noise one step wide it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comb
import numpy as np
import pytest
from small_pairs import SIGMA, small_pairs, write_pairs

from darkhaloscope.detect.loader import Loader
from darkhaloscope.errors import UserError
from darkhaloscope.inject import round_ctrl
from darkhaloscope.views import CTRL, SECOND, STAMP, Reading, dithered, rounding_step

SIZE, ROWS = 32, 480


def rounded(seed: int = 0) -> Any:
    """Pairs as a run stores them: ctrl on multiples of its step, arcs with wings that go below it."""
    cube = small_pairs(ROWS, seed=seed, size=SIZE)
    for ctrl, sigma in zip(cube["ctrl"].values, cube["sky_sigma"].values, strict=True):
        ctrl[:] = round_ctrl(ctrl, sigma.astype(float))
    return cube


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_pairs(tmp_path_factory.mktemp("run"), rounded())


def by(lines: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(line["read"], line["reader"]): line for line in lines}


def test_without_an_arc_the_comb_tells_the_class_and_dithered_it_does_not(run: str) -> None:
    found = by(comb.measure(run))
    for reader in ("exact multiples", "sharpness"):
        assert found["as stored", reader]["auc"] > 0.99
        line = found["dithered", reader]
        assert line["lo"] < 0.5 < line["hi"]
        assert line["hi"] - line["lo"] < 0.15
        assert line["regions"] == ROWS // 10
    assert found["as stored", "exact multiples"]["of_ctrls"] == 1.0


@pytest.mark.parametrize(
    ("law", "reader"),
    [
        # Half as wide as a step in the ctrl: no multiples, and a comb all the same.
        (
            lambda images, sky, row, image: dithered(
                images, np.where(image[:, None] == CTRL, sky / 2, sky), row, image
            ),
            "sharpness",
        ),
        # In the stamps alone.
        (
            lambda images, sky, row, image: dithered(
                images, np.where(image[:, None] == STAMP, sky, np.nan), row, image
            ),
            "exact multiples",
        ),
    ],
)
def test_noise_that_does_not_hide_the_comb_is_seen(
    run: str, monkeypatch: pytest.MonkeyPatch, law: Any, reader: str
) -> None:
    monkeypatch.setattr("darkhaloscope.detect.making.dithered", law)
    assert by(comb.measure(run))["dithered", reader]["auc"] > 0.9


def test_the_second_look_of_another_run_lies_on_no_comb_either(run: str, tmp_path: Path) -> None:
    """Two ctrl on one comb differ by a multiple of its step; with an arc they do not."""
    second = write_pairs(tmp_path / "second", rounded(seed=0).pipe(_again))
    keys: dict[str, Any] = {
        "option": "c", "second_look": "reobserved", "second_run": second, "normalize": "raw",
        "augment": False, "batch_size": 32,
    }  # fmt: skip
    step = rounding_step(np.array([SIGMA]))[0]
    share = {}
    for dither in (False, True):
        batch = next(
            iter(Loader(run, Reading(**keys, dither=dither), split="val", seed=1).epoch(0))
        )
        turns = batch.images.numpy().astype(float) / step
        exact = (turns == np.rint(turns)).mean((1, 2, 3))
        share[dither] = [exact[batch.image.numpy() == k].mean() for k in (CTRL, STAMP)]
    assert share[False][0] == 1.0 > 0.9 > share[False][1]
    assert max(share[True]) < 1e-3


def _again(cube: Any) -> Any:
    """The same rows on other exposures."""
    noise = np.random.default_rng(7).normal(0, SIGMA, cube["ctrl"].shape)
    for ctrl, more, sigma in zip(cube["ctrl"].values, noise, cube["sky_sigma"].values, strict=True):
        ctrl[:] = round_ctrl((ctrl + more).astype(np.float32), sigma.astype(float))
    return cube


def test_the_noise_is_flat_one_step_wide_and_a_function_of_the_image_alone() -> None:
    n = 40
    images = np.zeros((n, 2, 64, 64), np.float32)
    sky = np.stack([np.full(n, 0.01), np.full(n, np.nan)], axis=1)
    row = np.arange(n) // 3 + 100
    image = np.arange(n) % 3
    noise = dithered(images, sky, row, image)
    assert noise.dtype == np.float32
    assert (noise[:, 1] == 0).all()  # its sigma is not known: it was not rounded
    noise, step = noise[:, 0].astype(float), 2.0**-11
    assert rounding_step(np.array([0.01])) == step
    assert np.abs(noise).max() <= step / 2
    cells = np.bincount(((noise / step + 0.5) * 16).astype(int).ravel().clip(0, 15), minlength=16)
    assert cells / noise.size == pytest.approx(1 / 16, abs=0.002)
    assert abs(noise.mean()) < 4 * step / 12**0.5 / noise.size**0.5
    assert noise.std() == pytest.approx(step / 12**0.5, rel=0.01)
    # White, and its own in each image: of all pairs of images, and of a pixel with its neighbours.
    flat = noise.reshape(n, -1)
    between = np.corrcoef(flat)[np.triu_indices(n, 1)]
    assert np.abs(between).max() < 5 / flat.shape[1] ** 0.5
    for axis in (1, 2):
        near = (noise * np.roll(noise, 1, axis=axis)).mean() / noise.var()
        assert abs(near) < 5 / noise.size**0.5
    # The same whatever else is read with it, and in whatever order.
    some = np.array([17, 3, 30])
    again = dithered(images[some], sky[some], row[some], image[some])
    assert (again[:, 0] == noise[some]).all()
    assert {CTRL, STAMP, SECOND} == {0, 1, 2}


def test_a_dither_is_part_of_what_a_reading_is(run: str) -> None:
    plain, read = (
        Loader(run, Reading(batch_size=32, dither=d), split="train", seed=1) for d in (False, True)
    )
    with pytest.raises(UserError, match="is of another reading"):
        plain.resume(read.state())
    images = [
        np.concatenate([b.images.numpy() for b in Loader(
            run, Reading(batch_size=32, window=w, augment=False), split="val", seed=s, workers=n
        ).in_order()]) for w, s, n in ((64, 1, 0), (128, 2, 2))
    ]  # fmt: skip
    assert (images[0] == images[1]).all()  # whoever reads it
