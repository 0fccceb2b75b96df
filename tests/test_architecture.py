"""Walls: a room imports only rooms above it, and the integrator shares nothing with the renderer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "darkhaloscope"

ROOMS = (
    "compiled", "logs", "tls", "errors", "draw", "variables", "partial", "signed", "trouble", "storage",
    "progress",
    "config", "geometry", "lensing", "mapping", "survey", "plan", "fix", "selftest", "inject", "store",
    "views", "audit", "trial", "prepare", "workflow", "driver", "status", "metrics", "cluster", "report",
    "study", "completeness", "detect", "commands", "cli",
)  # fmt: skip

STRANGERS = {
    # (room, what it must not import)
    ("audit", "store"),
    ("audit", "inject"),
    ("audit", "lensing"),
    ("audit", "plan"),
    ("lensing", "config"),
    ("lensing", "storage"),
    ("survey", "config"),
}


def _imports(path: Path) -> set[str]:
    """Rooms that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "darkhaloscope" and len(parts) > 1 and parts[1] in ROOMS:
                found.add(parts[1])
    return found


def _files() -> list[tuple[str, Path]]:
    files = []
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        room = relative.parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            files.append((room, path))
    return files


def test_every_file_is_in_a_room() -> None:
    assert {room for room, _ in _files()} == set(ROOMS)


@pytest.mark.parametrize(("room", "path"), _files(), ids=lambda v: getattr(v, "name", v))
def test_a_room_imports_only_rooms_above(room: str, path: Path) -> None:
    below = {other for other in _imports(path) if ROOMS.index(other) > ROOMS.index(room)}
    assert not below, f"{path.name} in {room} imports {below}"
    strangers = {other for other in _imports(path) if (room, other) in STRANGERS}
    assert not strangers, f"{path.name} in {room} must not know {strangers}"


def test_the_reference_integrator_imports_nothing_of_ours() -> None:
    parts = sorted((SOURCE / "audit").glob("reference*.py"))
    assert len(parts) > 1
    for path in parts:
        assert _imports(path) <= {"compiled", "errors", "audit"}
        assert all(name.startswith("reference") for name in _audit_imports(path))


def _audit_imports(path: Path) -> set[str]:
    """Files of the audit that a file imports."""
    nodes = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
    ]
    modules = [(node.module or "").split(".") for node in nodes]
    return {
        parts[2] if len(parts) > 2 else ""
        for parts in modules
        if parts[:2] == ["darkhaloscope", "audit"]
    }
