"""Watching: a notebook that a real JupyterHub starts with the shipped values, metrics, logs, pictures."""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import kube
import pytest
from hub import Hub, Person
from prometheus_client.parser import text_string_to_metric_families
from setting import SLOWLY, STORE, Local

from darkhaloscope.cluster.kubernetes import cluster_name

pytestmark = pytest.mark.cluster

RELEASE, RUN = "watched", "s3://dhs/watched"
PICTURES = os.environ.get("DHS_TEST_PICTURES")
"""Where pictures of the dashboard stay: docs/images for those of the documentation."""


@pytest.fixture(scope="module")
def release(values: dict[str, Any], runs: str) -> Iterator[str]:
    """A run that lasts until it is taken away, with one worker or two as there is to do."""
    given = copy.deepcopy(values)
    given["run"]["out"] = RUN
    given["experiment"]["inline"]["plan"]["repeats"] = 400
    given["worker"]["resources"]["limits"]["cpu"] = SLOWLY
    given["worker"]["adaptive"] = {"enabled": True, "minimum": 1, "maximum": 2}
    given["networkPolicy"] = {"monitoringNamespace": STORE}
    given["metrics"] = {"annotations": True}
    given["logs"] = "json"
    kube.install(RELEASE, runs, given)
    done = functools.partial(kube.blocks_done, "watched")
    kube.wait_until("a block is whole", done, 300)
    yield RELEASE
    kube.uninstall(RELEASE, runs)


@pytest.fixture(scope="module")
def person(runs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    if shutil.which("npm") is None:
        pytest.skip("npm, which JupyterHub's proxy is from, is not installed")
    with Hub(tmp_path_factory.mktemp("hub"), runs) as hub:
        somebody = Person(hub)
        somebody.start()
        yield somebody
        somebody.stop()
        assert not kube.items("pods", runs, "component=singleuser-server")
        kube.kubectl("delete", "pvc", "-n", runs, "claim-" + somebody.name)


def test_a_run_with_enough_to_do_gets_more_workers(release: str, runs: str) -> None:
    kube.wait_until(
        "a second worker", lambda: len(kube.dask_pods(release, runs, "worker")) == 2, 180
    )


def test_the_notebook_that_watches_a_run(person: Person, release: str, runs: str) -> None:
    shown = person.run_notebook("notebooks/kubernetes/watch_a_run.ipynb", DHS_RUN=RUN)
    assert "inject-" in shown or "write-" in shown
    assert re.search(r"[1-9][0-9]* of [0-9]+ rows", shown), shown


def _dashboard(runs: str) -> str:
    return f"{cluster_name(RUN)}-scheduler.{runs}.svc:8787"


def test_the_dashboard_through_the_hubs_proxy(person: Person, release: str, runs: str) -> None:
    """The page, and the websocket without which it stays as it came."""
    path = f"proxy/{_dashboard(runs)}/status"
    page = person.server.get(path)
    assert page.status_code == 200, page.text
    assert "Dask" in page.text
    (token,) = re.findall(r'"token":"([^"]+)"', page.text)
    with person.websocket(f"{path}/ws", "bokeh", token) as connection:
        assert connection.receive_json(timeout=30)["msgtype"] == "ACK"
    assert person.server.get("/proxy/s3.dhs-store:8333/").status_code == 403


def test_jupyterlab_has_dasks_panel(person: Person, release: str, runs: str) -> None:
    """What a browser loads of it is there; what it asks the server about a dashboard is answered."""
    page = person.server.get("/lab").text
    configured = re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert configured is not None, page
    loaded = {one["name"]: one["load"] for one in json.loads(configured[1])["federated_extensions"]}
    script = person.server.get(f"/lab/extensions/dask-labextension/{loaded['dask-labextension']}")
    assert script.status_code == 200
    assert person.server.get("/dask/clusters").json() == []
    dashboard = urllib.parse.quote(f"http://{_dashboard(runs)}/", safe="")
    seen = person.server.get(f"/dask/dashboard-check/{dashboard}").json()
    assert seen["isActive"]
    assert "Individual Task Stream" in seen["plots"]


def test_the_notebooks_of_a_finished_run(person: Person, local: Local) -> None:
    for name, pictures in (("explore_a_run", 2), ("audit_a_foreign_set", 0)):
        shown = person.run_notebook(f"notebooks/kubernetes/{name}.ipynb", DHS_RUN="s3://dhs/local")
        assert shown.count("image/png") == pictures
        assert "closure_flux" in shown  # the gates


SCRAPE = """
import socket, urllib.request
for port in (8787, 8791, 8786):
    try:
        if port == 8786:
            socket.create_connection((HOST[port], port), timeout=3)
        else:
            page = urllib.request.urlopen(f"http://{HOST[port]}:{port}/metrics", timeout=10)
            print(page.read().decode())
    except OSError as error:
        print("#", port, error)
"""


def test_monitoring_reads_metrics_and_nothing_else(release: str, runs: str) -> None:
    driver = kube.drivers(release, runs)[-1]
    scheduler = kube.dask_pods(release, runs, "scheduler")[0]["status"]["podIP"]
    hosts = {8786: scheduler, 8787: scheduler, 8791: driver["status"]["podIP"]}
    notes = driver["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == "8791"
    monitor = ("exec", "-i", "-n", STORE, "s3", "--", "/opt/venv/bin/python", "-")

    def scraped() -> dict[str, float] | None:
        page = kube.kubectl(*monitor, given=f"HOST = {hosts!r}\n{SCRAPE}")
        assert "# 8786 timed out" in page
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(page.split("# 8786")[0]):
            found |= {s.name + "".join(s.labels.values()): s.value for s in family.samples}
        return found if found.get("darkhaloscope_rows_totalok", 0) > 0 else None

    found = kube.wait_until("the driver tells of a block", scraped)
    assert found is not None
    assert found["darkhaloscope_bytes_total"] > 0
    assert found["darkhaloscope_rows_per_second"] > 0
    assert found["darkhaloscope_workers"] in (1, 2)
    assert any(name.startswith("dask_scheduler_") for name in found)


def test_logs_say_run_block_and_brick(release: str, runs: str) -> None:
    def said(pod: dict[str, Any]) -> list[dict[str, Any]]:
        lines = kube.kubectl("logs", "-n", runs, pod["metadata"]["name"]).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    blocks = [one for one in said(kube.drivers(release, runs)[-1]) if "block" in one]
    assert blocks
    assert {one["run"] for one in blocks} == {RUN}
    workers = kube.dask_pods(release, runs, "worker")
    bricks = [one for worker in workers for one in said(worker) if "brick" in one]
    assert {one["run"] for one in bricks} == {RUN}
    assert all(re.fullmatch(r"[0-9]{4}[pm][0-9]{3}", one["brick"]) for one in bricks)
    environments = [worker["spec"]["containers"][0]["env"] for worker in workers]
    names = {e["value"] for env in environments for e in env if e["name"] == "DASK_WORKER_NAME"}
    assert {one["worker"] for one in bricks} <= names


def test_a_picture_of_the_dashboard(release: str, runs: str, tmp_path: Path) -> None:
    """As a person sees it by the port-forward of the chart's notes."""
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    service = f"service/{cluster_name(RUN)}-scheduler"
    forward = subprocess.Popen(
        ["kubectl", "-n", runs, "port-forward", service, ":8787"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert forward.stdout is not None
        (port,) = re.findall(r"127.0.0.1:(\d+) ->", forward.stdout.readline())
        with browser.chromium(tmp_path / "chromium") as tools:
            taken = browser.picture(tools, f"http://127.0.0.1:{port}/status", least=0.1)
        (Path(PICTURES or tmp_path) / "dashboard.png").write_bytes(taken)
    finally:
        forward.terminate()


def test_the_driver_of_an_adaptive_run_is_followed_by_another(release: str, runs: str) -> None:
    """Which adopts the cluster, and its autoscaler."""
    before = {pod["metadata"]["name"] for pod in kube.drivers(release, runs)}
    (cluster,) = kube.items("daskclusters", runs, f"darkhaloscope.io/release={release}")
    driver = kube.drivers(release, runs)[-1]["metadata"]["name"]
    kube.kubectl("delete", "pod", "-n", runs, driver, "--grace-period=1")

    def another_works() -> bool:
        new = [p for p in kube.drivers(release, runs) if p["metadata"]["name"] not in before]
        log = ("logs", "-n", runs)
        return any('"block"' in kube.kubectl(*log, p["metadata"]["name"]) for p in new if _runs(p))

    kube.wait_until("another driver tells of a block", another_works, 150)
    (after,) = kube.items("daskclusters", runs, f"darkhaloscope.io/release={release}")
    assert after["metadata"]["uid"] == cluster["metadata"]["uid"]


def _runs(pod: dict[str, Any]) -> bool:
    return bool(pod["status"]["phase"] == "Running")
