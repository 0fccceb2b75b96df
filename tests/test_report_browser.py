"""The report in a real browser, at desktop and at phone width: nothing sticks out, every picture shows."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from audit_pairs import clean
from test_report import audited, draw

DESK, PHONE = 1280, 390
BROWSER = next(
    (b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None
)
LOOK = """
<script>
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement, width = root.clientWidth;
    const all = query => [...page.querySelectorAll(query)];
    const place = e => e.getBoundingClientRect();
    const some = list => list.map(e => e.outerHTML.slice(0, 80));
    const words = all("p, td, th, dd, dt, figcaption, .trio span, li, a");
    return {
      width, scroll: root.scrollWidth,
      wide: some(all("body *").filter(e => !e.closest(".box, pre") && place(e).right > width + 1)),
      blind: all("img").filter(i => i.naturalWidth === 0).length,
      narrow: all("img[alt*=profile]").filter(i => place(i).width < 300).length,
      small: some(words.filter(e => parseFloat(getComputedStyle(e).fontSize) < 11)),
      tops: Object.fromEntries(all("section").map(s => [s.id, place(s).top])),
    };
  });
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>
"""


def look(pages: list[tuple[str, int]], folder: Path) -> list[dict[str, Any]]:
    """What a browser makes of pages, each at its width."""
    frames = "".join(
        f'<iframe style="border:0;width:{w}px;height:900px" srcdoc="{html.escape(page)}"></iframe>'
        for page, w in pages
    )
    (folder / "look.html").write_text(f"<!DOCTYPE html><body>{frames}{LOOK}")
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={folder / 'profile'}", "--dump-dom", f"file://{folder / 'look.html'}"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
    assert found is not None, done.stderr[-500:]
    seen: list[dict[str, Any]] = json.loads(html.unescape(found.group(1)))
    return seen


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_the_page_fits_a_desk_and_a_phone(tmp_path: Path) -> None:
    ds = clean(40, 5)
    draw(audited(ds), ds, tmp_path)
    page = (tmp_path / "report.html").read_text()
    broken = page.replace("<h1>", '<h1 style="width:45rem">')
    *seen, spoilt = look([(page, DESK), (page, PHONE), (broken, PHONE)], tmp_path)
    assert [s["width"] for s in seen] == [DESK, PHONE]
    for s in seen:
        assert s["scroll"] == s["width"], s["wide"]
        assert (s["wide"], s["blind"], s["narrow"], s["small"]) == ([], 0, 0, [])
        tops = s["tops"]
        assert tops["verdict"] < tops["gates"] < tops["columns"] < tops["examples"]
        assert tops["columns"] < 2500  # the table of columns is near the top, also on a phone
    assert spoilt["wide"]  # what sticks out is seen
