"""A real JupyterHub, and what a person does there with a browser."""

from __future__ import annotations

import copy
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import httpx_ws
import kube
import yaml
from setting import ENDPOINT, IMAGE, STORE

HERE = Path(__file__).parent
VALUES = HERE.parents[2] / "helm" / "jupyterhub-values.yaml"
USER = "ada"


def values(namespace: str) -> dict[str, Any]:
    """The shipped values with what a reader changes: image, namespace, sizes; and the test's store."""
    text = VALUES.read_text().replace("lenses", namespace)
    given: dict[str, Any] = copy.deepcopy(yaml.safe_load(text))
    name, tag = IMAGE.rsplit(":", 1)
    own = given["singleuser"]
    own["image"] = {"name": name, "tag": tag}
    own["extraEnv"]["AWS_ENDPOINT_URL"] = ENDPOINT
    own["cpu"], own["memory"] = {"guarantee": 0.05}, {"guarantee": "512M", "limit": "2G"}
    return given


def policy(namespace: str, given: dict[str, Any], hub_port: int) -> dict[str, Any]:
    """What the hub's chart makes of ``singleuser.networkPolicy``; the store stands for the internet."""

    def at(name: str) -> dict[str, Any]:
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}

    def ports(*numbers: int, protocol: str = "TCP") -> list[dict[str, Any]]:
        return [{"protocol": protocol, "port": number} for number in numbers]

    egress = [
        {"to": [at("kube-system")], "ports": [*ports(53), *ports(53, protocol="UDP")]},
        {"ports": ports(hub_port)},
        {"to": [at(STORE)], "ports": ports(8333)},
        *given["singleuser"]["networkPolicy"]["egress"],
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "singleuser", "namespace": namespace},
        "spec": {
            "podSelector": {"matchLabels": {"component": "singleuser-server"}},
            "policyTypes": ["Ingress", "Egress"],
            # Of the proxy, which here runs on the node.
            "ingress": [{"ports": ports(8888)}],
            "egress": egress,
        },
    }


def _ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


class Hub:
    """JupyterHub with its proxy, from PyPI and npm, in an environment of its own."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.namespace = namespace
        self._bin = _environment(folder)
        self._folder = folder
        port, api, proxy = _ports(3)
        self.url = f"http://127.0.0.1:{port}"
        self._values = values(namespace)
        self._policy = policy(namespace, self._values, api)
        self.password = secrets.token_hex(8)
        self._env = os.environ | {
            "PATH": f"{folder}/node_modules/.bin:{self._bin}:{os.environ['PATH']}",
            "HUB_VALUES": json.dumps(self._values),
            "HUB_PORT": str(port),
            "HUB_API_PORT": str(api),
            "HUB_PROXY_PORT": str(proxy),
            "HUB_HOST": os.environ.get("DHS_TEST_HOST") or _node(),
            "HUB_NAMESPACE": namespace,
            "HUB_PASSWORD": self.password,
            "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(16),
        }
        self._env.pop("PYTHONPATH", None)

    def __enter__(self) -> Hub:
        kube.apply(self._policy)
        self._log = (self._folder / "hub.log").open("w")
        command = [self._bin / "jupyterhub", "-f", HERE / "jupyterhub_config.py"]
        self._process = subprocess.Popen(
            command, cwd=self._folder, env=self._env, stdout=self._log, stderr=self._log
        )
        kube.wait_until("the hub answers", self._answers, 120)
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.said()
        try:
            return httpx.get(f"{self.url}/hub/health").status_code == 200
        except httpx.TransportError:
            return False

    def said(self) -> str:
        """The end of its log."""
        return (self._folder / "hub.log").read_text()[-6000:]

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # it ends its proxy
        self._process.wait(60)
        self._log.close()
        kube.kubectl("delete", "networkpolicy", "-n", self.namespace, "singleuser")


def _node() -> str:
    return kube.kubectl(
        "get", "nodes", "-o",
        "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}",
    )  # fmt: skip


def _environment(folder: Path) -> Path:
    """A virtual environment with the hub, and its proxy in ``node_modules``; gives ``bin``."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    made = folder / "venv" / "bin"
    install = ("install", "-q", "--no-compile", "-r", str(HERE / "requirements.txt"))
    kube.call(str(made / "pip"), *install, seconds=600)
    shutil.copy(HERE / "package.json", folder)
    kube.call("npm", "install", "--silent", "--prefix", str(folder), seconds=600)
    return made


class Person:
    """Somebody at a browser: logs in, starts the profile, works, stops."""

    def __init__(self, hub: Hub, name: str = USER) -> None:
        self._hub, self.name = hub, name
        self._web = httpx.Client(base_url=hub.url, follow_redirects=True, timeout=60)
        page = self._web.get("/hub/login")
        form = {"username": name, "password": hub.password, "_xsrf": self._xsrf()}
        page = self._web.post("/hub/login", data=form)
        assert page.status_code == 200, hub.said()
        assert "Dark Halo Scope" in self._web.get("/hub/spawn").text, "the profile is offered"
        asked = {"note": "a test", "expires_in": 3600}
        made = self._web.post(
            f"/hub/api/users/{name}/tokens", json=asked, headers={"X-XSRFToken": self._xsrf()}
        )
        assert made.status_code == 201, made.text
        self._headers = {"Authorization": f"token {made.json()['token']}"}
        self.server = httpx.Client(
            base_url=f"{hub.url}/user/{name}", headers=self._headers, timeout=120,
            follow_redirects=True,
        )  # fmt: skip

    def _xsrf(self) -> str:
        return next(c.value or "" for c in self._web.cookies.jar if c.name == "_xsrf")

    def start(self) -> None:
        """Start the profile, as its form does."""
        form = {"profile": "darkhaloscope", "_xsrf": self._xsrf()}
        page = self._web.post(f"/hub/spawn/{self.name}", data=form)
        assert page.status_code == 200, page.text
        kube.wait_until(f"the server is ready\n{self._hub.said()}", self._is_ready, 180)

    def _is_ready(self) -> bool:
        return bool(self._model()["servers"].get("", {}).get("ready"))

    def _model(self) -> dict[str, Any]:
        url = f"{self._hub.url}/hub/api/users/{self.name}"
        return dict(httpx.get(url, headers=self._headers).json())

    def stop(self) -> None:
        """Stop the server; its pod goes."""
        url = f"{self._hub.url}/hub/api/users/{self.name}/server"
        assert httpx.delete(url, headers=self._headers, timeout=60).status_code in (202, 204)
        kube.wait_until("the server has stopped", lambda: not self._model()["servers"], 90)

    def websocket(self, path: str, *protocols: str) -> AbstractContextManager[Any]:
        """A websocket below the server's address."""
        url = f"{self.server.base_url}{path}".replace("http", "ws", 1)
        return httpx_ws.connect_ws(url, self.server, subprotocols=list(protocols) or None)

    def run_notebook(self, path: str, seconds: float = 240, **env: str) -> str:
        """Open a notebook of the home folder and run its cells in a kernel; gives what they show."""
        found = self.server.get(f"/api/contents/{path}")
        assert found.status_code == 200, found.text
        cells = [c for c in found.json()["content"]["cells"] if c["cell_type"] == "code"]
        where = {"name": "python3", "path": path}
        kernel = self.server.post("/api/kernels", json=where).json()["id"]
        shown = []
        try:
            with self.websocket(f"api/kernels/{kernel}/channels") as socket_:
                first = f"import os; os.environ.update({env!r})"
                for code in [first, *("".join(cell["source"]) for cell in cells)]:
                    shown.append(_execute(socket_, code, seconds))
        finally:
            self.server.delete(f"/api/kernels/{kernel}")
        return "\n".join(shown)


def _execute(connection: Any, code: str, seconds: float) -> str:
    """One cell; its output. An error in it fails the test."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "test",
              "username": "test", "version": "5.3", "date": "2026-01-01T00:00:00Z"}  # fmt: skip
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {},
               "allow_stdin": False, "stop_on_error": True}  # fmt: skip
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
    connection.send_json({**message, "channel": "shell", "buffers": []})
    said = ""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = connection.receive_json(timeout=seconds)
        if got["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        kind, content = got["msg_type"], got["content"]
        assert kind != "error", "\n".join(content["traceback"])
        if kind == "stream":
            said += content["text"]
        elif kind in ("execute_result", "display_data"):
            said += " ".join(content["data"]) + "\n" + content["data"].get("text/plain", "")
        elif kind == "status" and content["execution_state"] == "idle":
            return re.sub(r"\x1b\[[0-9;]*m", "", said)
    raise AssertionError(f"after {seconds} s still running: {code}")
