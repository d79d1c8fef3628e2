"""A picture of the page that `vlae-codec explore` serves, by Chromium and playwright (pip install playwright).

python examples/explore_page.py -o examples/explore.png
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from vlae_codec import files
from vlae_codec.explore import server
from vlae_codec.explore.digits import CHOICES, Choice

#: The window's size; the picture is as wide, and as high as the part that is about a digit.
WIDTH, HEIGHT = 1160, 900
#: Colours of the picture.
COLOURS = 200
#: What keeps Chromium from asking anything of anybody.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip


def chromium() -> str | None:
    """The path of this machine's Chromium or Chrome, if it has one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def take(address: str, stop: int) -> Image.Image:
    """The top of the page once all bars are there, the slider at a stop."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(address)
        page.wait_for_selector("#bytes")
        page.locator("#window").fill(str(stop))
        page.wait_for_function("() => !document.querySelector('.bar.waiting')")
        page.evaluate("document.activeElement.blur()")
        # The bars grow for a quarter of a second.
        page.wait_for_timeout(1000)
        edge = page.locator(".filebox").bounding_box()
        assert edge is not None
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": int(edge["y"])}
        data = page.screenshot(clip=clip, full_page=True)  # type: ignore[arg-type]
        browser.close()
    return Image.open(io.BytesIO(data)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)


def main() -> None:
    """Read the command line, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", action="append", help="name or path, repeatable; default: those of the page")
    parser.add_argument("--stop", type=int, default=1, help="where the slider stands, 0 for its beginning (default: 1)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write")
    given = parser.parse_args()
    choices = [Choice(Path(name).stem, name) for name in given.model or []] or CHOICES
    with server.running(server.create_app(choices)) as address:
        picture = take(address, given.stop)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    files.write_bytes(str(given.output), buffer.getvalue(), force=True)


if __name__ == "__main__":
    main()
