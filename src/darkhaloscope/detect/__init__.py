"""Networks on a data set: what a classifier makes of it, and of each fix of it. Needs torch.

networks    ResNet-18 by torchvision's names, and a small one
detector    a trained network with its own way to read images: arrays to log odds
"""

from __future__ import annotations

from darkhaloscope.errors import UserError

try:
    import torch as _torch  # noqa: F401 (the whole room needs it: said once, here)
except ModuleNotFoundError:
    raise UserError(
        "detectors need torch, which is not installed; pip install 'darkhaloscope[detect]'"
    ) from None

from darkhaloscope.detect.detector import Detector, load
from darkhaloscope.detect.networks import NETWORKS, ResNet18, SmallNet, make_network

__all__ = ["NETWORKS", "Detector", "ResNet18", "SmallNet", "load", "make_network"]
