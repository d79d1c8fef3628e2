"""The page of ``vlae-codec explore`` in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import GOLDEN
from PIL import Image
from vlae_codec.cli import main

pytest.importorskip("starlette", reason="explore needs the extra 'explore'")
pytest.importorskip("uvicorn", reason="explore needs the extra 'explore'")
pytest.importorskip("playwright", reason="the page's tests drive a browser by playwright, of the extra 'test'")

import explore_page
from explore_page import FLAGS, chromium
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright
from serving import served

from vlae_codec.explore.digits import CHOICES

pytestmark = pytest.mark.skipif(chromium() is None, reason="needs chromium, chromium-browser or google-chrome to drive")
#: Milliseconds that a test waits for the page, on a machine that does other work.
PATIENCE = 240_000
PICTURES = "() => [...document.querySelectorAll('#draws canvas')].map(c => c.toDataURL()).join()"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(digit_models: list[Path]) -> Iterator[str]:
    with served(digit_models) as found:
        yield found


def is_wrong(message: ConsoleMessage) -> bool:
    """Whether a browser complains; that an upload was refused is no fault of the page."""
    return message.type == "error" and "status of 400" not in message.text


def opened(browser: Browser, address: str, **options: object) -> tuple[Page, list[str], list[str]]:
    """The page with its first digit shown; what it asks for, and what goes wrong in it, as it happens."""
    page = browser.new_page(**options)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if is_wrong(message) else None)
    page.goto(address)
    page.wait_for_selector("#bytes")
    return page, asked, wrong


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    found, asked, wrong = opened(browser, address)
    yield found
    found.close()
    assert not wrong
    assert asked
    assert {re.sub(r"^(blob:)?(http://[^/]+).*", r"\2", url) for url in asked} == {address}


def changes(page: Page, what: str, act: object) -> None:
    """Wait until what a script gives is no longer what it was."""
    before = page.evaluate(what)
    act()  # type: ignore[operator]
    page.wait_for_function(f"before => ({what})() !== before", arg=before)


def bits(numbers: Locator) -> tuple[float, float, float]:
    z, pixels, total = re.findall(r"[\d.]+(?= bits)", numbers.inner_text().replace(",", ""))
    return float(z), float(pixels), float(total)


def test_the_slider_changes_pictures_and_bars(page: Page) -> None:
    slider, numbers = page.locator("#window"), page.locator("#numbers")
    assert slider.get_attribute("aria-valuetext") == "digits-1"
    values = "() => [...document.querySelectorAll('#values g')].map(g => g.getAttribute('opacity')).join()"
    seen, dimmed = bits(numbers), page.evaluate(values)
    changes(page, PICTURES, lambda: slider.press("ArrowRight"))
    assert slider.get_attribute("aria-valuetext") == "digits-2"
    now = bits(numbers)
    assert now != seen
    assert now[0] + now[1] == pytest.approx(now[2], abs=0.11)
    assert page.evaluate(values) != dimmed
    page.wait_for_function("() => !document.querySelector('.bar.waiting')")
    heights = page.evaluate("[...document.querySelectorAll('.bar .pixels')].map(bar => parseFloat(bar.style.height))")
    totals = [float(text.replace(",", "")) for text in page.locator(".bar b").all_inner_texts()]
    assert heights.index(max(heights)) == totals.index(max(totals))
    assert totals[2] == round(now[2])
    changes(page, PICTURES, lambda: slider.press("Home"))
    assert page.locator(".bar.now").evaluate("bar => [...bar.parentElement.children].indexOf(bar)") == 0


def test_the_seed_draws_again(page: Page) -> None:
    changes(page, PICTURES, lambda: page.get_by_role("button", name="Draw again").click())
    assert page.locator("#seed").input_value() == "1"


def test_bytes_on_the_page_are_those_of_compress(page: Page, digit_models: list[Path], tmp_path: Path) -> None:
    for name in ("png", "vlae"):
        with page.expect_download() as download:
            page.locator(f"#get-{name}").click()
        download.value.save_as(tmp_path / f"digit.{name}")
    # As the page says, but for the place.
    command = page.locator("#command").inner_text().split()
    assert command[:5] == ["vlae-codec", "compress", "digit.png", "-o", "digit.vlae"]
    made = tmp_path / "made.vlae"
    done = CliRunner().invoke(main, ["compress", str(tmp_path / "digit.png"), "-o", str(made), *command[5:]])
    assert done.exit_code == 0, done.output
    assert made.read_bytes() == (tmp_path / "digit.vlae").read_bytes()
    assert page.locator("#bytes").inner_text() == str(made.stat().st_size)


def test_a_digit_is_drawn_with_the_mouse(page: Page) -> None:
    page.locator("#clear").click()
    box = page.locator("#drawing").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def draw() -> None:
        page.mouse.move(x, y - 60)
        page.mouse.down()
        page.mouse.move(x, y + 60, steps=5)
        page.mouse.up()

    ink = "() => document.querySelector('#drawing').ink.reduce((sum, v) => sum + v, 0)"
    assert page.evaluate(ink) == 0
    changes(page, "() => document.querySelector('#numbers').textContent", draw)
    assert 20 < page.evaluate(ink) < 60
    assert page.locator("#shelf [aria-checked=true]").count() == 0


def test_the_keyboard_reaches_the_shelf_and_the_map(page: Page) -> None:
    chosen = page.locator("#shelf [aria-checked=true]")
    chosen.focus()
    drawing = "() => document.querySelector('#drawing').toDataURL()"
    changes(page, drawing, lambda: page.keyboard.press("ArrowRight"))
    assert chosen.get_attribute("aria-label") == "another 3"
    page.locator("#map").focus()
    text = page.locator("#map-text")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('#map-text').textContent.startsWith('The draw at')")
    before = text.inner_text()
    page.keyboard.press("ArrowUp")
    page.wait_for_function("before => document.querySelector('#map-text').textContent !== before", arg=before)
    assert page.locator("#under").is_visible()


def test_what_the_terms_mean_is_shown_with_the_focus(page: Page) -> None:
    for name in ("q", "p", "window"):
        term = page.locator(".term").filter(has_text=re.compile(rf"^{name}")).first
        tip = term.locator(".tip")
        assert not tip.is_visible()
        term.focus()
        assert tip.is_visible()
        page.keyboard.press("Escape")
        page.mouse.move(0, 0)
        tip.wait_for(state="hidden")
        term.hover()
        tip.wait_for(state="visible")
        page.mouse.move(0, 0)


def test_between_two_digits(page: Page) -> None:
    mixed = "() => document.querySelector('#mixed').toDataURL()"
    page.wait_for_function("() => document.querySelector('#share-text').textContent")
    changes(page, mixed, lambda: page.locator("#share").press("End"))
    assert page.locator("#share-text").inner_text() == "z is 0 % of the digit above and 100 % of the other"
    changes(page, mixed, lambda: page.locator("#other button").nth(1).click())


def test_a_picture_is_dropped_on_the_page(page: Page) -> None:
    dropped = page.evaluate_handle(
        """async () => {
            const canvas = Object.assign(document.createElement("canvas"), { width: 80, height: 80 });
            const pen = canvas.getContext("2d");
            pen.fillStyle = "white";
            pen.fillRect(0, 0, 80, 80);
            pen.fillStyle = "black";
            pen.fillRect(35, 10, 10, 60);
            const blob = await new Promise((done) => canvas.toBlob(done));
            const transfer = new DataTransfer();
            transfer.items.add(new File([blob], "one.png"));
            return transfer;
        }"""
    )
    drawing = "() => document.querySelector('#drawing').toDataURL()"
    changes(page, drawing, lambda: page.dispatch_event("#drawing", "drop", {"dataTransfer": dropped}))
    # A stroke of 10 by 60 pixels, fitted to a height of 20.
    ink = page.evaluate("document.querySelector('#drawing').ink.reduce((sum, v) => sum + v, 0)")
    assert ink == pytest.approx(60, abs=20)


def test_a_bad_upload_gets_a_clear_sentence(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    for section, field in (("#digits", "#picture"), ("#photographs", "#photo")):
        page.set_input_files(field, tmp_path / "notes.txt")
        alert = page.locator(f"{section} [role=alert]")
        alert.wait_for(state="visible")
        assert alert.inner_text() == "notes.txt is not an image that Pillow can read"
    # The next good one takes the sentence away.
    page.locator("#shelf button").last.click()
    page.locator("#digits [role=alert]").wait_for(state="hidden")


def test_a_photograph_beside_what_z_tells_of_it(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#photo", GOLDEN / "lake.png")
    page.wait_for_selector("#sizes b")
    with page.expect_download() as download:
        page.locator("#get-photo").click()
    assert download.value.suggested_filename == "lake.png.vlae"
    download.value.save_as(tmp_path / "a.vlae")
    arguments = ["lossy", GOLDEN / "lake.png", "-o", tmp_path / "b.vlae", "--model", GOLDEN / "tiny.safetensors"]
    assert CliRunner().invoke(main, list(map(str, arguments))).exit_code == 0
    made = (tmp_path / "b.vlae").read_bytes()
    assert (tmp_path / "a.vlae").read_bytes() == made
    sizes = page.locator("#sizes b").all_inner_texts()
    assert sizes[0] == f"{len(made):,}"
    assert float(sizes[1].replace(",", "")) > 0
    at = "() => document.querySelector('#compare').style.getPropertyValue('--at')"
    changes(page, at, lambda: page.locator("#divider").press("ArrowLeft"))
    changes(page, "() => document.querySelector('#after').src", lambda: page.get_by_label("WebP").check())
    changes(page, "() => document.querySelector('#sizes b').textContent", lambda: page.locator("#quality").press("End"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(browser: Browser, address: str, scheme: str) -> None:
    options = {"viewport": {"width": 375, "height": 700}, "color_scheme": scheme, "has_touch": True}
    page, _, wrong = opened(browser, address, **options)
    page.set_input_files("#photo", GOLDEN / "lake.png")
    page.wait_for_selector("#sizes b")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    paper, ink = page.evaluate(
        "() => ['backgroundColor', 'color'].map(key => "
        "getComputedStyle(document.body)[key].match(/[0-9]+/g).slice(0, 3).reduce((sum, v) => sum + Number(v), 0))"
    )
    assert (paper > ink) == (scheme == "light")
    assert abs(paper - ink) > 500
    page.close()
    assert not wrong


def test_the_models_that_ship(browser: Browser) -> None:
    """The page as users get it: each window has bits of its own, and the full one leaves less to z than none does."""
    with served([Path(choice.name) for choice in CHOICES]) as address:
        page, _, wrong = opened(browser, address)
        page.locator("#window").press("Home")
        page.wait_for_function("() => !document.querySelector('.bar.waiting')")
        first = bits(page.locator("#numbers"))
        changes(page, PICTURES, lambda: page.locator("#window").press("End"))
        last = bits(page.locator("#numbers"))
        assert last[0] < first[0]
        assert last[2] < first[2]
        # Hundreds of digits lie on the maps that ship with the models; the shelf has twenty.
        assert page.evaluate("async () => (await (await fetch('/api/map?model=0')).json()).labels.length") > 100
        page.close()
        assert not wrong


def test_a_picture_of_the_page(tmp_path: Path, digit_models: list[Path]) -> None:
    models = [argument for path in digit_models for argument in ("-m", str(path))]
    command = [sys.executable, explore_page.__file__, *models, "-o", str(tmp_path / "page.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width == explore_page.WIDTH
        assert len(picture.getcolors() or []) > 20
