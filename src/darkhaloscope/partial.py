"""Files on a disk that are not whole yet: written beside their place, and found where writers were killed."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
import time

ENDING = ".partial"
"""Of the name of a file that is being written."""

_WRITER = re.compile(r"~(?P<host>[^/~]+)~(?P<pid>[0-9]+)~[^/~]+\.partial$")
"""Who writes a temporary file, in its name."""

_ABANDONED_S = 3600.0
"""A temporary file that nobody touched for so long has no writer any more."""


def write(target: str, data: bytes) -> str:
    """A finished temporary file beside ``target``; its name ends in :data:`ENDING`."""
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(f"{os.path.dirname(target)} is a file, not a folder") from None
    except FileNotFoundError:  # where folders are made, it would be taken for a missing object
        raise OSError(f"no folder {os.path.dirname(target)} can be made") from None
    handle, name = tempfile.mkstemp(
        dir=os.path.dirname(target),
        prefix=f"{os.path.basename(target)}~{socket.gethostname()}~{os.getpid()}~",
        suffix=ENDING,
    )
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
    except OSError:
        os.unlink(name)
        raise
    # mkstemp makes files that only their owner reads; a data set is as readable as the umask says.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    return name


def left_behind(folder: str) -> list[str]:
    """Temporary files below a folder that nobody writes any more.

    One whose writer may live (a process of this machine that runs, or of another machine, within the
    hour) is not among them.
    """
    left = []
    for place, _, files in os.walk(folder):
        for name in (os.path.join(place, file) for file in files if file.endswith(ENDING)):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - os.path.getmtime(name) > _ABANDONED_S or not _may_live(name):
                    left.append(name)
    return left


def _may_live(name: str) -> bool:
    """Whether the process that writes a temporary file may be running."""
    match = _WRITER.search(name)
    if match is None or match["host"] != socket.gethostname():
        return match is not None
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
