"""A trained network with its own way to read images: what comes in as pixels goes out as log odds."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.detect.networks import NETWORKS, Network, NetworkName, make_network, read_tensors
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import stamp_centre
from darkhaloscope.views import Reading, Scale, mask_weight, network_input, standardised

Floats = NDArray[np.float64]

SCHEMA = 1
DESCRIPTION, WEIGHTS = "detector.json", "model.pt"
AT_ONCE = 256
"""Images that go through the network together."""


@dataclass(frozen=True)
class Detector:
    """A network, how it sees images, and how its log odds are calibrated.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    name : {"resnet18", "small"}
    bands : tuple of str
    size : int
        Pixels on a side.
    reading : Reading
        What is done to an image before the network sees it.
    scale, aux_scale : Scale or None
        Of ``normalize: global``, and of the PSF widths beside images, as the train split had them.
    slope, shift : float
        Calibrated log odds are ``slope * logit + shift``.
    despite : str
        The verdict of its data set where that was bug or shortcut; else empty.
    digest : str
        sha256 of the file of weights; empty before there is one.
    """

    network: Network
    name: NetworkName
    bands: tuple[str, ...]
    size: int
    reading: Reading
    scale: Scale | None = None
    aux_scale: Scale | None = None
    slope: float = 1.0
    shift: float = 0.0
    despite: str = ""
    digest: str = ""

    @property
    def needs_psf(self) -> bool:
        """Whether :meth:`score` needs PSF widths."""
        return self.reading.aux_psf

    def score(
        self,
        images: NDArray[np.float32],
        nodata: NDArray[np.bool_],
        target: Floats | None = None,
        psf: Floats | None = None,
    ) -> Floats:
        """Log odds that images hold an arc, (n,) float64.

        Nothing is dithered here: a survey's own pixels lie on no comb. Those of a data set do, and a loader
        dithers them first (:func:`darkhaloscope.views.dithered`).

        Parameters
        ----------
        images : ndarray (n, band, y, x)
            nMgy; any value where there is no data.
        nodata : ndarray of bool, same shape
            Pixels without data.
        target : ndarray (n, 2), optional
            x and y of the targets in stamp pixels, where an input mask lies; default the centre.
        psf : ndarray (n, band), optional
            PSF widths in arcsec, for a detector that was trained with them (:attr:`needs_psf`):
            noise-equivalent, as ``psf_fwhm_used``; NaN where there is none.

        Raises
        ------
        UserError
            Other bands or another size than it was trained on, a pixel with data that is not finite, or it
            needs what is not given.
        """
        wanted = (len(self.bands), self.size, self.size)
        if images.ndim != 4 or images.shape[1:] != wanted or nodata.shape != images.shape:
            raise UserError(
                f"the detector reads {''.join(self.bands)} images of {self.size} pixels, (n, "
                f"{', '.join(map(str, wanted))}), and was given {images.shape} with nodata "
                f"{nodata.shape}; cut other stamps, or train on these"
            )
        if self.reading.option != "b":
            raise UserError(
                f"the detector was trained on option {self.reading.option} and needs a second look at each "
                "galaxy; train one with option: b to score single images"
            )
        bad = (~np.isfinite(images) & ~nodata).any(axis=(1, 2, 3))
        if bad.any():
            raise UserError(
                f"{int(bad.sum())} of {len(images)} images have a pixel that is not finite, the first is "
                f"number {int(np.flatnonzero(bad)[0])}; mark such pixels as nodata, or leave the images out"
            )
        if self.reading.aux_psf and psf is None:
            raise UserError(
                "the detector was trained with PSF widths beside the images; give them as psf"
            )
        widths = None
        if self.reading.aux_psf and psf is not None and self.aux_scale is not None:
            widths = standardised(psf.astype(np.float32), *(np.array(v) for v in self.aux_scale))
        if target is None:
            target = np.full((len(images), 2), stamp_centre(self.size))
        out = np.empty(len(images))
        for start in range(0, len(images), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            aux = np.zeros((len(out[part]), 0), np.float32) if widths is None else widths[part]
            out[part] = self._logits(images[part], nodata[part], target[part], aux)
        return self.calibrated(out)

    def calibrated(self, logits: Floats) -> Floats:
        """Log odds at even odds, from what the network gives."""
        return self.slope * logits + self.shift

    def _logits(
        self,
        images: NDArray[np.float32],
        nodata: NDArray[np.bool_],
        target: Floats,
        aux: NDArray[np.float32],
    ) -> Floats:
        plain = np.where(nodata, np.float32(0), images)
        mask = self.reading.input_mask
        weight = None if mask is None else mask_weight(mask, self.size, target[:, 0], target[:, 1])
        seen = network_input(plain, nodata, self.reading, weight=weight, scale=self.scale)
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            beside = torch.from_numpy(aux).to(device)
            logit = self.network(torch.from_numpy(seen).to(device), beside)
            return np.asarray(logit.double().cpu().numpy())


def save(detector: Detector, folder: str) -> str:
    """Write a detector's weights and description; gives the digest of the weights."""
    held = io.BytesIO()
    torch.save({k: v.cpu() for k, v in detector.network.state_dict().items()}, held)
    digest = hashlib.sha256(held.getvalue()).hexdigest()
    document = {
        "schema": SCHEMA,
        "network": detector.name,
        "bands": list(detector.bands),
        "size": detector.size,
        "reading": detector.reading.model_dump(mode="json"),
        "scale": detector.scale and detector.scale._asdict(),
        "aux_scale": detector.aux_scale and detector.aux_scale._asdict(),
        "calibration": {"slope": detector.slope, "shift": detector.shift},
        "despite": detector.despite,
        "weights": digest,
    }
    storage.write(storage.join(folder, WEIGHTS), held.getvalue())
    storage.write(storage.join(folder, DESCRIPTION), json.dumps(document, indent=1).encode())
    return digest


def load(folder: str) -> Detector:
    """The detector of a folder that ``dhs train`` wrote, ready to score.

    Raises
    ------
    UserError
        There is none, or its weights are not the ones that its description names.
    """
    document = _description(folder)
    path = storage.join(folder, WEIGHTS)
    tensors = read_tensors(path)
    digest = hashlib.sha256(storage.read(path)).hexdigest()
    if digest != document["weights"]:
        raise UserError(
            f"{path} is not the file that {DESCRIPTION} beside it describes; train again, or put the "
            "right one back"
        )
    bands = tuple(document["bands"])
    # What was trained before there was a dither was shown the comb.
    reading = Reading.model_validate({"dither": False, **document["reading"]})
    network = make_network(
        document["network"], channels(reading, bands), auxiliary(reading, bands), seed=0
    )
    network.load_state_dict(tensors)
    network.eval()
    scale, aux_scale = (
        None if found is None else Scale(tuple(found["mean"]), tuple(found["std"]))
        for found in (document["scale"], document["aux_scale"])
    )
    return Detector(
        network,
        document["network"],
        bands,
        int(document["size"]),
        reading,
        scale,
        aux_scale,
        float(document["calibration"]["slope"]),
        float(document["calibration"]["shift"]),
        str(document["despite"]),
        digest,
    )


def channels(reading: Reading, bands: Sequence[str]) -> int:
    """Channels of an image as a reading gives it."""
    return len(bands) * (2 if reading.option == "a" else 1)


def auxiliary(reading: Reading, bands: Sequence[str]) -> int:
    """Inputs beside an image as a reading gives it."""
    return len(bands) if reading.aux_psf else 0


def _description(folder: str) -> dict[str, Any]:
    path = storage.join(folder, DESCRIPTION)
    try:
        document = json.loads(storage.read(path))
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no trained detector (no {DESCRIPTION}); make one with dhs train"
        ) from None
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("network") not in NETWORKS:
        raise UserError(f"{path} is damaged; train again")
    if document.get("schema") != SCHEMA:
        raise UserError(f"{path} has schema {document.get('schema')}; this version reads {SCHEMA}")
    return document
