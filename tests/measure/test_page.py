"""report.html in a real browser, with the network off."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests._project import ROOT, Project
from tests.measure import _browser
from tests.measure.conftest import LoadRun


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


needs_browser = pytest.mark.skipif(_browser.CHROMIUM is None, reason="Chromium is not installed")


@pytest.mark.browser
@needs_browser
def test_the_page_opens_offline_and_shows_its_plots(run: LoadRun, tmp_path: Path) -> None:
    assert run.folder is not None
    seen = _browser.look(run.folder / "report.html", tmp_path)
    assert len(seen.colours) > 200, "a blank page has one colour"
    assert seen.blue > 2000, "the plots' first colour covers a part of the page"
    assert "Latency distribution" in seen.dom
    assert re.search(r'class="verdict (pass|inconclusive)"', seen.dom)


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize(
    ("words", "plots"),
    [
        (("sweep", "digits", "--instances", "1,2", "--repeats", "1", "--users", "4"), ("Throughput", "Executed batch sizes")),
        (("tune", "digits", "--slo", "p95<30s", "--points", "2", "--minutes", "0.2", "--repeats", "2"),
         ("Throughput against latency", "tuned for p95")),
    ],
    ids=["sweep", "tune"],
)  # fmt: skip
def test_the_pages_of_sweep_and_tune_open_offline(
    built: Project, tmp_path: Path, words: tuple[str, ...], plots: tuple[str, ...]
) -> None:
    places = [
        "--repository",
        str(built.repository),
        "--runs",
        str(tmp_path / "runs"),
        "--duration-s",
        "1",
        "--warmup-s",
        "0.5",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", *words, *places, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = _browser.look(Path(json.loads(done.stdout)["report"]), tmp_path)
    assert len(seen.colours) > 100, "a blank page has one colour, and text a few shades"
    assert seen.blue > 100, "a plot is on the page"
    for text in plots:
        assert text in seen.dom
