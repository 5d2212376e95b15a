"""A page in a real browser with the network off.

In      an HTML file.
Out     how often each colour is on its picture, and its DOM.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZE = (1240, 2000)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--enable-logging=stderr", "--v=0", f"--window-size={SIZE[0]},{SIZE[1]}",
    "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>",
]  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What a reader sees: colours as (count, (r, g, b)), and the DOM after the page's own scripts, if it had any."""

    colours: list[tuple[int, tuple[int, int, int]]]
    dom: str

    @property
    def blue(self) -> int:
        """Return how many points have the plots' first colour."""
        return sum(count for count, (r, g, b) in self.colours if b > 180 and r < 120 and g < 160)


def look(page: Path, scratch: Path) -> Seen:
    """Open `page`; a line on the browser's console, such as for something it wanted to load, fails."""
    from PIL import Image

    assert CHROMIUM is not None
    command, where = [CHROMIUM, *FLAGS, f"--user-data-dir={scratch / 'profile'}"], page.resolve().as_uri()
    shot = scratch / "page.png"
    drawn = subprocess.run([*command, f"--screenshot={shot}", where], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in drawn.stderr, drawn.stderr
    with Image.open(shot) as picture:
        assert picture.size == SIZE
        colours = picture.convert("RGB").getcolors(1 << 24) or []
    dom = subprocess.run([*command, "--dump-dom", where], capture_output=True, text=True, timeout=120).stdout
    return Seen(colours, dom)
