"""``docs/data-set.md`` says what the code stores: its tables are those of the code, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from darkhaloscope.errors import Reason
from darkhaloscope.inject import ARC_MANTISSA_BITS, CTRL_STEPS_PER_SIGMA
from darkhaloscope.store import INNER_CHUNK, attributes
from darkhaloscope.store.markers import MARKER_SCHEMA
from darkhaloscope.variables import ALL_VARIABLES, OPTIONAL_KINDS, VARIABLES, Variable

TEXT = (Path(__file__).parents[1] / "docs" / "data-set.md").read_text()

DTYPES = {
    "f4": "float32", "f8": "float64", "i8": "int64", "u1": "uint8", "bool": "bool", "str": "string",
}  # fmt: skip


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = TEXT.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in rows]


def fill(variable: Variable) -> str:
    if variable.dtype in ("f4", "f8"):
        return "0" if variable.fill == 0 else "NaN"
    return '""' if variable.fill == "" else str(variable.fill)


def row(variable: Variable) -> list[str]:
    name, dims = f"`{variable.name}`", ", ".join(variable.dims)
    return [name, dims, DTYPES[variable.dtype], variable.unit, fill(variable), variable.meaning]


def test_the_table_of_variables_is_the_one_of_the_code() -> None:
    assert table("Variables") == [row(variable) for variable in VARIABLES]


def test_the_table_of_optional_variables_is_the_one_of_the_code() -> None:
    assert table("Optional variables") == [
        [f"`{kind}`", *row(variable)]
        for kind, columns in OPTIONAL_KINDS.items()
        for variable in columns
    ]


def test_the_closed_lists_are_those_of_the_code() -> None:
    truth = [
        [f"`{v.name}`", ", ".join(f"{number} {name}" for number, name in v.flags.items())]
        for v in ALL_VARIABLES
        if v.flags is not None and v.name != "reason"
    ]
    assert table("Closed lists") == truth


def test_every_reason_is_explained() -> None:
    rows = table("Reasons")
    assert [[number, name] for number, name, _ in rows] == [
        [str(int(r)), f"`{r.text}`"] for r in Reason
    ]
    assert all(len(meaning.split()) > 3 for *_, meaning in rows)


@pytest.mark.parametrize(
    "says",
    [
        f"inner chunks of {INNER_CHUNK} pairs",
        f"2^floor(log2(sky_sigma / {CTRL_STEPS_PER_SIGMA}))",
        f"{ARC_MANTISSA_BITS} mantissa bits",
        f'"schema": {MARKER_SCHEMA}',
        *(f"`{name}`" for name in attributes("", 0, {})),
    ],
)
def test_numbers_in_the_prose_are_the_codes(says: str) -> None:
    assert says in TEXT


def test_its_python_can_be_run(tmp_path: Path) -> None:
    """Every Python block at least compiles, and names only variables that there are."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) >= 2
    names = {variable.name for variable in VARIABLES} | {"stamp"}
    for block in blocks:
        compile(block, "data-set.md", "exec")
        assert set(re.findall(r"\bds\.(\w+)", block)) <= names | {"isel", "sel", "where", "attrs"}
        assert set(re.findall(r'ds\["(\w+)"\]', block)) <= names
