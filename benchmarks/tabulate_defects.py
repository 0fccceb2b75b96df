"""The page docs/studies/defects.md, from the figures that ``defects.py --json FIGURES`` wrote.

``python benchmarks/tabulate_defects.py FIGURES docs/studies/defects.md``
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from defects import CLEAN, FEWEST, INDEPENDENT, MOST_FALSE, WANTED
from planted import NOISELESS, NOISY, UNPAIRED

SEEDS, SETS = 60, 628
Line = dict[str, Any]

HEAD = """\
# How well the audit names planted defects

`benchmarks/defects.py` plants each defect of [its table](../audit.md) into clean pairs, seed by seed, and
audits them as `dhs audit` does. This is what it found of sets with {pairs:,} injections.
{state}

Audits are in [defects/](defects/), a line each, with the digest of their code (the audit, the renderer and
the plants). They count for that code, `{code}`, and for no other{earlier}.

```sh
mkdir study && cp docs/studies/defects/audits-*.jsonl study/   # go on from here
study="python benchmarks/defects.py --seeds {wanted} --skies 10 --pairs {pairs} --folder study"
$study --kind noiseless --part 0/2
$study --kind noiseless noisy independent unpaired --sizes --hours 0 --json figures.json   # tables alone
python benchmarks/tabulate_defects.py figures.json docs/studies/defects.md
```

| asked of noiseless pairs with provenance | found | wanted |
|---|---|---|
"""

BELOW = """
Bounds are one-sided, 95 % (Clopper and Pearson), all defects together; plants of one base share its pairs,
and clean sets of one base its arcs, so that seeds are what is independent.

"""

AGAINST_SIZE = """
## Against size

The same of noiseless pairs, at sizes that are not the reference size:

"""

P_VALUES = """
## p-values of clean sets

Of all tests on clean noiseless sets, and of the least one of each after Holm's correction (an alarm is below
0.001). Most tests ask for an effect beyond a limit, so that a clean set's p is near 1 and not even:

| p from | to | tests | audits |
|---|---|---|---|
"""

TABLE = """\
| planted | size | plants | alarms | named right | called |
|---|---|---|---|---|---|
"""

OTHERS = {
    NOISY: """
## Noisy pairs

Stamp and ctrl have noise of 0.7 sky sigma each, of their own, beside what they share: 1 sky sigma in their
difference, under which some 75 of the 500 arcs of the closure test have an S/N of 20. What is not found is
`undecided`, which asks for more pairs or less noise: no target was set for such sets.
""",
    INDEPENDENT: """
## Pairs on two skies

Stamp and ctrl share no noise: two skies with their galaxies, or blank but for the arc. Only that clean sets
stay clean is asked for here.
""",
    UNPAIRED: """
## Unpaired sets

Two classes without pairs, the arcs of which nobody can draw again. Only what tells the classes apart is
asked for here; that lenses have arcs is no defect, so clean sets are `undecided`.
""",
}


def percent(fraction: float) -> str:
    """With one digit behind the point; never rounded up to what was not reached."""
    return f"{int(1000 * fraction) / 10:.1f} %"


def rows_of(lines: list[Line]) -> str:
    """One line of the table for each defect and size."""
    out = []
    for line in lines:
        called = ", ".join(f"`{name}` {n}" for name, n in line["called"].items())
        size = f"{line['size']:g} {line['unit']}" if line["unit"] else ""
        counts = (str(line[c]) for c in ("plants", "alarms", "named"))
        out.append(f"| {' | '.join((line['defect'], size, *counts, called))} |")
    return TABLE + "\n".join(out) + "\n"


def asked(figures: Line, lines: list[Line]) -> str:
    """What was wanted of noiseless pairs, and what came out."""
    found = next(b for b in figures["bounds"] if b["kind"] == NOISELESS)
    clean = next(f for f in figures["false_alarms"] if f["kind"] == NOISELESS)
    least = min(lines, key=lambda line: line["alarms"] / line["plants"])
    words = {
        "detected": "plants that alarm",
        "named": "plants called by their name, or their family's",
    }
    out = [
        f"| {words[key]} | {found[key]['count']:,} of {found['plants']:,}, at least "
        f"{percent(found[key]['lower'])} | at least {100 * WANTED[key]:.0f} % |"
        for key in WANTED
    ]
    most = math.ceil(1e4 * clean["upper"]) / 100
    out.append(
        f"| each defect alarms in {FEWEST * SEEDS:.0f} of {SEEDS} | the least in {least['alarms']} of "
        f"{least['plants']} ({least['defect']}) | {FEWEST * SEEDS:.0f} of {SEEDS} |"
    )
    out.append(
        f"| clean sets that alarm | {clean['alarms']} of {clean['sets']} ({clean['bases']} bases under "
        f"several skies), at most {most:.2f} % | at most {100 * MOST_FALSE:.0f} %, of {SETS} sets two |"
    )
    return "\n".join(out) + "\n"


def of_earlier(figures: Line) -> str:
    """What part of the plants other code audited, and whether it makes a difference."""
    same = figures["same"]
    mine = {figures["code"], *same["codes"]}
    others = {code: n for code, n in figures["codes"].items() if code not in mine}
    as_these = "".join(
        f", but for {n:,} of `{code}`,\nwhose audits are the same (`SAME` in `benchmarks/defects.py` says "
        f"why; {same['audits']:,} were made by both, {same['everything']:,} with the\nsame verdicts, causes "
        "and p-values)"
        for code, n in figures["codes"].items()
        if code in same["codes"]
    )
    if not others:
        return as_these
    both = figures["agreement"]
    seeds = "1 seed" if both["seeds"] == 1 else f"{both['seeds']} seeds"
    said = " and ".join(f"{n:,} noiseless plants of `{code}`" for code, n in others.items())
    return (
        f"{as_these}{', and' if as_these else ', but'} for {said}\n"
        "(`EARLIER` in `benchmarks/defects.py` says what came after). Of "
        f"{both['audits']:,} plants of {seeds} that both audited, the verdict is the same in "
        f"{both['verdict']:,}, the first\ncause in {both['first_cause']:,} and the list of all causes in "
        f"{both['all_causes']:,}"
    )


def _in_all(figures: Line, kind: str) -> str:
    """All plants of a kind at their reference sizes together, and its clean sets."""
    out = ""
    for b in (b for b in figures["bounds"] if b["kind"] == kind):
        out += (
            f"At reference sizes {b['detected']['count']} of {b['plants']} plants alarmed (at least "
            f"{percent(b['detected']['lower'])}), {b['named']['count']} by their names (at least "
            f"{percent(b['named']['lower'])}).\n"
        )
    for f in (f for f in figures["false_alarms"] if f["kind"] == kind):
        out += f"Of {f['sets']} clean sets {f['alarms']} alarmed.\n"
    return out


def page(figures: Line) -> str:
    """The whole page."""
    every = [line for line in figures["defects"] if line["defect"] != CLEAN]
    reference = [d for d in every if d["kind"] == NOISELESS and d["reference"]]
    seeds = min(line["plants"] for line in reference)
    state = (
        f"{seeds} seeds were made."
        if seeds >= SEEDS
        else f"**The study is not finished: {seeds} seeds of {SEEDS}** for noiseless pairs."
    )
    out = HEAD.format(
        pairs=figures["pairs"], code=figures["code"], state=state, wanted=SEEDS,
        earlier=of_earlier(figures),
    )  # fmt: skip
    out += asked(figures, reference) + BELOW + rows_of(reference)
    others = [d for d in every if d["kind"] == NOISELESS and not d["reference"]]
    if others:
        out += AGAINST_SIZE + rows_of(others)
    for kind, says in OTHERS.items():
        lines, in_all = [d for d in every if d["kind"] == kind], _in_all(figures, kind)
        if in_all:
            out += says + in_all + (f"\n{rows_of(lines)}" if lines else "")
    out += P_VALUES
    for p in figures["p_values"]:
        out += f"| {p['from']:g} | {p['to']:g} | {p['tests']:,} | {p['audits']} |\n"
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path)
    parser.add_argument("page", type=Path)
    given = parser.parse_args()
    given.page.write_text(page(json.loads(given.figures.read_text())))


if __name__ == "__main__":
    main()
