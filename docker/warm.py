"""Fills numba's cache while the image is built: with what two small runs compile."""

from __future__ import annotations

import importlib.resources
import os
import tempfile
from pathlib import Path

from darkhaloscope import commands, lensing


def main() -> None:
    lensing.warm()
    with tempfile.TemporaryDirectory() as folder:
        root, table = f"{folder}/sky", f"{folder}/targets.parquet"
        commands.sky(root, bricks=2, size=512)
        commands.targets([f"{root}/south"], table)
        for model in ("gaussian", "moffat"):
            commands.run(
                str(importlib.resources.files("darkhaloscope") / "demo.yaml"),
                out=f"{folder}/{model}",
                workers=1,
                overrides={"survey.root": root, "targets.path": table, "psf.model": model},
            )
    compiled = list(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbc"))
    print(f"{len(compiled)} compiled functions")


if __name__ == "__main__":
    main()
