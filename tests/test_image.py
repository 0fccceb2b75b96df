"""The image's files say what the rest of the project says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

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
