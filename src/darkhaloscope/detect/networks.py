"""The networks: a ResNet-18 with torchvision's names, and a small one for a laptop.

Both take images (n, channel, y, x) and, where a reading has them, auxiliary inputs (n, a), which join the
embedding before the last layer. Both give log odds (n,), not yet calibrated, that an image holds an arc.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from darkhaloscope import storage
from darkhaloscope.errors import UserError

NetworkName = Literal["resnet18", "small"]


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385, fig. 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (n, outputs, y / stride, x / stride)."""
        around = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + around)


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016, table 1), layer by layer as torchvision names it.

    With three channels and 1,000 outputs it has torchvision's 11,689,512 parameters.

    Parameters
    ----------
    channels : int
    aux : int
        Auxiliary inputs of an image.
    outputs : int
        1 for log odds; 1,000 for ImageNet's classes.
    """

    width = 512

    def __init__(self, channels: int, aux: int = 0, outputs: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_Block(64, 64, 1), _Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128, 1))
        self.layer3 = nn.Sequential(_Block(128, 256, 2), _Block(256, 256, 1))
        self.layer4 = nn.Sequential(_Block(256, 512, 2), _Block(512, 512, 1))
        self.fc = nn.Linear(self.width + aux, outputs)
        _initialise(self)

    def embed(self, images: Tensor) -> Tensor:
        """What the last layer sees of images, (n, 512)."""
        x = torch.relu(self.bn1(self.conv1(images)))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))

    def forward(self, images: Tensor, aux: Tensor | None = None) -> Tensor:
        """Log odds (n,)."""
        return self.decide(self.embed(images), aux)

    def decide(self, embedding: Tensor, aux: Tensor | None = None) -> Tensor:
        """Log odds (n,) of embeddings."""
        return _decide(self.fc, embedding, aux)


class SmallNet(nn.Module):
    """Four 3x3 convolutions and mean and maximum over the image: seconds an epoch on one core.

    Parameters as :class:`ResNet18`; 61 thousand weights with three channels.
    """

    width = 128

    def __init__(self, channels: int, aux: int = 0, outputs: int = 1) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64, 64)
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [
                nn.Conv2d(before, after, 3, 1 if k == 0 else 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(self.width + aux, outputs)
        _initialise(self)

    def embed(self, images: Tensor) -> Tensor:
        """What the last layer sees of images, (n, 128)."""
        x = self.features(images)
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)

    def forward(self, images: Tensor, aux: Tensor | None = None) -> Tensor:
        """Log odds (n,)."""
        return self.decide(self.embed(images), aux)

    def decide(self, embedding: Tensor, aux: Tensor | None = None) -> Tensor:
        """Log odds (n,) of embeddings."""
        return _decide(self.fc, embedding, aux)


Network = ResNet18 | SmallNet

NETWORKS: Mapping[str, type[ResNet18] | type[SmallNet]] = {"resnet18": ResNet18, "small": SmallNet}


def make_network(
    name: NetworkName, channels: int, aux: int, seed: int, weights: str | None = None
) -> Network:
    """A network with weights fixed by ``seed``, or, but for its last layer, read from a file.

    Parameters
    ----------
    name : {"resnet18", "small"}
    channels, aux : int
        Of an image.
    seed : int
        Of the initial weights. torch's global generator is left as it was.
    weights : str, optional
        A state dict as torch saves it (torchvision's file of ResNet-18 is one). Its ``fc`` is left out,
        since it has other classes.

    Raises
    ------
    UserError
        The file is not there, holds more than tensors, or has other names or shapes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[name](channels, aux)
    if weights is not None:
        _take(network, read_tensors(weights), weights)
    return network


def read_saved(path: str, otherwise: str, device: torch.device | str = "cpu") -> Any:
    """What torch saved in a file or URL: tensors and plain values alone, nothing in it is run.

    Parameters
    ----------
    otherwise : str
        What to do, or what it should be, where it cannot be read: the end of the sentence.
    device : torch.device or str
        Where tensors go.

    Raises
    ------
    FileNotFoundError
        There is none.
    UserError
        It is damaged, or holds something else.
    """
    data = storage.read(path)
    try:
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # noqa: BLE001 (a damaged archive shows itself in many ways)
        raise UserError(
            f"{path} cannot be read as weights ({type(error).__name__}); {otherwise}"
        ) from None


def read_tensors(path: str) -> dict[str, Tensor]:
    """A state dict from a file or URL; nothing in it is run.

    Raises
    ------
    UserError
        There is no file, or it holds something else than tensors by name.
    """
    try:
        found = read_saved(
            path,
            "it must hold a state dict of tensors alone, as torch.save(model.state_dict(), …) writes it",
        )
    except FileNotFoundError:
        raise UserError(f"there is no file of weights {path}; check the path") from None
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(
            f"{path} holds no state dict of tensors; save it with torch.save(model.state_dict(), …)"
        )
    return found


def _take(network: Network, given: Mapping[str, Tensor], path: str) -> None:
    own = network.state_dict()
    wanted = [name for name in own if not name.startswith("fc.")]
    # Files of before torch 0.4.1 lack the counters of the batch norms; they decide nothing here.
    missing = [n for n in wanted if n not in given and not n.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{path} has no {missing[0]}: it holds the weights of another network than "
            f"{type(network).__name__}"
        )
    for name in wanted:
        if name in given and given[name].shape != own[name].shape:
            raise UserError(
                f"{path}: {name} is {tuple(given[name].shape)}, and this data set needs "
                f"{tuple(own[name].shape)}; weights of a network of three channels fit three bands"
            )
    network.load_state_dict({n: given[n] for n in wanted if n in given}, strict=False)


def _decide(last: nn.Linear, embedding: Tensor, aux: Tensor | None) -> Tensor:
    if last.in_features > embedding.shape[1]:
        if aux is None:
            raise ValueError("the network has auxiliary inputs, and none are given")
        embedding = torch.cat([embedding, aux], dim=1)
    return last(embedding)[:, 0]


def _initialise(network: nn.Module) -> None:
    """As torchvision: He et al. 2015 (arXiv:1502.01852) by what goes out, batch norms at identity."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
