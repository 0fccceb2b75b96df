"""The detector's file: which run, how it is read, which network, how long, and what it must show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from darkhaloscope import prepare, storage
from darkhaloscope.config import digest_of, load_document, replace_keys
from darkhaloscope.config.base import Section
from darkhaloscope.config.load import beside, explain
from darkhaloscope.detect.networks import NetworkName
from darkhaloscope.errors import UserError
from darkhaloscope.views import Reading

GATES = ("auroc", "core_mask_drop", "arc_localisation", "split_integrity")
"""What a detector must pass unless its file says otherwise."""

DEPLOYED = "real_lens_recall"
"""Required as well where the file says ``deploy``."""

REPORTED = ("annulus_only_auroc", "core_only_auroc", DEPLOYED)
"""Further gates, required where ``gates.required`` names them."""

TIERS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "full": {
        "network": {"name": "resnet18"},
        "reading": {"batch_size": 256},
        "training": {"epochs": 50, "patience": 10},
    },
    "laptop": {
        "network": {"name": "small"},
        "reading": {"batch_size": 64},
        "training": {"epochs": 20, "patience": 5},
    },
}
"""What a tier stands for; ``full`` is the seed experiment's. A key of the file's own comes first."""


class NetworkSection(Section):
    """The network."""

    name: NetworkName
    weights: str | None = None
    """A file of weights to start from, e.g. torchvision's of ResNet-18; its last layer is left out."""


class PairedLoss(Section):
    """Push the embeddings of a stamp and of its ctrl apart, as far as ``margin``.

    The mean over pairs of max(0, margin - d)^2, d the distance of the two embeddings, each of length 1
    (Hadsell, Chopra & LeCun 2006, CVPR, eq. 4, pairs that differ).
    """

    weight: float = Field(0.0, ge=0)
    """Of this loss beside the cross entropy; 0 for none."""
    margin: float = Field(0.5, gt=0, le=2)


class TrainingSection(Section):
    """How it learns: AdamW (Loshchilov & Hutter 2019) on binary cross entropy."""

    epochs: int = Field(ge=1)
    patience: int = Field(ge=1)
    """Epochs without a lower loss on val after which it stops."""
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    paired: PairedLoss = PairedLoss()
    checkpoint_s: float = Field(600.0, gt=0)
    """Seconds between two checkpoints within an epoch; there is one at the end of each."""


class GatesSection(Section):
    """What it must show; docs/detect.md says what each is."""

    auroc: float = Field(0.85, gt=0.5, lt=1)
    core_mask_drop: float = Field(0.10, gt=0, lt=1)
    core_radius_px: float = Field(5.0, gt=0)
    """What is the core: pixels nearer than this to the target."""
    arc_localisation: float = Field(0.10, gt=0, lt=1)
    core_only_auroc: float = Field(0.70, gt=0.5, lt=1)
    annulus_only_auroc: float = Field(0.75, gt=0.5, lt=1)
    real_lens_recall: float = Field(0.5, gt=0, lt=1)
    real_lens_fpr: float = Field(1e-2, gt=0, lt=1)
    """The rate among matched galaxies that ``real_lens_recall`` is asked at."""
    real_lens_grades: tuple[str, ...] = ()
    """Grades of lenses that ``real_lens_recall`` is asked of; all if empty."""
    fprs: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    """False-positive rates that a true-positive rate is given at."""
    beside: bool = True
    """Train the networks of the core alone and of the annulus alone as well."""
    occluded: int = Field(200, ge=20)
    """Test stamps on which patches are hidden, at most."""
    required: tuple[str, ...] = GATES

    @field_validator("required")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = (*GATES, *REPORTED)
        for name in names:
            if name not in known:
                raise ValueError(f"there is no gate {name!r}; the gates are {', '.join(known)}")
        return names

    @field_validator("fprs")
    @classmethod
    def _rates(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < rate < 1 for rate in rates):
            raise ValueError("a false-positive rate lies between 0 and 1")
        return rates


class DetectorConfig(Section):
    """All of it. Relative paths in a file are taken from its folder."""

    run: str
    """The run's folder."""
    name: str = Field("detector", pattern=r"^[\w.-]+$")
    tier: Literal["laptop", "full"] = "laptop"
    seed: int = Field(1, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(0, ge=0, le=64)
    """Threads that read ahead."""
    deploy: bool = False
    """It will look for real lenses: the gate ``real_lens_recall`` is required too."""
    reading: Reading
    network: NetworkSection
    training: TrainingSection
    gates: GatesSection = GatesSection()

    @model_validator(mode="after")
    def _pairs_lie_together(self) -> DetectorConfig:
        if self.training.paired.weight > 0 and self.reading.batch != "paired":
            raise ValueError("training.paired needs reading.batch: paired")
        return self

    @property
    def required(self) -> tuple[str, ...]:
        """Gates that must pass."""
        named = self.gates.required
        return (*named, DEPLOYED) if self.deploy and DEPLOYED not in named else named

    def learned(self) -> dict[str, Any]:
        """What decides the weights, beside the data."""
        document = self.model_dump(mode="json", include={"seed", "reading", "network", "training"})
        del document["training"]["checkpoint_s"]
        return document

    def digest(self) -> str:
        """Digest of what decides the weights."""
        return digest_of(self.learned())

    def to_yaml(self) -> str:
        """The file, every default filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(source: str, overrides: Mapping[str, Any] | None = None) -> DetectorConfig:
    """A detector's file, or the defaults for a run's folder.

    Parameters
    ----------
    source : str
        Path or URL of a YAML file with a key ``run``, or a run's folder.
    overrides : mapping, optional
        Values by dotted key.

    Raises
    ------
    UserError
        The file cannot be read, names no run, or a key is unknown or out of range.
    """
    if prepare.is_run(source):
        document: dict[str, Any] = {"run": storage.absolute(source.rstrip("/"))}
    elif Path(source).is_dir():
        raise UserError(
            f"{source} is a folder and holds no run (no run.json); give a run's folder or a detector's file"
        )
    else:
        document = load_document(source)
        resolve_paths(document, source)
    replace_keys(document, overrides or {})
    return parse_config(document, source)


def parse_config(document: Mapping[str, Any], where: str = "the detector") -> DetectorConfig:
    """Check a mapping as it would stand in a detector's file; errors as :func:`load_config`."""
    if not isinstance(document.get("run"), str):
        raise UserError(f"{where} names no run; add run: and the folder of a finished run")
    tier = TIERS.get(str(document.get("tier", "laptop")), {})
    filled = dict(document)
    for section, values in tier.items():
        own = document.get(section) or {}
        filled[section] = {**values, **own} if isinstance(own, Mapping) else own
    try:
        return DetectorConfig.model_validate(filled)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, DetectorConfig, 'a detector')}") from None


_PATHS = (("run",), ("network", "weights"), ("reading", "second_run"))


def resolve_paths(document: dict[str, Any], url: str) -> None:
    """Take the relative paths of a detector's mapping from the folder of its file, in place."""
    for *sections, key in _PATHS:
        place: Any = document
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if isinstance(place, dict) and isinstance(place.get(key), str):
            place[key] = beside(url, place[key])
