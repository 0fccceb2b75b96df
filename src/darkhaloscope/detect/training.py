"""Training: epochs over the train split, judged on val alone, resumed exactly where it was killed."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from darkhaloscope import storage
from darkhaloscope.audit.intervals import auc
from darkhaloscope.audit.verdict import BUG, SHORTCUT
from darkhaloscope.detect import folder as folders
from darkhaloscope.detect.calibration import calibrate
from darkhaloscope.detect.config import DetectorConfig, PairedLoss
from darkhaloscope.detect.detector import Detector, auxiliary, save
from darkhaloscope.detect.loader import Batch, Loader
from darkhaloscope.detect.networks import Network, make_network, read_saved
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import radius_map, stamp_centre

CHECKPOINT = "checkpoints/last.pt"
SCHEMA = 1

METRICS = ("epoch", "train_loss", "train_paired", "val_loss", "val_auroc", "images", "seconds")

Part = Literal["all", "core_only", "annulus_only"]
BESIDE: tuple[Part, ...] = ("core_only", "annulus_only")
"""Networks that are trained beside a detector, each in a folder of that name below its own."""

OnBatch = Callable[[int, int, int], None]
"""``on_batch(epoch, done, all)``: after each batch of training."""
OnEpoch = Callable[[dict[str, float]], None]
"""``on_epoch(line)``: a line of metrics, after each epoch."""


def plane_of(part: Part, size: int, radius: float) -> NDArray[np.float32] | None:
    """What a part leaves of each pixel, (y, x): the core is nearer than ``radius`` to the stamp's centre."""
    if part == "all":
        return None
    centre = stamp_centre(size)
    core = radius_map(size, centre, centre) < radius
    return (core if part == "core_only" else ~core).astype(np.float32)


def seen_of(part: Part, radius: float) -> str:
    """The part as a detector's record has it."""
    return part if part == "all" else f"{part}({radius:g} px)"


def check_verdict(run: str, despite: bool) -> dict[str, Any]:
    """See that nobody found the data wrong; gives what is trained on all the same.

    Returns
    -------
    dict
        Empty; or the ``verdict`` and ``sentence`` that ``despite`` overrules.

    Raises
    ------
    UserError
        The audit of the run said bug or shortcut, and ``despite`` is not given; or the verdict is damaged.
    """
    path = storage.join(run, folders.VERDICT)
    try:
        found = json.loads(storage.read(path))
        verdict, sentence = str(found["verdict"]), str(found["sentence"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; make it again with dhs audit {run}") from None
    if verdict not in (BUG, SHORTCUT):
        return {}
    if not despite:
        raise UserError(
            f"the audit of {run} says {verdict}: {sentence} A network would learn that; mend the data, or "
            "train --despite it, which is recorded"
        )
    return {"verdict": verdict, "sentence": sentence}


@dataclass
class Progress:
    """What a checkpoint holds beside weights: plain numbers."""

    epoch: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    """Of the epoch so far: cross entropy, paired loss, weights, images."""
    seconds: float = 0.0
    metrics: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_loss: float = float("inf")


class Trainer:
    """A network on its way, and everything that a checkpoint needs.

    Parameters
    ----------
    config : DetectorConfig
    folder : str
        Of the checkpoints.
    train, val : Loader
    plane : ndarray (y, x), optional
        What is left of each pixel of an image, for networks that see a part of it.
    """

    def __init__(
        self,
        config: DetectorConfig,
        folder: str,
        train: Loader,
        val: Loader,
        plane: NDArray[np.float32] | None = None,
    ) -> None:
        self.config, self.folder, self.plane = config, folder, plane
        self.train, self.val = train, val
        self.device = device_of(config)
        self.network: Network = make_network(
            config.network.name,
            train.channels,
            auxiliary(config.reading, train.bands),
            config.seed,
            config.network.weights,
        ).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.training.learning_rate,
            weight_decay=config.training.weight_decay,
        )
        self.best = _copy(self.network)
        self.progress = Progress()

    # --- checkpoints ------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint; it appears whole or not at all."""
        held = io.BytesIO()
        torch.save(
            {
                "schema": SCHEMA,
                "network": self.network.state_dict(),
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
                "progress": vars(self.progress),
                "loader": self.train.state(),
            },
            held,
        )
        storage.write(storage.join(self.folder, CHECKPOINT), held.getvalue())

    def resume(self) -> bool:
        """Go on where the checkpoint was written, if there is one.

        Raises
        ------
        UserError
            It cannot be read, or is of another training.
        """
        path = storage.join(self.folder, CHECKPOINT)
        again = "delete it, and the training starts again"
        try:
            found = read_saved(path, again, self.device)
        except FileNotFoundError:
            return False
        schema = found.get("schema") if isinstance(found, dict) else None
        if schema is None:
            raise UserError(f"{path} holds no checkpoint; {again}")
        if schema != SCHEMA:
            raise UserError(f"{path} has schema {schema}; this version reads {SCHEMA}")
        self.train.resume(found["loader"])
        self.network.load_state_dict(found["network"])
        self.best = found["best"]
        self.optimizer.load_state_dict(found["optimizer"])
        self.progress = Progress(**found["progress"])
        return True

    # --- learning ---------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether there is no epoch left, or no hope."""
        done, settings = self.progress, self.config.training
        waited = done.epoch - 1 - done.best_epoch
        return done.epoch >= settings.epochs or waited >= settings.patience

    def run(self, on_batch: OnBatch, on_epoch: OnEpoch) -> None:
        """All epochs that are left."""
        while not self.finished:
            self._epoch(on_batch)
            line = self._judge()
            on_epoch(line)
            self.save()

    def _epoch(self, on_batch: OnBatch) -> None:
        self.network.train()
        at = self.progress
        saved = started = time.monotonic()
        before, total = at.seconds, self.train.batches(at.epoch)
        for batch in self.train.epoch(at.epoch):
            self._step(batch)
            now = time.monotonic()
            at.seconds = before + now - started
            if now - saved > self.config.training.checkpoint_s:
                self.save()
                saved = now
            on_batch(at.epoch, int(self.train.state()["batch"]), total)

    def _step(self, batch: Batch) -> None:
        images, label, weight = (
            t.to(self.device, non_blocking=True) for t in (batch.images, batch.label, batch.weight)
        )
        if self.plane is not None:
            images = images * torch.from_numpy(self.plane).to(self.device)
        embedding = self.network.embed(images)
        logit = self.network.decide(embedding, batch.aux.to(self.device))
        each = nn.functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
        loss = (each * weight).sum() / weight.sum()
        paired = torch.zeros((), device=self.device)
        settings = self.config.training.paired
        if settings.weight > 0:
            paired = paired_loss(embedding, batch, settings)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + settings.weight * paired).backward()
        self.optimizer.step()
        n = len(label)
        gained = (float(each.detach() @ weight), float(paired.detach()) * n, float(weight.sum()), n)
        self.progress.sums = [a + b for a, b in zip(self.progress.sums, gained, strict=True)]

    def _judge(self) -> dict[str, float]:
        """End an epoch: what val says of it."""
        at = self.progress
        started = time.monotonic()
        seen = scored(self.network, self.val.in_order(), self.plane)
        if not np.isfinite(seen.logit).all():
            raise UserError(
                f"the training diverged in epoch {at.epoch}: what it says of val is no finite number; "
                "lower training.learning_rate, and choose a new --out"
            )
        wrong = np.where(seen.label, -seen.logit, seen.logit)
        loss = float(np.average(np.logaddexp(0.0, wrong), weights=_balanced(seen)))
        cross, paired, weights, images = at.sums
        line = {
            "epoch": at.epoch,
            "train_loss": cross / weights,
            "train_paired": paired / images,
            "val_loss": loss,
            "val_auroc": auc(seen.logit[seen.label], seen.logit[~seen.label]),
            "images": images,
            "seconds": at.seconds + time.monotonic() - started,
        }
        at.metrics.append(line)
        if loss < at.best_loss:
            at.best_loss, at.best_epoch, self.best = loss, at.epoch, _copy(self.network)
        at.epoch, at.sums, at.seconds = at.epoch + 1, [0.0, 0.0, 0.0, 0.0], 0.0
        return line


def train(
    config: DetectorConfig,
    folder: str,
    *,
    despite: bool = False,
    part: Part = "all",
    on_start: Callable[[bool, Trainer], None] = lambda resumed, trainer: None,
    on_batch: OnBatch = lambda epoch, done, of: None,
    on_epoch: OnEpoch = lambda line: None,
) -> Detector:
    """Train a detector in its folder, or go on where an earlier call was killed.

    On one machine with the same number of threads the weights are the same to the bit, whether or not
    it was killed on the way, and whatever ``workers`` is.

    Parameters
    ----------
    config : DetectorConfig
    folder : str
        Path or URL.
    despite : bool
        Train although the run's audit said bug or shortcut. Recorded in ``run.json`` for good.
    part : {"all", "core_only", "annulus_only"}
        What the network is shown of an image.
    on_start, on_batch, on_epoch : callable
        Told how it goes.

    Raises
    ------
    UserError
        The run's verdict forbids it, it lacks what the reading asks for, the folder is another's, or the
        training diverged.
    """
    overruled = check_verdict(config.run, despite)
    loaders = {
        split: Loader(
            config.run, config.reading, split=split, seed=config.seed, workers=config.workers
        )
        for split in ("train", "val")
    }
    identity = loaders["train"].identity
    radius, size = config.gates.core_radius_px, loaders["train"].size
    resumed = folders.claim(folder, config, identity, overruled, seen_of(part, radius))
    plane = plane_of(part, size, radius)
    trainer = Trainer(config, folder, loaders["train"], loaders["val"], plane)
    trainer.resume()
    on_start(resumed, trainer)
    trainer.run(on_batch, on_epoch)
    recorded = folders.require(folder)[0]["despite"]
    return _finish(trainer, str(recorded.get("verdict", "")))


def _finish(trainer: Trainer, despite: str) -> Detector:
    """The best epoch's weights, calibrated on val, and written."""
    config, network = trainer.config, trainer.network
    network.load_state_dict(trainer.best)
    seen = scored(network, trainer.val.in_order(), trainer.plane)
    slope, shift = calibrate(seen.logit, seen.label, seen.weight)
    made = Detector(
        network.eval(),
        config.network.name,
        trainer.train.bands,
        trainer.train.size,
        config.reading,
        trainer.train.scale,
        trainer.train.aux_scale,
        slope,
        shift,
        despite,
    )
    digest = save(made, trainer.folder)
    table = pd.DataFrame(trainer.progress.metrics)[list(METRICS)]
    folders.write_table(storage.join(trainer.folder, folders.METRICS), table)
    return replace(made, digest=digest)


class Scored(NamedTuple):
    """What a network says of images, in stored order; all arrays are (image,)."""

    row: NDArray[np.int64]
    image: NDArray[np.uint8]
    label: NDArray[np.bool_]
    weight: NDArray[np.float64]
    logit: NDArray[np.float64]


def scored(
    network: Network,
    batches: Iterable[Batch],
    plane: NDArray[np.float32] | None = None,
    on_images: Callable[[int], None] = lambda n: None,
) -> Scored:
    """What a network says of every image of some batches.

    Parameters
    ----------
    plane : ndarray (y, x), optional
        What is left of each pixel that the network is given: 0 hides it at the level of the sky.
    on_images : callable
        Told of each batch how many images it had.
    """
    device = next(network.parameters()).device
    left = None if plane is None else torch.from_numpy(plane).to(device)
    parts: list[tuple[Tensor, ...]] = []
    network.eval()
    with torch.inference_mode():
        for batch in batches:
            images = batch.images.to(device)
            logit = network(images if left is None else images * left, batch.aux.to(device))
            parts.append((batch.row, batch.image, batch.label, batch.weight, logit.cpu()))
            on_images(len(logit))
    row, image, label, weight, logit = (
        torch.cat(part).numpy() for part in zip(*parts, strict=True)
    )
    return Scored(row, image, label > 0.5, weight.astype(float), logit.astype(float))


def paired_loss(embedding: Tensor, batch: Batch, settings: PairedLoss) -> Tensor:
    """Mean over the pairs of a batch of max(0, margin - distance)^2, of embeddings of length 1."""
    unit = nn.functional.normalize(embedding, dim=1)
    stamp, ctrl = pairs_of(batch.row, batch.image)
    if not len(stamp):
        return embedding.sum() * 0.0
    # The small constant keeps the root's slope finite where two embeddings are equal.
    gap = ((unit[stamp] - unit[ctrl]) ** 2).sum(dim=1).add(1e-12).sqrt()
    return torch.relu(settings.margin - gap).square().mean()


def pairs_of(row: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Places in a batch of the stamps whose ctrl is in it as well, and of those ctrl."""
    stamps = torch.nonzero(image == 1)[:, 0]
    ctrls = torch.nonzero(image == 0)[:, 0]
    order = torch.argsort(row[ctrls], stable=True)
    ctrls = ctrls[order]
    if not len(ctrls):
        return stamps[:0], ctrls
    at = torch.searchsorted(row[ctrls], row[stamps]).clamp(max=len(ctrls) - 1)
    there = row[ctrls][at] == row[stamps]
    return stamps[there], ctrls[at[there]]


def device_of(config: DetectorConfig) -> torch.device:
    """Where the network runs: a CUDA device where there is one, unless the file says otherwise.

    Raises
    ------
    UserError
        CUDA is asked for, and there is none.
    """
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise UserError(
            "device: cuda, but torch sees no CUDA device here; use device: auto, or check the driver and "
            "that torch is a CUDA build"
        )
    return torch.device("cuda" if there and config.device != "cpu" else "cpu")


def _balanced(seen: Scored) -> NDArray[np.float64]:
    """Weights with which both classes count alike, whatever their numbers."""
    w = seen.weight
    return w / np.where(seen.label, w[seen.label].sum(), w[~seen.label].sum())


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
