"""The whole page in a real browser: click, weigh, search, add; no error, nothing from elsewhere, both widths."""

import io
import shutil

import pytest

from ..conftest import make_image
from ..waiting import PATIENCE_S

pytest.importorskip("gradio", reason="the extra `demo` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip("no chromium is on the PATH", allow_module_level=True)


@pytest.fixture
def address(open_shop):
    from vlm2rec_hf import show_page

    open_shop.upsert([{"item_id": "evil", "title": "${1+1}{{value}}<img src=x onerror=boom()>"}])
    found = []
    page = show_page(open_shop, title="Test shop", port=0, k=6, block=False, listening=found.append)
    yield found[0]
    page.close()


def test_the_whole_flow(address, tmp_path):
    errors, outside = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("console", lambda said: said.type == "error" and errors.append(said.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request", lambda asked: asked.url.startswith((address, "data:", "blob:")) or outside.append(asked.url)
        )

        def cards(place):
            return page.locator(f"#{place} .card b").all_inner_texts()

        def until(place, condition):
            page.wait_for_function(f"() => {{ const cards = document.querySelectorAll('#{place} .card');"
                                   f" return {condition}; }}")  # fmt: skip

        def recommended(do):
            before = page.locator("#recommended ol").inner_html()
            do()
            page.wait_for_function("(old) => document.querySelector('#recommended ol').innerHTML !== old", arg=before)
            return cards("recommended")

        page.goto(address)
        until("shop", "cards.length === 24")
        until("recommended", "cards.length === 6")
        assert page.get_by_role("heading", name="Popular now").is_visible()
        names = cards("shop")
        page.get_by_role("button", name=f"Add to your history: {names[0]}").first.click()
        page.locator("#shop .card button").nth(1).focus()
        page.keyboard.press("Enter")  # a click by keyboard, and a quick one: both count
        until("history", "cards.length === 2")
        assert cards("history") == names[:2] and page.get_by_role("heading", name="Recommended for you").is_visible()
        first = cards("recommended")
        assert page.locator("#recommended .bar").count() == 6
        slider = page.get_by_role("slider")
        slider.focus()
        recommended(lambda: page.keyboard.press("Home"))
        page.get_by_label("Say why").uncheck()
        page.wait_for_function("document.querySelectorAll('#recommended .bar').length === 0")
        weighed = cards("recommended")
        assert weighed != first

        page.get_by_label("Search", exact=True).first.fill("a red tent")
        page.keyboard.press("Enter")
        until("found", "cards.length === 6")
        content = io.BytesIO()
        make_image(3, (50, 40)).save(content, "PNG")
        file = {"name": "new.png", "mimeType": "image/png", "buffer": content.getvalue()}
        page.locator("input[type=file]").first.set_input_files(file)
        page.get_by_role("heading", name="Items like your image").wait_for()

        page.get_by_text("Put a new item into the shop").click()
        page.get_by_label("Title or description of the new item").fill("purple umbrella")
        page.locator("#new_image input[type=file]").set_input_files(file)
        page.locator("#new_image").get_by_label("new.png").wait_for()  # the line that stays, not that of the upload
        page.get_by_role("button", name="Put it in").click()
        page.get_by_role("heading", name="Just in").wait_for()
        until("shop", "cards[0].innerText.includes('purple umbrella')")
        assert "62 items" in page.locator("#said [role=status]").inner_text()
        recommended(lambda: page.locator("#found .card button").first.click())
        assert cards("history")[-1] == "purple umbrella"
        page.screenshot(path=tmp_path / "wide.png", full_page=True)

        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.screenshot(path=tmp_path / "narrow.png", full_page=True)
        page.get_by_role("button", name="Start over").click()
        until("history", "cards.length === 0")
        while "${1+1}{{value}}<img src=x onerror=boom()>" not in cards("shop"):  # a title stays a text
            before = cards("shop")
            page.get_by_role("button", name="Show other items").click()
            page.wait_for_function("(old) => document.querySelector('#shop .card b').innerText !== old", arg=before[0])
        browser.close()
    assert (tmp_path / "wide.png").stat().st_size > 10_000
    assert errors == [] and outside == []
