"""The application, its streams, and the options that many commands share."""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any, TextIO, cast

import typer
import yaml
from rich.console import Console

from darkhaloscope import __version__, logs
from darkhaloscope.driver import Brake
from darkhaloscope.errors import UserError

app = typer.Typer(
    name="dhs",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Inject strong lenses into survey coadds, and audit what a classifier could learn from them.",
)
console = Console()
errors = Console(stderr=True)
brake = Brake()

Out = Annotated[
    str | None, typer.Option("--out", help="Folder of the results: a path or any fsspec URL.")
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", help="Address of a running Dask scheduler, e.g. tcp://host:8786."),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Local worker processes.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace one key of the experiment: --set stamp.size=96."),
]


def parse_overrides(items: list[str] | None) -> dict[str, Any]:
    """Values of ``--set KEY=VALUE`` by dotted key, read as YAML; a mistake is a UserError."""
    made: dict[str, Any] = {}
    for item in items or []:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UserError(f"--set {item} has no value; write --set section.key=value")
        try:
            made[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {item}: the value is not valid YAML") from None
    return made


def _version(show: bool) -> None:
    if show:
        console.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    log: Annotated[
        str, typer.Option(envvar=logs.VARIABLE, help="text, or json: an object a line, on stderr.")
    ] = "text",
) -> None:
    if log not in ("text", "json"):
        raise UserError(f"--log (or {logs.VARIABLE}) is text or json, not {log}")
    os.environ[logs.VARIABLE] = log  # local workers are told
    if logs.are_json():
        logs.to_json()
        said = cast("TextIO", logs.Lines(logging.getLogger("darkhaloscope.cli")))
        for one in (console, errors):
            one.file, one.soft_wrap = said, True
    else:
        logs.to_text()
