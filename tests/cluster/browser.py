"""Pictures of a page that draws itself: Chromium without a window, over its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx_ws
import kube
import numpy as np
from PIL import Image

SIZE = (1300, 850)


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[str]:
    """A browser with a profile of its own; gives the address of its DevTools."""
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={folder}", "--remote-debugging-port=0", "--remote-allow-origins=*",
        f"--window-size={SIZE[0]},{SIZE[1]}", "about:blank",
    ]  # fmt: skip
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = folder / "DevToolsActivePort"
        kube.wait_until("the browser listens", port.exists)
        yield f"http://127.0.0.1:{port.read_text().split()[0]}"
    finally:
        browser.terminate()
        browser.wait(30)


def painted(picture: bytes) -> float:
    """Share of a picture that is neither grey nor nearly so: bars and blocks, not text."""
    with Image.open(io.BytesIO(picture)) as image:
        saturation = np.asarray(image.convert("HSV"))[..., 1]
    return float((saturation > 64).mean())


def picture(tools: str, url: str, *, least: float, seconds: float = 90) -> bytes:
    """A page as PNG once at least this share of it is painted."""
    page = httpx.put(f"{tools}/json/new?{url}", timeout=30).json()
    end = time.monotonic() + seconds
    with httpx_ws.connect_ws(
        page["webSocketDebuggerUrl"], max_message_size_bytes=2**26, timeout=60
    ) as connection:
        for number in itertools.count(1):
            time.sleep(3)
            command: dict[str, Any] = {"id": number, "method": "Page.captureScreenshot"}
            connection.send_json(command)
            while (answer := connection.receive_json(timeout=60)).get("id") != number:
                pass
            taken = base64.b64decode(answer["result"]["data"])
            if painted(taken) >= least:
                return taken
            assert time.monotonic() < end, (
                f"{url} stays empty: {painted(taken):.3f} of it is painted"
            )
    raise AssertionError
