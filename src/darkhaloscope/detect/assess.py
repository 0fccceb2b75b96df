"""From a trained detector to its verdict: test is shown to it here, and each time is written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope import prepare, storage, store, workflow
from darkhaloscope.audit.measure import BAND_COLUMNS, OPTIONAL_COLUMNS, PAIR_COLUMNS
from darkhaloscope.audit.verdict import Gate, to_json
from darkhaloscope.completeness.recovered import read_scores
from darkhaloscope.config import Experiment
from darkhaloscope.detect import folder as folders
from darkhaloscope.detect import gates as of
from darkhaloscope.detect.areas import Area, area
from darkhaloscope.detect.config import DEPLOYED, DetectorConfig
from darkhaloscope.detect.detector import DESCRIPTION, Detector, load
from darkhaloscope.detect.evaluation import Evaluation, evaluate
from darkhaloscope.detect.localisation import Images, Localisation, localisation, occlusion
from darkhaloscope.detect.recall import of_grades
from darkhaloscope.detect.scores import loader_of, score_run, write_scores
from darkhaloscope.detect.splits import Shared, shared
from darkhaloscope.detect.training import BESIDE, Part, plane_of, scored, seen_of
from darkhaloscope.errors import UserError
from darkhaloscope.views import STAMP

ARC_TOLERANCE = 1e-3
"""Relative accuracy of the arcs that localisation expects."""

OnStep = Callable[[str, int, int], None]
"""``on_step(what, done, all)``."""


@dataclass(frozen=True)
class Assessment:
    """What a detector has shown.

    Attributes
    ----------
    verdict : dict
        As ``verdict.json`` holds it.
    evaluation : Evaluation
    areas : dict of str to Area
        On test: ``whole``, ``masked``, and ``core_only`` and ``annulus_only`` where they were trained.
    localisation : Localisation
    splits : Shared
    test_uses : int
        How often test was shown to this detector, this time included.
    looked : tuple
        Images, expected arcs and costs of the stamps whose patches were hidden.
    """

    verdict: dict[str, Any]
    evaluation: Evaluation
    areas: dict[str, Area]
    localisation: Localisation
    splits: Shared
    test_uses: int
    looked: tuple[Images, NDArray[np.float64], NDArray[np.float64]]


def assess(
    folder: str,
    *,
    run: str | None = None,
    workers: int = 0,
    further: Sequence[Gate] = (),
    on_step: OnStep = lambda what, done, of: None,
) -> Assessment:
    """Evaluate a detector on the test split of its own data set, and judge its gates.

    Parameters
    ----------
    folder : str
        The detector's.
    run : str, optional
        Where its data set lies now, if it was moved.
    further : sequence of Gate
        Gates that others measured, such as ``real_lens_recall`` from ``lenses/verdict.json`` below the
        folder, which decides only where it was measured of the grades that the configuration names.

    Raises
    ------
    UserError
        No detector, another data set, or too few images of a class.
    """
    document, config = folders.require(folder)
    detector = load(folder)
    detector.network.to(_device(config))
    run = run or config.run
    columns = _columns(run)
    identity = str(columns.attrs.get("identity", ""))
    if identity != document["data"]["identity"]:
        raise UserError(
            f"{run} is another data set ({identity[:12]}) than {folder} was trained on "
            f"({document['data']['identity'][:12]}); say where that is with --run"
        )
    uses = folders.record_test_use(folder, "evaluate", data=identity, detector=detector.digest)
    scores = _scores(folder, run, detector, identity, workers, on_step)
    settings = prepare.settings_of(run)
    band = _reference(settings, detector)
    found = evaluate(
        scores,
        columns,
        quality=config.reading.quality,
        fprs=config.gates.fprs,
        reference=band,
        seed=config.seed,
    )
    areas = {"whole": found.whole} | _masked(folder, run, config, detector, found, workers, on_step)
    looked, where = _look(run, columns, settings, config, detector, found)
    on_step("splits compared", 0, 1)
    common = shared(run, columns, size=detector.size, seed=config.seed)
    on_step("splits compared", 1, 1)
    limits = config.gates
    gates = [
        of.auroc_gate("auroc", found.whole, limits.auroc),
        of.core_mask_gate(found.whole, areas["masked"], limits.core_mask_drop),
        of.localisation_gate(where, limits.arc_localisation),
        of.split_gate(common),
    ]
    if "core_only" in areas:
        gates.append(of.below_gate("core_only_auroc", areas["core_only"], limits.core_only_auroc))
    if "annulus_only" in areas:
        gates.append(
            of.auroc_gate("annulus_only_auroc", areas["annulus_only"], limits.annulus_only_auroc)
        )
    of_lenses = storage.join(folder, folders.LENSES, folders.VERDICT)
    gates += [
        of_grades(g, of_lenses, limits.real_lens_grades) if g.name == DEPLOYED else g
        for g in further
    ]
    lacking = [name for name in config.required if name not in {g.name for g in gates}]
    gates += [_unmeasured(name, limits.real_lens_recall) for name in lacking]
    verdict = of.judge(
        gates,
        config.required,
        images=len(found.test.pos) + len(found.test.neg),
        found=where,
        areas=areas,
        splits=common,
        despite=document["despite"],
        not_tested=_not_tested(found, common, areas, gates),
    )
    storage.write(storage.join(folder, folders.VERDICT), to_json(verdict).encode())
    return Assessment(verdict, found, areas, where, common, uses, looked)


def _device(config: DetectorConfig) -> torch.device:
    there = torch.cuda.is_available() and config.device != "cpu"
    return torch.device("cuda" if there else "cpu")


def _columns(run: str) -> xr.Dataset:
    """The run's columns in memory, without pixels; a run that is not finished is refused."""
    dataset = store.open_dataset(run)
    prepare.check_complete(dataset, run)
    light = dataset[[n for n in dataset.data_vars if "y" not in dataset[n].dims]].load()
    text = [name for name, variable in light.data_vars.items() if variable.dtype.kind == "T"]
    return light.assign({name: light[name].astype(object) for name in text})


def _reference(settings: Experiment | prepare.AuditSettings, detector: Detector) -> int:
    if isinstance(settings, Experiment):
        return settings.survey.bands.index(settings.survey.reference)
    return detector.bands.index("r") if "r" in detector.bands else 0


def _scores(
    folder: str, run: str, detector: Detector, identity: str, workers: int, on_step: OnStep
) -> pd.DataFrame:
    """The scores in the folder if they are this detector's of this data set, else new ones."""
    path = storage.join(folder, folders.SCORES)
    if storage.exists(path):
        _, facts = read_scores(path)
        if (facts.get("detector"), facts.get("data_identity")) == (detector.digest, identity):
            table = folders.read_table(path)
            if {"train", "val", "test"} <= set(table["region_split"]):
                return table
    table = score_run(
        detector, run, workers=workers, on_rows=lambda done, of: on_step("images scored", done, of)
    )
    write_scores(path, table, detector, identity, folder)
    return table


def _masked(
    folder: str,
    run: str,
    config: DetectorConfig,
    detector: Detector,
    found: Evaluation,
    workers: int,
    on_step: OnStep,
) -> dict[str, Area]:
    """Test again with the core hidden, and by the networks beside: the same images, resampled alike."""
    seen: dict[str, tuple[Detector, Part]] = {"masked": (detector, "annulus_only")}
    for part in BESIDE:
        other = network_beside(folder, part, config)
        if other is not None:
            other.network.to(_device(config))
            seen[part] = (other, part)
    test = found.test
    rows = np.union1d(test.pos_row, test.neg_row)
    loader = loader_of(detector, run, "test", workers)
    out = {}
    done, of_all = 0, 2 * len(rows) * len(seen)

    def on_images(n: int) -> None:
        nonlocal done
        done += n
        on_step("masked images scored", done, of_all)

    on_images(0)  # the clock starts
    for name, (who, part) in seen.items():
        plane = plane_of(part, detector.size, config.gates.core_radius_px)
        said = scored(who.network, loader.in_order(rows), plane, on_images)
        stamps = said.image == STAMP
        logit = {
            kind: pd.Series(said.logit[keep], index=said.row[keep])
            for kind, keep in (("pos", stamps), ("neg", ~stamps))
        }
        out[name] = area(
            logit["pos"].reindex(test.pos_row).to_numpy(),
            logit["neg"].reindex(test.neg_row).to_numpy(),
            test.pos_region,
            test.neg_region,
            test.regions,
            config.seed,
        )
    return out


def network_beside(folder: str, part: Part, config: DetectorConfig) -> Detector | None:
    """The network of a part of the image that was trained beside a detector; None where there is none.

    Raises
    ------
    UserError
        It was trained on another core than the configuration names now.
    """
    place = storage.join(folder, part)
    if not storage.exists(storage.join(place, DESCRIPTION)):
        return None
    radius = config.gates.core_radius_px
    seen = str(folders.require(place)[0]["learned"].get("seen"))
    if seen != seen_of(part, radius):
        raise UserError(
            f"{place} was trained on {seen}, and gates.core_radius_px is {radius:g}; take the change back, "
            "or train again with a new --out"
        )
    return load(place)


def _look(
    run: str,
    columns: xr.Dataset,
    settings: Experiment | prepare.AuditSettings,
    config: DetectorConfig,
    detector: Detector,
    found: Evaluation,
) -> tuple[tuple[Images, NDArray[np.float64], NDArray[np.float64]], Localisation]:
    """Hide patches of test stamps that the detector finds, and compare with their arcs."""
    test = found.test
    recovered = np.flatnonzero(test.pos > 0)
    rng = np.random.default_rng(config.seed)
    most = config.gates.occluded
    if len(recovered) > most:
        recovered = rng.choice(recovered, most, replace=False)
    recovered = recovered[np.argsort(test.pos_row[recovered], kind="stable")]
    rows = test.pos_row[recovered]
    arcs = expected_arcs(run, columns, rows, settings)
    drawn = np.isfinite(arcs).all(axis=(1, 2))
    rows, arcs, region = rows[drawn], arcs[drawn], test.pos_region[recovered][drawn]
    if len(rows):
        batches = loader_of(detector, run, "test").in_order(rows)
        images = np.concatenate([b.images[b.image == STAMP].numpy() for b in batches])
    else:
        images = np.zeros((0, 1, detector.size, detector.size), np.float32)
    device = next(detector.network.parameters()).device
    aux = torch.zeros((len(rows), 0))
    if detector.reading.aux_psf and len(rows):
        batches = loader_of(detector, run, "test").in_order(rows)
        aux = torch.cat([b.aux[b.image == STAMP] for b in batches])

    def logits(shown: Images) -> NDArray[np.float64]:
        with torch.inference_mode():
            said = detector.network(torch.from_numpy(shown).to(device), aux.to(device))
            return np.asarray(said.double().cpu().numpy())

    cost = occlusion(images, logits) if len(rows) else np.zeros((0, 1, 1))
    return (images, arcs, cost), localisation(cost, arcs, region, config.seed)


def expected_arcs(
    run: str,
    columns: xr.Dataset,
    rows: NDArray[np.int64],
    settings: Experiment | prepare.AuditSettings,
) -> NDArray[np.float64]:
    """The arcs that rows' parameters promise, (row, y, x): bands added up, each in units of its sky sigma.

    Drawn by the audit's integrator, so that what else lies in the stored pixels is not in them. NaN where
    a row cannot be drawn.
    """
    spec = prepare.spec_of_source(prepare.StoredPairs(run), settings)
    names = (*PAIR_COLUMNS, *BAND_COLUMNS, *(n for n in OPTIONAL_COLUMNS if n in columns))
    part: dict[str, Any] = {name: columns[name].values[rows] for name in names}
    n, size = len(rows), spec.size
    part["hash"] = rows.astype(np.uint64)
    part["closure"] = np.ones(n, dtype=bool)
    part["core_nodata"] = np.zeros((n, 1, 1), dtype=np.uint8)
    part["nodata"] = store.open_dataset(run)["nodata"].isel(pair=rows).values
    if n == 0:
        return np.zeros((0, size, size))
    catalogue = settings.source.catalogue if isinstance(settings, Experiment) else None
    drawn = workflow.rerender_piece(part, spec, catalogue, ARC_TOLERANCE)["whole"]
    sigma = part["sky_sigma"][:, :, None, None]
    covered = (part["coverage"] > 0)[:, :, None, None]
    return np.asarray(np.where(covered, drawn / sigma, 0.0).sum(axis=1))


def _unmeasured(name: str, limit: float) -> Gate:
    nan = float("nan")
    how = {
        DEPLOYED: "real_lens_recall was not measured: dhs lenses does it, with a catalogue of lenses"
    }
    missing = how.get(name, f"{name} was not measured: train with gates.beside: true")
    return Gate(name, nan, (nan, nan), limit, "not_enough", missing)


def _not_tested(
    found: Evaluation, common: Shared, areas: Mapping[str, Area], gates: Sequence[Gate]
) -> list[str]:
    table = found.table
    rates = table[
        (table["quantity"] == "tpr") & table["note"].fillna("").str.startswith("not_enough")
    ]
    said = [
        f"true-positive rate at {stratum}: {str(note).removeprefix('not_enough: ')}"
        for stratum, note in zip(rates["stratum"], rates["note"], strict=True)
    ]
    if "core_only" not in areas:
        said.append("networks of the core and of the annulus alone: gates.beside is false")
    if DEPLOYED not in {gate.name for gate in gates}:
        said.append("real lenses: dhs lenses measures their recall")
    said.append(
        f"near-duplicate pixels: of {common.compared:,} galaxies the surroundings were compared, not turned "
        "or shifted"
    )
    return said


def summary(found: Assessment) -> dict[str, Any]:
    """The numbers behind a verdict, as JSON takes them."""
    where = found.localisation

    def numbers(a: Area) -> dict[str, Any]:
        lo, hi = a.interval()
        return {
            "value": a.value,
            "interval": [None if v != v else v for v in (lo, hi)],
            "positives": a.positives,
            "negatives": a.negatives,
            "regions": a.regions,
        }

    return {
        "auroc": {name: numbers(a) for name, a in found.areas.items()},
        "localisation": {
            "hits": where.hits,
            "chance": where.chance,
            "excess": where.excess,
            "p": where.p,
            "stamps": where.stamps,
            "regions": where.regions,
        },
        "test_uses": found.test_uses,
    }


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """Strict JSON; what is missing is null."""
    return json.dumps(_clean(document), indent=1, allow_nan=False).encode()


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _clean(v) for k, v in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
