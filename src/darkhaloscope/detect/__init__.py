"""Networks on a data set: what a classifier makes of it, and of each fix of it. Needs torch.

config        the detector's file
networks      ResNet-18 by torchvision's names, and a small one
order, chunks, loader   batches of a run, straight from its shards
training      epochs, early stopping on val, checkpoints that resume exactly
calibration   scores that mean what they say
detector      a trained network with its own way to read images: arrays to log odds
scores        every image of a run to one Parquet file
areas         areas under the ROC curve of images in regions
evaluation    areas, rates at thresholds that val set, calibration; by what and where
localisation  where a network looks, against where the arcs are
splits        what the splits share that they must not
gates         what a detector must show, and the verdict
assess        all of that, with each look at test written down
folder        a detector's folder
figures       pictures
ablation      networks on the arms of a study, compared
lenses        published lenses and galaxies like theirs: read, scored (recall, lenses_page)
"""

from __future__ import annotations

from darkhaloscope.errors import UserError

try:
    import torch as _torch  # noqa: F401 (the whole room needs it: said once, here)
except ModuleNotFoundError:
    raise UserError(
        "detectors need torch, which is not installed; pip install 'darkhaloscope[detect]'"
    ) from None

from darkhaloscope.detect import folder
from darkhaloscope.detect.assess import Assessment, assess, summary, to_bytes
from darkhaloscope.detect.config import DetectorConfig, load_config, parse_config
from darkhaloscope.detect.detector import Detector, load
from darkhaloscope.detect.loader import Batch, Loader
from darkhaloscope.detect.networks import NETWORKS, ResNet18, SmallNet, make_network
from darkhaloscope.detect.scores import identity_of, score_run, write_scores
from darkhaloscope.detect.training import BESIDE, train

__all__ = [
    "BESIDE",
    "NETWORKS",
    "Assessment",
    "Batch",
    "Detector",
    "DetectorConfig",
    "Loader",
    "ResNet18",
    "SmallNet",
    "assess",
    "folder",
    "identity_of",
    "load",
    "load_config",
    "make_network",
    "parse_config",
    "score_run",
    "summary",
    "to_bytes",
    "train",
    "write_scores",
]
