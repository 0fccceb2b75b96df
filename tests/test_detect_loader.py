"""The loader: every image once, balanced, the same for any workers, resumed exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_pairs import small_pairs, write_pairs

from darkhaloscope.detect.loader import Batch, Loader
from darkhaloscope.views import Reading


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_pairs(tmp_path_factory.mktemp("pairs"), small_pairs())


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(x, y)
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("batch", ["paired", "shuffled"])
def test_an_epoch_is_the_same_for_any_workers_and_resumed_exactly(run: str, batch: str) -> None:
    reading = Reading(batch=batch, batch_size=32, window=64)
    whole = list(Loader(run, reading, split="train", seed=4).epoch(1))
    assert same(whole, list(Loader(run, reading, split="train", seed=4, workers=3).epoch(1)))
    first = Loader(run, reading, split="train", seed=4, workers=2)
    begun = first.epoch(1)
    for _ in range(5):
        next(begun)
    state = json.loads(json.dumps(first.state()))
    begun.close()
    second = Loader(run, reading, split="train", seed=4)
    second.resume(state)
    assert same(whole[5:], list(second.epoch(1)))
    assert not same(whole, list(Loader(run, reading, split="train", seed=4).epoch(2)))
    assert not same(whole, list(Loader(run, reading, split="train", seed=5).epoch(1)))


@pytest.mark.parametrize("batch", ["paired", "shuffled"])
def test_every_image_comes_once_and_a_stamp_meets_its_ctrl_only_in_pairs(
    run: str, batch: str
) -> None:
    reading = Reading(batch=batch, batch_size=32, window=64)
    seen = []
    for b in Loader(run, reading, split="train", seed=4).epoch(0):
        positive, negative = (b.row[b.label == k] for k in (1, 0))
        assert len(positive) == len(negative)
        met = np.isin(positive.numpy(), negative.numpy())
        assert met.all() if batch == "paired" else not met.any()
        assert torch.equal(b.image, b.label.to(torch.uint8))
        seen += [(int(r), int(i)) for r, i in zip(b.row, b.image, strict=True)]
    n = np.arange(640)
    train = (np.isin(n // 10 % 6, [0, 1, 3, 4])) & (n % 10 != 0) & (n % 4 != 3)
    assert sorted(seen) == [(r, i) for r in np.flatnonzero(train).tolist() for i in (0, 1)]
