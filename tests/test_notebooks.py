"""The notebooks run from top to bottom."""

from __future__ import annotations

import json
import re
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import nbformat
import pytest
from distributed import Client, LocalCluster
from nbclient import NotebookClient

from darkhaloscope.cluster import kubernetes
from darkhaloscope.store.run import RUN_SCHEMA

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ON_KUBERNETES = sorted((ROOT / "notebooks" / "kubernetes").glob("*.ipynb"))
"""Run as they are by tests/cluster."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHS_NOTEBOOK_OUT", str(tmp_path / "run"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    pictures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2


def test_there_is_a_notebook_and_it_is_stored_without_outputs() -> None:
    assert NOTEBOOKS
    assert ON_KUBERNETES
    for path in NOTEBOOKS + ON_KUBERNETES:
        cells = nbformat.read(path, as_version=4).cells
        assert not [cell for cell in cells if cell.get("outputs")]


def test_jupyterlab_in_the_image_has_dasks_panel_and_the_proxy_behind_it() -> None:
    """Both are switched on by what they install; the panel shows what the proxy lets through."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {re.split("[<>=~ ]", one)[0] for one in project["optional-dependencies"]["notebook"]}
    assert {"dask-labextension", "jupyter-server-proxy", "jupyterlab"} <= asked


# --- watching and steering ----------------------------------------------------------------------

DONE = threading.Event()


def inject(brick: str) -> str:
    """A brick that takes until somebody says that it is done."""
    DONE.wait(60)
    return brick


@pytest.fixture
def under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A run with two workers, one of which is at a brick."""
    run = tmp_path / "run"
    run.mkdir()
    of_run = {
        "schema": RUN_SCHEMA, "identity": "0" * 64, "rows": 128, "block": 64, "blocks": 2,
        "kinds": ["PRIMARY"], "version": "0", "document": {},
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(of_run))
    monkeypatch.setenv("DHS_RUN", str(run))
    monkeypatch.setenv("DHS_NAMESPACE", "lenses")
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/jane/")
    DONE.clear()
    with (
        dask.config.set({"distributed.dashboard.link": "set by the notebook for its process"}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, protocol="tcp",
            host="127.0.0.1", dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        (run / "experiment.yaml").write_text(
            "survey: {root: x}\ntargets: {positions: [[1, 2]]}\nlens: {theta_e: 1}\n"
            f"cluster: {{address: '{cluster.scheduler_address}'}}\n"
        )
        slow = client.submit(inject, "0591m305", key="inject-000003-0591m305")
        yield client
        DONE.set()
        assert slow.result() == "0591m305"


def test_a_run_is_watched_and_steered(
    under_way: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = nbformat.read(ROOT / "notebooks/kubernetes/watch_a_run.ipynb", as_version=4)
    attach, look, status, retire, commands, close = (
        cell.source for cell in notebook.cells if cell.cell_type == "code"
    )
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(attach, names)
    assert re.search(r"dashboard: /user/jane/proxy/127.0.0.1:\d+/status\n", capsys.readouterr().out)
    until = time.monotonic() + 30
    while not any(row["now"] for row in names.get("rows", ())) and time.monotonic() < until:
        exec(look, names)
        time.sleep(0.1)
    slow, idle = sorted(names["rows"], key=lambda row: -row["seconds"])
    assert slow["now"] == "inject-000003-0591m305"
    assert slow["seconds"] > 0
    assert (idle["now"], idle["next"], idle["seconds"]) == ("", "", 0)
    exec(status, names)
    assert "0 of 128 rows" in capsys.readouterr().out

    exec(retire, names)
    assert len(under_way.scheduler_info()["workers"]) == 2, "as it is, nothing is changed"
    assert "RETIRE = None" in retire
    exec(retire.replace("RETIRE = None", f"RETIRE = {slow['worker']!r}"), names)
    assert f"retired: [{slow['worker']!r}]" in capsys.readouterr().out
    (left,) = under_way.scheduler_info()["workers"].values()
    assert left["name"] == idle["worker"]

    exec(commands, names)
    said = capsys.readouterr().out
    name = kubernetes.cluster_name(names["run"])
    worker = '{"spec": {"worker": {"replicas": 8}}}'
    assert f"kubectl -n lenses patch daskcluster {name} --type=merge -p '{worker}'\n" in said
    assert (
        'kubectl -n lenses patch job $JOB --type=merge -p \'{"spec": {"suspend": true}}\'' in said
    )
    largest = (
        f"patch daskautoscaler {name} --type=merge -p '{json.dumps({'spec': {'maximum': 8}})}'"
    )
    assert largest in said
    assert f"get daskcluster {name} -o jsonpath='{{.metadata.ownerReferences[0].name}}')" in said
    assert (
        'patch job $JOB --type=merge -p \'{"spec": {"suspend": false}}\''
        in said.split("# go on:")[1]
    )
    exec(close, names)
    assert names["client"].status == "closed"
