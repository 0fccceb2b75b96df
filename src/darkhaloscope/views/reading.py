"""How a network reads a data set: which images, of which class, in which order, on which scale."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from darkhaloscope.config import CoreMask
from darkhaloscope.config.base import Section
from darkhaloscope.views.cuts import QUALITY_SETS


class Faint(Section):
    """Injections whose arc nobody can see: ``arc_snr`` at most ``at_most``."""

    rows: Literal["keep", "drop", "weight"] = "keep"
    at_most: float = Field(0.0, ge=0)
    weight: float = Field(0.1, gt=0, le=1)
    """Of both images of such a row, where rows are weighted."""
    schedule: tuple[tuple[int, float], ...] = ()
    """(epoch, least arc_snr) from that epoch on, in order; training only: arcs that are easy to see first."""

    @field_validator("schedule")
    @classmethod
    def _in_order(cls, steps: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        epochs = [epoch for epoch, _ in steps]
        if epochs != sorted(set(epochs)) or any(epoch < 0 for epoch in epochs):
            raise ValueError("the epochs of a schedule start at 0 or later and grow")
        return steps

    def least(self, epoch: int) -> float:
        """The least arc_snr of an epoch (from 0); minus infinity where all are in."""
        reached = [snr for start, snr in self.schedule if start <= epoch]
        return reached[-1] if reached else float("-inf")


class BadPixels(Section):
    """Rows of more than 0.2 of bad pixels: left out, or a pool of hard examples with a weight of its own."""

    rows: Literal["drop", "pool"] = "drop"
    weight: float = Field(0.5, gt=0, le=1)


class Reading(Section):
    """What a network is shown of a run; recorded with the network.

    Option A: an image and a second look at the same sky, twice the channels. Option B: an image alone.
    Option C: the image minus the second look. A and C need a second look whose noise is its own.
    """

    option: Literal["a", "b", "c"] = "b"
    second_look: Literal["same", "noised", "reobserved"] = "same"
    """Of options A and C. ``noised``: white Gaussian noise added to both, drawn for each alone.
    ``reobserved``: the ctrl of ``second_run``."""
    noise: float = Field(1.0, gt=0, le=10)
    """Standard deviation of what ``noised`` adds, in units of each pixel's own."""
    second_run: str | None = None
    """A run of the same rows on other exposures of the same sky."""
    negatives: Literal["ctrl", "controls", "matched"] = "ctrl"
    """``ctrl``: of the injections themselves. ``controls``: rows that were never injected.
    ``matched``: core-matched negatives."""
    batch: Literal["shuffled", "paired"] = "shuffled"
    """``paired``: a stamp and its ctrl beside each other; ``shuffled``: never in one batch."""
    batch_size: int = Field(256, ge=2)
    """Images of a batch, both classes together; even."""
    window: int = Field(1024, ge=32)
    """Rows that are shuffled among each other, at least: memory against quality of the shuffle."""
    quality: str = "clean"
    faint: Faint = Faint()
    bad_pixels: BadPixels = BadPixels()
    normalize: Literal["raw", "annulus", "global"] = "annulus"
    """``raw``: nMgy. ``annulus``: each image by its own outer annulus. ``global``: one mean and one
    standard deviation a channel, of both classes of the train split."""
    dither: bool = True
    """Add noise one rounding step wide to every image, whatever its class: the store's ``ctrl`` lies on
    multiples of that step, and ``ctrl + arc`` does not."""
    input_mask: CoreMask | None = None
    augment: bool = True
    """Flips and quarter turns about (N - 1) / 2, in training."""
    aux_psf: bool = False
    """Give ``psf_fwhm_used`` of each band beside the image."""
    stratify_psf: int = Field(0, ge=0, le=64)
    """Bins of PSF width (reference band) of which each batch has as many of either class; 0 for none."""

    @field_validator("quality")
    @classmethod
    def _is_a_set(cls, name: str) -> str:
        if name not in QUALITY_SETS:
            raise ValueError(f"there is no set {name!r}; the sets are {', '.join(QUALITY_SETS)}")
        return name

    @field_validator("batch_size")
    @classmethod
    def _is_even(cls, size: int) -> int:
        if size % 2:
            raise ValueError("as many positives as negatives make an even number")
        return size

    @model_validator(mode="after")
    def _fits_together(self) -> Reading:
        if self.option != "b" and self.second_look == "same":
            raise ValueError(
                f"option {self.option} with the very same pixels shows the arc bare: stamp - ctrl is exactly "
                "0 without one, and the variance of the outer annulus alone tells the classes apart; "
                "use second_look: noised, or reobserved"
            )
        if self.option == "b" and self.second_look != "same":
            raise ValueError("second_look is given but option b has none; take it out")
        if (self.second_look == "reobserved") != (self.second_run is not None):
            raise ValueError("second_look: reobserved and second_run go together")
        if self.batch == "paired" and self.negatives != "ctrl":
            raise ValueError(
                f"batch: paired needs negatives: ctrl; {self.negatives} are no pairs of their stamps"
            )
        return self
