"""The image's files say what the rest of the project says."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from darkhaloscope.cluster import _MALLOC
from darkhaloscope.config.physics import SHAPE_KEYS, PsfSection

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


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """The instructions of the image's last stage, in order, each with what it is told."""
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    last = dockerfile.rsplit("\nFROM ", 1)[1]
    return re.findall(r"^([A-Z]+) +(.*)$", last, re.MULTILINE)


def test_image_and_makefile_have_one_cpu_baseline(steps: list[tuple[str, str]]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    wanted = dict(re.findall(r"^export (N[A-Z_]+) := ?(.*)$", makefile, re.MULTILINE))
    given = _environment(steps)
    assert len(wanted) == 3
    assert {name: given.get(name) for name in wanted} == wanted


def test_processes_of_the_image_are_told_what_local_workers_are(
    steps: list[tuple[str, str]],
) -> None:
    """Memory and threads of a worker; and where they may write, on a root that is read-only."""
    given = _environment(steps)
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    wanted = {**_MALLOC, **dict.fromkeys(threads, "1"), "PYTHONDONTWRITEBYTECODE": "1"}
    assert {name: given.get(name) for name in wanted} == wanted
    assert given["MPLCONFIGDIR"].startswith("/tmp/")


def _environment(steps: list[tuple[str, str]]) -> dict[str, str]:
    told = [word for name, said in steps if name == "ENV" for word in shlex.split(said)]
    return dict(word.split("=", 1) for word in told)


def test_the_image_runs_as_a_user_and_installs_what_is_locked(
    steps: list[tuple[str, str]],
) -> None:
    assert [said for name, said in steps if name == "USER"] == ["1000:100"]
    assert any("useradd --uid 1000 --gid 100 " in said for _, said in steps)
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installed = [line for line in re.findall(r"pip .*", dockerfile) if " install " in line]
    for line in installed:
        assert "--require-hashes" in line or "--no-deps" in line, line
    assert len(installed) == 3


def test_the_last_stage_is_the_base_and_what_was_made_before(steps: list[tuple[str, str]]) -> None:
    """No compiler, no package manager's doing: of the stage that builds the package, the package alone."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^ARG BASE=(.*)$", dockerfile, re.MULTILINE) == ["python:3.13-slim-trixie"]
    assert re.findall(r"^FROM +(.*)$", dockerfile, re.MULTILINE)[-1] == "${BASE}"
    copied = [said for name, said in steps if name == "COPY" and "--from" in said]
    assert copied == [
        "--from=dependencies /opt/venv /opt/venv",
        "--from=package /package /opt/venv",
    ]
    done = [said for name, said in steps if name in ("RUN", "ADD")]
    programs = {one.split()[0] for said in done for one in re.split(r"&&|;|\|", said)}
    assert programs == {"useradd", "NUMBA_CACHE_DIR=/opt/numba-cache", "rm"}


def test_the_cache_is_filled_for_the_baseline_where_the_entrypoint_looks(
    steps: list[tuple[str, str]],
) -> None:
    """What is compiled for other instructions, or of another package, is compiled again in every pod."""
    (warmed,) = (i for i, (name, said) in enumerate(steps) if "python /opt/warm.py" in said)
    (folder,) = re.findall(r"NUMBA_CACHE_DIR=(\S+) python /opt/warm\.py", steps[warmed][1])
    assert f"cp -R {folder} " in ENTRYPOINT.read_text()
    assert {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"} <= _environment(steps[:warmed]).keys()
    copies = [i for i, (name, said) in enumerate(steps) if name == "COPY" and "--from" in said]
    assert max(copies) < warmed
    assert ("ENTRYPOINT", '["/usr/local/bin/entrypoint"]') in steps
    assert ("COPY", "docker/entrypoint /usr/local/bin/entrypoint") in steps


def test_the_package_is_as_old_for_numba_and_python_as_its_layer_says() -> None:
    """Layers keep whole seconds, numba's cache compares all of the time, and pods write no bytecode."""
    made = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").rsplit("\nFROM ", 1)[0]
    *_, installed, dated, compiled = made.rsplit("\nRUN ", 1)[1].split("&&")
    assert "--prefix /package" in installed
    assert re.match(r" find /package -exec touch -d \S+Z \{\} \+ ", dated)
    assert "compileall -q -f --invalidation-mode unchecked-hash /package" in compiled


def test_every_kind_of_source_and_psf_is_compiled_before() -> None:
    kinds = runpy.run_path(str(ROOT / "docker" / "warm.py"))["KINDS"]
    assert {kind.get("source", {}).get("model", "sersic") for kind in kinds} == SHAPE_KEYS.keys()
    psfs = {kind["psf.model"] for kind in kinds if "psf.model" in kind}
    assert psfs == set(get_args(PsfSection.model_fields["model"].annotation))


def test_what_others_look_for_lies_where_they_look(steps: list[tuple[str, str]]) -> None:
    hub = yaml.safe_load((ROOT / "helm" / "jupyterhub-values.yaml").read_text())["singleuser"]
    *_, copied = hub["lifecycleHooks"]["postStart"]["exec"]["command"]
    assert f"cp -r --update=none /opt/notebooks {hub['storage']['homeMountPath']}/" == copied
    assert ("COPY", "notebooks/ /opt/notebooks/") in steps
    assert ("COPY", "docker/jupyter_server_config.py /opt/venv/etc/jupyter/") in steps


ENTRYPOINT = ROOT / "docker" / "entrypoint"


@pytest.fixture
def enter(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The entrypoint with its folders below ``tmp_path``, as a pod has it: ``cache``, and ``tmp``."""
    script = ENTRYPOINT.read_text()
    for folder in ("/opt/numba-cache", "/tmp/"):
        assert folder in script
    script = script.replace("/opt/numba-cache", f"{tmp_path}/cache")
    script = script.replace("=/tmp/", f"={tmp_path}/tmp/")
    script += "\necho between the kubelet and the command, which gets no SIGTERM"  # after exec
    (tmp_path / "cache" / "a").mkdir(parents=True)
    (tmp_path / "cache" / "a" / "x.nbc").write_text("compiled")

    def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], **environment}
        return subprocess.run(
            ["sh", "-c", script, "entrypoint", *command],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


SEE = ("sh", "-c", "cat $NUMBA_CACHE_DIR/a/x.nbc; exit 3")


def test_the_entrypoint_copies_the_cache_once_and_is_the_command(
    enter: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    for _ in range(2):
        done = enter(*SEE)
        assert (done.returncode, done.stdout, done.stderr) == (3, "compiled", "")
    made = {str(path.relative_to(tmp_path / "tmp")) for path in (tmp_path / "tmp").rglob("*")}
    assert made == {"numba-cache", "numba-cache/a", "numba-cache/a/x.nbc"}
    given = enter("sh", "-c", "echo $NUMBA_CACHE_DIR", NUMBA_CACHE_DIR="/mine")
    assert given.stdout == "/mine\n"


def test_a_cache_that_cannot_be_copied_is_tried_again(
    enter: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Exit code 1 is a verdict, after which a Job is not tried again."""
    done = enter(*SEE)  # there is no folder tmp, as on a read-only root without a volume
    assert (done.returncode, done.stdout) == (70, "")
    assert done.stderr.startswith("dhs: numba's cache cannot be copied: ")
    assert len(done.stderr.splitlines()) == 1
    full = tmp_path / "bin" / "cp"
    full.parent.mkdir()
    full.write_text("#!/bin/sh\nmkdir $3\nfor i in 1 2; do echo cp: no space >&2; done\nexit 1\n")
    full.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    done = enter(*SEE, PATH=f"{full.parent}:{os.environ['PATH']}")
    assert done.returncode == 70
    assert done.stderr.count("cp: no space") == 1
    assert enter(*SEE).stdout == "compiled", "half a cache was taken for a whole one"
    assert not list((tmp_path / "tmp").glob("*.part"))


def test_the_operator_of_the_docs_is_the_one_that_is_tested() -> None:
    (tested,) = re.findall(
        r"dask-kubernetes==(\S+)", (ROOT / "tests" / "cluster" / "Dockerfile").read_text()
    )
    docs = (ROOT / "docs" / "kubernetes.md").read_text()
    assert f"helm install dask-operator dask-kubernetes-operator --version {tested} " in docs
    assert f"Version {tested} is the one that we test with" in docs


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
