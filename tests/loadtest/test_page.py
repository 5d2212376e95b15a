"""report.html in a real browser, with the network off."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.loadtest.conftest import LoadRun

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--enable-logging=stderr", "--v=0", "--window-size=1240,2000",
]  # fmt: skip


def test_the_page_asks_for_nothing_outside_itself(run: LoadRun) -> None:
    assert run.folder is not None
    html = (run.folder / "report.html").read_text()
    body = re.sub(r"<pre>.*?</pre>", "", html, flags=re.S)
    outside = set(re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(https?:[^"')\s]+)""", body))
    assert not outside
    assert html.count("<svg") >= 6


def test_ids_of_the_plots_do_not_collide(run: LoadRun) -> None:
    assert run.folder is not None
    html = (run.folder / "report.html").read_text()
    found = re.findall(r'\bid="([^"]+)"', html)
    assert len(found) == len(set(found))
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
    assert wanted <= set(found)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_opens_offline_and_shows_its_plots(run: LoadRun, tmp_path: Path) -> None:
    assert run.folder is not None
    assert CHROMIUM is not None
    page, shot = (run.folder / "report.html").resolve().as_uri(), tmp_path / "page.png"
    offline = [
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--proxy-server=127.0.0.1:9",
        "--proxy-bypass-list=<-loopback>",
    ]
    drawn = subprocess.run(
        [CHROMIUM, *offline, f"--screenshot={shot}", page], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in drawn.stderr, drawn.stderr
    from PIL import Image

    with Image.open(shot) as picture:
        colours = picture.convert("RGB").getcolors(1 << 24) or []
    assert picture.size == (1240, 2000)
    assert len(colours) > 200, "a blank page has one colour"
    blue = sum(count for count, (r, g, b) in colours if b > 180 and r < 120 and g < 160)
    assert blue > 2000, "the plots' first colour covers a part of the page"
    dom = subprocess.run([CHROMIUM, *offline, "--dump-dom", page], capture_output=True, text=True, timeout=120).stdout
    assert "Latency distribution" in dom
    assert re.search(r'class="verdict (pass|inconclusive)"', dom)
