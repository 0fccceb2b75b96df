"""Is each planted defect found, and called by its name? ``python benchmarks/defects.py --folder study``.

Defects of :mod:`planted` go into clean pairs, seed by seed, at their reference size (``--sizes``: at the
others too, for the curves of detection against size); the clean pairs are audited too. Four kinds of
sets are kept apart: noiseless pairs with their provenance, pairs whose stamp and ctrl have noise each of
its own beside what they share, pairs that share no noise at all (independent; no defects are planted into
them), and two classes without pairs. Every finished audit is a line of ``audits.jsonl`` in ``--folder``,
with a digest of the sources it was made by: a study may be stopped (``--hours``), continued, given more
seeds, and shared by several processes (``--part 0/2``). Audits by other sources are not counted, but for
those in :data:`SAME` and noiseless plants by those in :data:`EARLIER`; ``--again`` audits some of the plants
by the code as it is, and how many come out the same is told.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import audit_pairs
import numpy as np
import planted
import shared_work
import xarray as xr
from audit_pairs import (
    SKY,
    AuditSpec,
    Ds,
    clean,
    measure,
    names,
    on_other_skies,
    rerendered,
    run_audit,
    skies,
    spec_of,
    summed,
)
from planted import DEFECTS, NOISELESS, NOISY, UNPAIRED
from rich.console import Console
from rich.table import Table
from shared_work import Memo, keep_freed, shared

from darkhaloscope import audit as package
from darkhaloscope.audit import undrawn
from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.hypotheses import FAMILY_RISK
from darkhaloscope.audit.intervals import binomial_interval
from darkhaloscope.audit.spec import row_hashes

CLEAN = "nothing"
INDEPENDENT = "independent"
KINDS = (NOISELESS, NOISY, INDEPENDENT, UNPAIRED)
QUICK = (
    "flux doubled", "pedestal", "pedestal in the core", "shift by 1 px", "noise in one class",
    "region in two splits",
)  # fmt: skip
QUICK_PAIRS = 120
EACH_NOISE = 0.7
"""Noise in sky sigma that stamp and ctrl of a noisy pair are given, each of its own."""

FEWEST = 0.9
"""Part of its plants that must be detected of every single cause: 54 of 60."""

WANTED = {"detected": 0.95, "named": 0.90}
MOST_FALSE = 0.01
"""Of clean sets, how many may alarm: 2 of 628 have it for their upper bound."""

EARLIER = ("ea9d1fcdf3dd686b",)
"""Sources whose audits of noiseless plants count beside these ones'. Of what came after, these sets are asked
four things more of their controls in each band; all else is of others (counts, cells that stand for regions,
dust, noise) or of words. Their clean sets do not count."""

SAME = ("76fd730e3d276c60",)
"""Sources of which every audit counts as these ones'. What came after is of sets in which all rows have the
same offset of the target, or of the lens. These sets have others in every row, and of them the same numbers
are added in the same order."""

ALARMS = ("bug", "shortcut")
CLOSURE = AuditSpec.closure
P_EDGES = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.25, 0.5, 0.75, 1.0)

Truth = dict[str, np.ndarray]
Line = dict[str, Any]


class Case(NamedTuple):
    """One audit of a study; ``size`` is None for clean pairs, whose ``sky`` above 0 is another one."""

    kind: str
    defect: str
    size: float | None
    sky: int = 0


def case_of(line: Line) -> Case:
    """What a line of the book is about."""
    return Case(*(line[name] for name in Case._fields))


AUDIT = Path(str(package.__file__)).parent
LENSING = AUDIT.parent / "lensing"
DRAW_AGAIN = ("reference*.py", "rerender.py", "sampled.py", "spec.py")
"""Files of the audit that decide what an arc drawn again looks like, and which are drawn."""


def sources() -> str:
    """Digest of the code that an audit's result depends on: the audit, the pairs and the plants.

    Without what opens the files of foreign sets: these pairs are in memory.
    """
    mine = (Path(str(m.__file__)) for m in (audit_pairs, planted, shared_work))
    read = set((AUDIT / "sources").glob("*.py")) - {AUDIT / "sources" / "difference.py"}
    audits = (file for file in AUDIT.rglob("*.py") if file not in read)
    return _digest(audits, LENSING.rglob("*.py"), mine, (Path(__file__),))


def drawing() -> str:
    """Digest of the code that base sets and their arcs are drawn by, once and again."""
    again = (file for pattern in DRAW_AGAIN for file in AUDIT.glob(pattern))
    return _digest(again, LENSING.rglob("*.py"), (Path(str(audit_pairs.__file__)),))


def _digest(*files: Iterable[Path]) -> str:
    out = hashlib.sha256()
    for file in sorted({file for some in files for file in some}):
        out.update(file.name.encode() + file.read_bytes())
    return out.hexdigest()[:16]


def cases(kinds: list[str], defects: list[str], sizes: bool, skies: int = 0) -> list[Case]:
    """Clean pairs, every defect that a kind of set can show, and clean pairs on other skies."""
    out = []
    for kind in kinds:
        out.append(Case(kind, CLEAN, None))
        for name in defects:
            defect = DEFECTS[name]
            if kind in defect.kinds:
                axis = defect.axis if sizes else (defect.reference,)
                out += [Case(kind, name, size) for size in axis]
        out += [Case(kind, CLEAN, None, sky) for sky in range(1, skies + 1)]
    return out


def base(folder: Path, pairs: int, seed: int) -> tuple[Ds, Truth]:
    """Clean pairs and :func:`drawn_again`, from the folder or drawn now."""
    place, again = places(folder, pairs, seed)
    if not place.exists() or not again.exists():
        ds = clean(pairs, seed=seed)
        truth = drawn_again(ds)
        _save(again, truth)
        _save(place, {str(k): _plain(v.values) for k, v in ds.data_vars.items()})
        return ds, truth
    dims = clean(10).data_vars
    with np.load(place) as found:
        ds = xr.Dataset(
            {k: (dims[k].dims, found[k].astype(dims[k].dtype)) for k in found.files},
            coords={"band": list(spec_of(clean(10)).bands)},
        )
    with np.load(again) as found:
        return ds, {k: found[k] for k in found.files}


def places(folder: Path, pairs: int, seed: int) -> tuple[Path, Path]:
    """Files of a base and of its arcs drawn again; other code that draws gives other names."""
    stem = f"{pairs}-{seed}-{drawing()}.npz"
    return folder / f"clean-{stem}", folder / f"truth-{stem}"


def hashes_of(ds: Ds, spec: AuditSpec) -> np.ndarray:
    """Row hash of every injection, in the order of the rows."""
    injected = ds["lens_model"].values != 0
    return row_hashes(spec.seed, ds["brick"].values[injected], ds["slot"].values[injected])


def drawn_again(ds: Ds) -> Truth:
    """Every injection drawn again whole, one entry an injection."""
    injections = int((ds["lens_model"].values != 0).sum())
    spec = spec_of(ds, closure=injections, whole_cap=max(injections, 2000))
    found = rerendered(ds, measure(ds, spec), spec)
    hashes = hashes_of(ds, spec)
    order, whole = match(hashes, found["hash"]), match(hashes, found["whole_hash"])
    if (order < 0).any() or (whole < 0).any():
        raise RuntimeError("an injection of a clean set was not drawn again")
    per_row = ("core", "flux_total", "magnification", "message")
    return {**{k: found[k][order] for k in per_row}, "whole": found["whole"][whole]}


def of_rows(truth: Truth, ds: Ds, dealt: np.ndarray, rows: Truth, spec: AuditSpec) -> Truth:
    """What the audit would have drawn of its rows: those of the arcs that were dealt to them."""
    arc = dealt[match(rows["hash"], hashes_of(ds, spec))]
    closure = rows["closure"].astype(bool)
    out = {k: v[arc] for k, v in truth.items() if k != "whole"}
    whole = truth["whole"][arc[closure]]
    return {**out, "hash": rows["hash"], "whole_hash": rows["hash"][closure], "whole": whole}


def _save(place: Path, arrays: Truth) -> None:
    """All of it or nothing: a study may be killed at any moment."""
    part = place.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    part.replace(place)


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(str) if values.dtype == object else values


def as_kind(ds: Ds, kind: str, seed: int, sky: int = 0) -> Ds:
    """The same rows as a set of another kind, by the random numbers of this seed and sky."""
    if kind == NOISELESS:
        return ds
    out = ds.copy(deep=True)
    injected = np.flatnonzero(ds["lens_model"].values != 0)
    ctrl, arc = ds["ctrl"].values.astype(float), ds["arc"].values.astype(float)
    stamp = ctrl + arc
    rng = np.random.default_rng([seed, 17, sky])
    if kind == NOISY:
        noise = EACH_NOISE * SKY[:, None, None] * rng.normal(size=(2, *ctrl.shape))
        ctrl, stamp = ctrl + noise[0], stamp + noise[1]
    elif kind == INDEPENDENT:
        ctrl, under = two_skies(ds, rng, blank=(seed + sky) % 2 == 1)
        stamp = under + arc
    else:
        # Row i of one class keeps row i of the other company, and is of another place.
        ctrl[injected] = ctrl[np.roll(injected, len(injected) // 2)]
    difference = np.zeros_like(arc)
    difference[injected] = (stamp - ctrl)[injected]
    out["ctrl"].values[:], out["arc"].values[:] = ctrl, difference
    return summed(out)


def two_skies(ds: Ds, rng: np.random.Generator, blank: bool) -> tuple[np.ndarray, np.ndarray]:
    """Two skies of the same rows that share no noise: with their galaxies, or ``blank``."""
    target = np.stack([ds["target_x"].values, ds["target_y"].values], axis=1).astype(float)

    def drawn() -> np.ndarray:
        return skies(rng, target, ds["host_id"].values)

    if not blank:
        return drawn(), drawn()
    # Of two skies the difference has no galaxy.
    return (drawn() - drawn()) / np.sqrt(2), (drawn() - drawn()) / np.sqrt(2)


def audit(ds: Ds, truth: Truth, case: Case, seed: int, memo: Memo, closure: int = CLOSURE) -> Line:
    """Verdict and causes of the pairs with one defect, or of their arcs on another sky."""
    started = time.process_time()
    dealt = np.arange(len(truth["core"]))
    spoilt = ds
    if case.size is not None:
        spoilt = memo.once(planted.planted, ds, case.defect, case.size)
    elif case.sky:
        spoilt, dealt = on_other_skies(ds, 1000 * seed + case.sky)
    spoilt = as_kind(spoilt, case.kind, seed, case.sky)

    def again(rows: Truth, spec: AuditSpec) -> Truth:
        if case.kind == UNPAIRED:
            return undrawn(rows, spec)
        return of_rows(truth, spoilt, dealt, rows, spec)

    changes: dict[str, Any] = {"closure": closure, "paired": case.kind != UNPAIRED}
    result = run_audit(spoilt, again=again, redraw=memo.redraw, **changes)
    p = result.tables["tests"][["p", "p_holm"]]
    out = {
        "verdict": result.verdict["verdict"],
        "causes": names(result),
        "least_p": _rounded(float(p["p_holm"].min())),
        "seconds": round(time.process_time() - started, 2),
    }
    return out if case.size is not None else {**out, "p": [_rounded(float(v)) for v in p["p"]]}


def _rounded(p: float) -> float | None:
    return float(f"{p:.3g}") if np.isfinite(p) else None


def finished(folder: Path, pairs: int, closure: int) -> Iterator[Line]:
    """Lines of the folder's books that count, of sets and samples of that size: these sources' first."""
    code = sources()
    counts = {code: 0, **dict.fromkeys(SAME, 1), **dict.fromkeys(EARLIER, 2)}
    lines = [
        line
        for book in sorted(folder.glob("audits*.jsonl"))
        for line in map(json.loads, book.read_text().splitlines())
        if (line["pairs"], line["closure"]) == (pairs, closure) and line["code"] in counts
    ]
    for line in sorted(lines, key=lambda line: counts[line["code"]]):
        plant = line["kind"] == NOISELESS and line["size"] is not None
        if line["code"] not in EARLIER or plant:
            yield line


def once_each(lines: Iterable[Line]) -> list[Line]:
    """The first line of each audit."""
    first: dict[tuple[int, Case], Line] = {}
    for line in lines:
        first.setdefault((line["seed"], case_of(line)), line)
    return list(first.values())


def agreement(lines: list[Line], these: tuple[str, ...], others: tuple[str, ...]) -> dict[str, int]:
    """Audits by these sources and by others: how many, and in how many what is equal."""
    of = {(d["seed"], case_of(d)): d for d in lines if d["code"] in these}
    pairs = [
        (of[key], d)
        for d in lines
        if d["code"] in others and (key := (d["seed"], case_of(d))) in of
    ]
    what = ("verdict", "causes", "least_p", "p")
    return {
        "audits": len(pairs),
        "seeds": len({d["seed"] for _, d in pairs}),
        "verdict": sum(a["verdict"] == b["verdict"] for a, b in pairs),
        "first_cause": sum(a["causes"][:1] == b["causes"][:1] for a, b in pairs),
        "all_causes": sum(a["causes"] == b["causes"] for a, b in pairs),
        "everything": sum(all(a.get(k) == b.get(k) for k in what) for a, b in pairs),
    }


def study(
    folder: Path,
    pairs: int,
    seeds: int,
    wanted: list[Case],
    *,
    closure: int = CLOSURE,
    clean_seeds: int = 0,
    again: int = 0,
    part: tuple[int, int] = (0, 1),
    seconds: float = np.inf,
    keep: bool = True,
) -> list[Line]:
    """Every case in every seed; what the folder already holds is not done again.

    Parameters
    ----------
    closure : int
        Rows of the closure test of each audit.
    clean_seeds : int
        Seeds of which the clean pairs alone are audited, ``seeds`` among them.
    again : int
        Seeds in which what earlier sources audited is audited by these ones too.
    part : (int, int)
        Which seeds are this process's: those that leave k when divided by n.
    seconds : float
        No audit is begun after as many.
    keep : bool
        Whether bases stay in the folder when their audits are done: 0.15 GB each at 2,000 pairs.
    """
    code, started = sources(), time.monotonic()
    done = list(finished(folder, pairs, closure))
    mine = (code, *SAME)
    have = {(d["seed"], case_of(d)) for d in done if d["code"] in mine or d["seed"] >= again}
    book = folder / f"audits-{part[0]}.jsonl"
    plants = [case[1:] for case in wanted]
    for seed in range(max(seeds, clean_seeds)):
        own = wanted if seed < seeds else [c for c in wanted if c.size is None]
        left = [c for c in own if (seed, c) not in have]
        # One plant after the other, each in sets of every kind.
        left.sort(key=lambda c: plants.index(c[1:]))
        if not left or seed % part[1] != part[0]:
            continue
        if time.monotonic() - started > seconds:
            break
        ds, truth = base(folder, pairs, seed)
        with shared(verdict_alone=True) as memo:
            for case in left:
                if time.monotonic() - started > seconds:
                    break
                line = {"code": code, "pairs": pairs, "closure": closure, "seed": seed}
                line |= case._asdict() | audit(ds, truth, case, seed, memo, closure)
                with book.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                done.append(line)
        if not keep:
            for place in places(folder, pairs, seed):
                place.unlink()
    asked = set(wanted)
    return [
        d for d in once_each(sorted(done, key=lambda line: line["code"] in EARLIER))
        if case_of(d) in asked
        and (d["seed"] < seeds or (d["size"] is None and d["seed"] < clean_seeds))
    ]  # fmt: skip


# --- what came out --------------------------------------------------------------------------------


def confusion(done: list[Line]) -> list[Line]:
    """One line a kind, defect and size: plants, alarms, right names, and how often each name came first."""
    lines = []
    for kind, defect, size, _ in cases(list(KINDS), list(DEFECTS), sizes=True):
        own = [d for d in done if (d["kind"], d["defect"], d["size"]) == (kind, defect, size)]
        if not own:
            continue
        first = Counter(d["causes"][0] if d["causes"] else d["verdict"] for d in own)
        right = {"physics", "undecided"} if defect == CLEAN else DEFECTS[defect].names
        lines.append(
            {
                "kind": kind,
                "defect": defect,
                "size": size,
                "reference": defect != CLEAN and size == DEFECTS[defect].reference,
                "unit": "" if defect == CLEAN else DEFECTS[defect].unit,
                "plants": len(own),
                "alarms": sum(d["verdict"] in ALARMS for d in own),
                "named": sum(n for name, n in first.items() if name in right),
                "called": dict(first.most_common()),
                "seconds": float(np.mean([d["seconds"] for d in own])),
            }
        )
    return lines


def bounds(lines: list[Line], kind: str) -> Line | None:
    """All plants of a kind at their reference size together: fractions with their lower bounds (95 %)."""
    own = [line for line in lines if line["kind"] == kind and line["reference"]]
    plants = sum(line["plants"] for line in own)
    if not plants:
        return None
    out: Line = {"kind": kind, "plants": plants}
    for name, key in (("detected", "alarms"), ("named", "named")):
        count = sum(line[key] for line in own)
        # One-sided: the lower end of a two-sided interval of 90 %.
        lowest = binomial_interval(count, plants, 0.90)[0]
        out[name] = {"count": count, "lower": lowest, "reached": lowest >= WANTED[name]}
    out["below"] = [line["defect"] for line in own if line["alarms"] < FEWEST * line["plants"]]
    return out


def false_alarms(done: list[Line], kind: str) -> Line | None:
    """Alarms of the clean sets of a kind, with the upper bound (95 %, one-sided) of their fraction.

    Sets of one base under several skies share their arcs; ``bases`` says how many there are.
    """
    own = [d for d in done if d["kind"] == kind and d["size"] is None]
    if not own:
        return None
    count = sum(d["verdict"] in ALARMS for d in own)
    upper = binomial_interval(count, len(own), 0.90)[1]
    bases = len({d["seed"] for d in own})
    return {
        "kind": kind, "sets": len(own), "bases": bases, "alarms": count, "upper": upper,
        "reached": upper <= MOST_FALSE,
    }  # fmt: skip


def p_values(done: list[Line]) -> list[Line]:
    """Histogram of the p-values of all tests on clean sets, and of the least one of each after Holm."""
    own = [d for d in done if d["size"] is None and d["kind"] == NOISELESS]
    every = np.array([p for d in own for p in d["p"] if p is not None], dtype=float)
    least = np.array([d["least_p"] for d in own if d["least_p"] is not None], dtype=float)
    counts = [np.histogram(values, P_EDGES)[0].tolist() for values in (every, least)]
    return [
        {"from": lo, "to": hi, "tests": a, "audits": b}
        for lo, hi, a, b in zip(P_EDGES[:-1], P_EDGES[1:], *counts, strict=True)
    ]


def show(lines: list[Line], done: list[Line], console: Console) -> None:
    """The confusion matrix, a defect a line; the bounds; the p-values of clean sets."""
    table = Table("set", "planted", "size", "plants", "alarms", "named right", "called", "CPU s")
    for line in lines:
        called = ", ".join(f"{name} {n}" for name, n in line["called"].items())
        size = "" if not line["unit"] else f"{line['size']:g} {line['unit']}"
        counts = (str(line[c]) for c in ("plants", "alarms", "named"))
        name = line["defect"] + ("" if line["reference"] or line["size"] is None else " *")
        table.add_row(line["kind"], name, size, *counts, called, f"{line['seconds']:.1f}")
    console.print(table)
    console.print("* not the reference size", highlight=False)
    for kind in KINDS:
        clean_sets = false_alarms(done, kind)
        if clean_sets is not None:
            console.print(
                f"{kind}: of {clean_sets['sets']} clean sets ({clean_sets['bases']} bases) "
                f"{clean_sets['alarms']} alarmed, at most {clean_sets['upper']:.2%} "
                f"(wanted {MOST_FALSE:.0%})",
                highlight=False,
            )
        found = bounds(lines, kind)
        if found is None:
            continue
        parts = [
            f"{name} {found[name]['count']}, at least {found[name]['lower']:.1%} "
            f"(wanted {WANTED[name]:.0%})"
            for name in WANTED
        ]
        below = f"; below {FEWEST:.0%}: {', '.join(found['below'])}" if found["below"] else ""
        console.print(
            f"{kind}: of {found['plants']} plants {'; '.join(parts)}{below}", highlight=False
        )
    table = Table("p from", "to", "tests", f"audits (least, Holm; alarm below {FAMILY_RISK:g})")
    for line in p_values(done):
        table.add_row(*(f"{line[k]:g}" for k in ("from", "to", "tests", "audits")))
    console.print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2000, help="injections in a base set")
    parser.add_argument("--seeds", type=int, default=60, help="base sets")
    parser.add_argument(
        "--clean-seeds", type=int, default=0, help="base sets audited without a defect"
    )
    parser.add_argument(
        "--skies",
        type=int,
        default=0,
        help="clean sets a base beside its own: its arcs on other skies",
    )
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=[NOISELESS])
    parser.add_argument(
        "--defect", nargs="+", choices=DEFECTS, default=list(DEFECTS), metavar="NAME"
    )
    parser.add_argument("--sizes", action="store_true", help="all sizes, not the reference alone")
    parser.add_argument(
        "--again",
        type=int,
        default=0,
        help="base sets in which earlier code's plants are audited again",
    )
    parser.add_argument("--part", default="0/1", help="k/n: this process takes seeds k, k + n, ...")
    parser.add_argument("--hours", type=float, default=np.inf, help="begin nothing after as many")
    parser.add_argument(
        "--drop", action="store_true", help="remove a base when its audits are done"
    )
    parser.add_argument("--folder", type=Path, help="where base sets and finished audits lie")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--quick", action="store_true", help="one seed, 120 pairs: under 50 s")
    given = parser.parse_args()
    keep_freed()
    k, n = (int(v) for v in given.part.split("/"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        pairs, seeds, wanted = (
            given.pairs,
            given.seeds,
            cases(given.kind, given.defect, given.sizes, given.skies),
        )
        if given.quick:
            pairs, seeds, wanted = QUICK_PAIRS, 1, cases([NOISELESS], list(QUICK), sizes=False)
        done = study(
            folder, pairs, seeds, wanted, clean_seeds=given.clean_seeds, again=given.again,
            part=(k, n), seconds=3600.0 * given.hours, keep=not given.drop,
        )  # fmt: skip
        lines = confusion(done)
        every = list(finished(folder, pairs, CLOSURE))
        both = agreement(every, (sources(), *SAME), EARLIER)
        same = agreement(every, (sources(),), SAME)
    show(lines, done, Console())
    if given.json is not None:
        figures = {
            "pairs": pairs,
            "code": sources(),
            "codes": Counter(d["code"] for d in done),
            "agreement": both,
            "same": {"codes": SAME, **same},
            "defects": lines,
            "bounds": [b for kind in KINDS if (b := bounds(lines, kind))],
            "false_alarms": [f for kind in KINDS if (f := false_alarms(done, kind))],
            "p_values": p_values(done),
        }
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
