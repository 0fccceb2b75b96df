"""An ablation's file, and the sentence that its numbers support."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from rich.console import Console
from small_pairs import small_pairs, write_pairs

from darkhaloscope import commands
from darkhaloscope.config import load_experiment
from darkhaloscope.detect import ablation
from darkhaloscope.detect.ablation import MASKED, OWN, UNFIXED, compare, load_ablation, markdown
from darkhaloscope.errors import UserError

FILE = Path(__file__).parents[1] / "workflows" / "ablation.yaml"


def scores(
    strength: float, regions: int = 30, seed: int = 0, own: float | None = None
) -> pd.DataFrame:
    """Test images of regions whose sky moves both classes; positives ``strength`` sigma higher."""
    rng = np.random.default_rng(seed)
    region = np.repeat([f"r{k}" for k in range(regions)], 20)
    sky = np.repeat(rng.normal(0, 0.5, regions), 20)
    parts = []
    noise = rng.normal(0, 1, (2, len(region)))
    for test, lift in ((OWN, own or strength), (UNFIXED, strength), (MASKED, strength / 2)):
        for label in (True, False):
            score = noise[int(label)] + sky + lift * label
            parts.append(
                pd.DataFrame(
                    {"test": test, "label": label, "score": score, "region": region, "epochs": 3}
                )
            )
    return pd.concat(parts, ignore_index=True)


def test_arms_that_differ_are_named_and_those_that_do_not_are_not() -> None:
    found = compare(
        {
            "none": scores(1.5),
            "same": scores(1.5),
            "worse": scores(0.8, own=3.0),
            "near": scores(1.49, seed=3),
        },
        seed=1,
    )
    table = found.table.set_index(["arm", "test"])
    assert table.loc[("same", UNFIXED), "difference"] == 0
    assert table.loc[("same", UNFIXED), ["difference_lo", "difference_hi"]].tolist() == [0, 0]
    assert (
        table.loc[("worse", UNFIXED), "difference_hi"]
        < 0
        < table.loc[("worse", OWN), "difference_lo"]
    )
    assert table.loc[("none", UNFIXED), "core_drop"] > 0.1
    assert table.loc[("none", UNFIXED), "regions"] == 30
    assert "lose: worse -0." in found.sentence
    assert "not told apart from it: same, near" in found.sentence
    assert "gain" not in found.sentence
    text = markdown(found)
    assert text.count("\n| `") == 4
    assert found.sentence in text


def test_few_regions_support_no_sentence_about_arms() -> None:
    found = compare({"none": scores(1.5, regions=10), "worse": scores(0.2, regions=10)}, seed=1)
    assert "10 regions of test are too few" in found.sentence
    assert "worse" not in found.sentence


def test_a_refused_arm_ends_no_other_and_each_look_at_test_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data sets without a sky, and without the negatives that one arm asks for."""
    bright = write_pairs(tmp_path / "none", small_pairs(320))
    dim = small_pairs(320, seed=1)
    dim["arc"].values[:] *= 0.0
    faded = write_pairs(tmp_path / "mask_5", dim)
    monkeypatch.setattr(
        ablation, "make_data", lambda c, f, e: faded if e.name.endswith("mask_5") else bright
    )

    @contextmanager
    def connect(*_: object) -> Iterator[Client]:
        with Client(
            processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None
        ) as c:
            yield c

    monkeypatch.setattr("darkhaloscope.commands.detect.connect", connect)
    out = tmp_path / "study"
    few: dict[str, Any] = {
        "ablation.sky": None,
        "ablation.detector.training": {"epochs": 1, "patience": 1},
    }

    def call(*arms: str) -> None:
        commands.ablation(
            str(FILE), out=str(out), arms=arms, overrides=few, console=Console(quiet=True)
        )

    with pytest.raises(UserError, match=r"1 of 3 arms were .*: matched_negatives: .* has no core"):
        call("mask_5", "matched_negatives")
    table = pd.read_parquet(out / "table.parquet").set_index(["arm", "test"])
    assert table.index.get_level_values("arm").unique().tolist() == ["none", "mask_5"]
    # What mask_5 was trained on shows no arc; it is shown those of none all the same, as none is.
    made = {n: next(out.glob(f"results/{n}-*.parquet")) for n in ("none", "mask_5")}
    of_none, of_mask = (pd.read_parquet(path).set_index("test") for path in made.values())
    assert len(of_none.loc[UNFIXED]) == len(of_mask.loc[UNFIXED])
    scores = of_mask.loc[UNFIXED]
    lit = scores.loc[scores["label"], "score"].to_numpy()
    unlit = of_mask.loc[OWN].loc[of_mask.loc[OWN, "label"], "score"].to_numpy()
    assert not np.allclose(lit, unlit)
    for name in made:
        (folder,) = out.glob(f"detectors/{name}-*")
        uses = json.loads((folder / "run.json").read_text())["test_uses"]
        assert [use["test"] for use in uses] == [OWN, UNFIXED, MASKED]
    # Called again: what was made is not made again, and the refusal stands.
    before = {path: path.stat().st_mtime_ns for path in made.values()}
    with pytest.raises(UserError, match="1 of 3 arms were refused"):
        call("mask_5", "matched_negatives")
    assert before == {path: path.stat().st_mtime_ns for path in made.values()}


@pytest.mark.long
def test_every_arm_is_made_trained_and_compared(tmp_path: Path) -> None:
    """The file as it is, on a tiny sky and for one epoch: what its numbers are worth is not asked."""
    few = {
        "ablation.sky.bricks": 32,
        "ablation.detector.training": {"epochs": 1, "patience": 1},
        "targets.splits": {"train": 0.6, "val": 0.2, "test": 0.2},  # option_c: rows without arc
        "store.block": 64,
    }
    done = commands.ablation(
        str(FILE),
        out=str(tmp_path / "study"),
        workers=1,
        overrides=few,
        console=Console(quiet=True),
    )
    names = [arm.name for arm in load_ablation(str(FILE))[1]]
    table = done.compared.table
    assert table["arm"].drop_duplicates().tolist() == names
    assert len(names) == 21
    assert (table["epochs"] == 1).all()
    assert table["auroc"].between(0, 1).all()
    assert (table["positives"] > 10).all()
    assert (table["negatives"] > 10).all()
    text = (tmp_path / "study" / "summary.md").read_text()
    assert all(f"| `{arm}` |" in text for arm in names)


def test_the_file_is_read_and_its_mistakes_are_said(tmp_path: Path) -> None:
    _, arms = load_ablation(str(FILE))
    names = [arm.name for arm in arms]
    assert names[0] == "none"
    study = (FILE.parent / "core_neutral.yaml").read_text()
    for fix in (
        "theta_e_floor",
        "reff_cap",
        "mixed_n",
        "unresolved",
        "mask_5",
        "mask_7",
        "mask_10",
        "box",
    ):
        assert fix in names
        assert f"{fix}:" in study
    by_name = {arm.name: arm.config("run") for arm in arms}
    assert by_name["raw"].reading.normalize == "raw"
    assert by_name["none"].reading.normalize == "annulus"
    assert by_name["paired_loss"].training.paired.weight > 0
    assert by_name["option_c"].reading.option == "c"
    assert not by_name["none"].gates.beside
    assert [arm.name for arm in load_ablation(str(FILE), only=["box"])[1]] == ["none", "box"]
    with pytest.raises(UserError, match="has no arm boxes; its arms are none, raw"):
        load_ablation(str(FILE), only=["boxes"])
    with pytest.raises(UserError, match="run it with dhs ablation"):
        load_experiment(str(FILE))
    with pytest.raises(UserError, match="has no section ablation"):
        load_ablation(str(FILE.parent / "demo.yaml"))
    # An arm's paths are those of its file, wherever it is called; null takes a key out.
    images = {
        "source.model": "image", "source.catalogue": "cosmos.fits",
        **dict.fromkeys(("source.n", "source.q", "source.pa", "source.reff")),
        "detector.network.weights": "w.pt", "detector.training": None,
    }  # fmt: skip
    made = load_ablation(str(FILE), {"ablation.arms.images": images})[1][-1]
    assert made.experiment.source.catalogue == str(FILE.parent / "cosmos.fits")
    assert made.config("run").network.weights == str(FILE.parent / "w.pt")
    assert made.config("run").training.epochs == 20  # the tier's
    with pytest.raises(UserError, match="an arm takes a key out with null"):
        load_ablation(str(FILE), {"ablation.arms.images": images | {"source.n": 2}})
    for arm, match in (
        ({"detector.reading.normalise": "raw"}, "arm wrong: reading.normalise"),
        ({"fix.core_mask.radius_px": -1}, "ablation.arms.wrong"),
        ({"stamp.size": 48}, "arms.wrong changes stamp, which all arms share"),
        (
            {"audit.closure": 9},
            "arms.wrong changes audit.closure, which does nothing.* and detector",
        ),
    ):
        with pytest.raises(UserError, match=match):
            load_ablation(str(FILE), {"ablation.arms.wrong": arm})
