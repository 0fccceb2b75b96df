"""The image's files say what the rest of the project says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_the_lock_holds_what_the_project_asks_for() -> None:
    """After a change of dependencies: ``make lock``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["kubernetes"], *extras["notebook"]]
    lock = (ROOT / "requirements" / "image.txt").read_text()
    locked = dict(re.findall(r"^([a-zA-Z0-9_.-]+)==([^ ]+) \\$", lock, re.MULTILINE))
    for requirement in map(Requirement, asked):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version} is locked"
    assert lock.count("--hash=sha256:") > len(locked)


def test_image_and_makefile_have_one_cpu_baseline() -> None:
    makefile = (ROOT / "Makefile").read_text()
    wanted = dict(re.findall(r"^export (N[A-Z_]+) := ?(.*)$", makefile, re.MULTILINE))
    dockerfile = (ROOT / "Dockerfile").read_text()
    given = {name: re.search(rf'{name}="?([^"\\\n]*)"?', dockerfile) for name in wanted}
    assert len(wanted) == 3
    assert {name: found and found[1].strip() for name, found in given.items()} == wanted


def test_the_image_runs_as_a_user_and_installs_what_is_locked() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    last = dockerfile.rsplit("\nFROM ", 1)[1]
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE) == ["1000:100"]
    installed = [line for line in re.findall(r"pip .*", dockerfile) if " install " in line]
    for line in installed:
        assert "--require-hashes" in line or "--no-deps" in line, line
    assert len(installed) == 3


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("localhost", True),
        ("dhs-0123456789ab-scheduler", True),
        ("dhs-0123456789ab-scheduler.lenses.svc.cluster.local", True),
        ("dhs-0123456789ab-scheduler.evil.example.com", False),
        ("dhs-0123456789ab-scheduler.com", False),
        ("dhs-0123456789ab-scheduler.lenses.svc.cluster.local.evil.com", False),
        ("DHS-0123456789ab-scheduler", False),
        ("example.com", False),
    ],
)
def test_a_notebook_proxies_schedulers_of_this_cluster_alone(host: str, shown: bool) -> None:
    config = SimpleNamespace(ServerProxy=SimpleNamespace())
    exec((ROOT / "docker" / "jupyter_server_config.py").read_text(), {"c": config})
    assert config.ServerProxy.host_allowlist(None, host) is shown
