"""The networks against torchvision's names, and detectors as files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from darkhaloscope.detect import Detector, ResNet18, load, make_network
from darkhaloscope.detect.detector import save
from darkhaloscope.errors import UserError
from darkhaloscope.views import Reading


def _torchvision_shapes() -> dict[str, tuple[int, ...]]:
    """The state dict of torchvision's resnet18, written down from its documentation and He et al. table 1."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    before = 64
    for layer, width in ((1, 64), (2, 128), (3, 256), (4, 512)):
        for block in (0, 1):
            at = f"layer{layer}.{block}"
            shapes[f"{at}.conv1.weight"] = (width, before, 3, 3)
            norm(f"{at}.bn1", width)
            shapes[f"{at}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{at}.bn2", width)
            if before != width:
                shapes[f"{at}.downsample.0.weight"] = (width, before, 1, 1)
                norm(f"{at}.downsample.1", width)
            before = width
    shapes["fc.weight"], shapes["fc.bias"] = (1000, 512), (1000,)
    return shapes


def test_resnet18_has_torchvisions_names_shapes_and_size() -> None:
    network = ResNet18(3, outputs=1000)
    found = {name: tuple(v.shape) for name, v in network.state_dict().items()}
    assert found == _torchvision_shapes()
    assert sum(p.numel() for p in network.parameters()) == 11_689_512


def test_weights_come_from_a_local_file_all_but_the_last_layer(tmp_path: Path) -> None:
    given = ResNet18(3, outputs=1000)
    path = tmp_path / "resnet18.pth"
    torch.save(given.state_dict(), path)
    network = make_network("resnet18", 3, 0, seed=1, weights=str(path))
    for name, value in given.state_dict().items():
        if not name.startswith("fc."):
            torch.testing.assert_close(network.state_dict()[name], value, rtol=0, atol=0)
    assert network.fc.weight.shape == (1, 512)


def test_weights_that_do_not_fit_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(ResNet18(3, outputs=1000).state_dict(), path)
    with pytest.raises(UserError, match="three bands"):
        make_network("resnet18", 4, 0, seed=1, weights=str(path))
    with pytest.raises(UserError, match="another network"):
        make_network("small", 3, 0, seed=1, weights=str(path))
    torch.save({"model": Detector}, path)  # a pickle that names code is not run
    with pytest.raises(UserError, match="tensors alone"):
        make_network("resnet18", 3, 0, seed=1, weights=str(path))
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as weights"):
        make_network("resnet18", 3, 0, seed=1, weights=str(path))
    with pytest.raises(UserError, match="there is no file"):
        make_network("resnet18", 3, 0, seed=1, weights=str(tmp_path / "none.pth"))


@pytest.mark.parametrize("name", ["resnet18", "small"])
def test_a_network_is_fixed_by_its_seed_and_takes_any_band_and_aux(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (make_network(name, 4, 2, seed=s) for s in (3, 3, 4))  # type: ignore[arg-type]
    assert torch.equal(before, torch.random.get_rng_state())
    images, aux = torch.ones(5, 4, 32, 32), torch.zeros(5, 2)
    for network in (first, again, other):
        network.eval()
    assert first(images, aux).shape == (5,)
    assert torch.equal(first(images, aux), again(images, aux))
    assert not torch.equal(first(images, aux), other(images, aux))
    with pytest.raises(ValueError, match="auxiliary"):
        first(images)


def _detector(**changes: object) -> Detector:
    network = make_network("small", 3, 0, seed=2)
    network.eval()
    values: dict[str, object] = {
        "network": network, "name": "small", "bands": ("g", "r", "z"), "size": 32,
        "reading": Reading(), "slope": 2.0, "shift": -1.0,
    }  # fmt: skip
    return Detector(**(values | changes))  # type: ignore[arg-type]


def test_a_detector_read_back_scores_the_same_and_does_not_see_empty_pixels(tmp_path: Path) -> None:
    detector = _detector()
    digest = save(detector, str(tmp_path))
    again = load(str(tmp_path))
    assert again.digest == digest
    assert (again.bands, again.size, again.slope) == (("g", "r", "z"), 32, 2.0)
    images = np.random.default_rng(0).normal(size=(7, 3, 32, 32)).astype(np.float32)
    nodata = np.zeros(images.shape, dtype=bool)
    nodata[2, :, :10] = True
    first = detector.score(images, nodata)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, again.score(images, nodata))
    images[nodata] = np.nan
    np.testing.assert_array_equal(first, again.score(images, nodata))


def test_a_detector_of_before_there_was_a_dither_is_read_without(tmp_path: Path) -> None:
    save(_detector(), str(tmp_path))
    path = tmp_path / "detector.json"
    document = json.loads(path.read_text())
    assert document["reading"].pop("dither")
    assert load(str(tmp_path)).reading.dither
    path.write_text(json.dumps(document))
    assert not load(str(tmp_path)).reading.dither


def test_images_that_it_cannot_read_are_refused(tmp_path: Path) -> None:
    detector = _detector()
    images = np.zeros((2, 3, 32, 32), dtype=np.float32)
    nodata = np.zeros(images.shape, dtype=bool)
    with pytest.raises(UserError, match="grz images of 32 pixels"):
        detector.score(images[:, :2], nodata[:, :2])
    images[1, 0, 3, 3] = np.nan
    with pytest.raises(UserError, match="1 of 2 images have a pixel that is not finite"):
        detector.score(images, nodata)
    with pytest.raises(UserError, match="no trained detector"):
        load(str(tmp_path))
    save(detector, str(tmp_path))
    save(_detector(network=make_network("small", 3, 0, seed=9)), str(tmp_path / "other"))
    (tmp_path / "model.pt").write_bytes((tmp_path / "other" / "model.pt").read_bytes())
    with pytest.raises(UserError, match="is not the file"):
        load(str(tmp_path))


def test_nothing_but_the_detectors_needs_torch() -> None:
    """Every other module is imported where there is no torch."""
    code = (
        "import importlib, pkgutil, sys\n"
        "class Nobody:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Nobody())\n"
        "import darkhaloscope\n"
        "count = 0\n"
        "lost = []\n"
        "for found in pkgutil.walk_packages(darkhaloscope.__path__, 'darkhaloscope.', lost.append):\n"
        "    parts = found.name.split('.')\n"
        "    if parts[1] != 'detect' and parts[-1] != '__main__':\n"
        "        importlib.import_module(found.name)\n"
        "        count += 1\n"
        "assert lost == ['darkhaloscope.detect'], lost\n"
        "print(count)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


def test_without_torch_the_room_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from darkhaloscope.errors import UserError\n"
        "try:\n    import darkhaloscope.detect\n"
        "except UserError as error:\n    assert 'darkhaloscope[detect]' in str(error)\n"
        "else:\n    raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
