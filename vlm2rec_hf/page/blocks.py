"""The page as a Gradio application: what is pressed goes to the `ShopWindow`, what it answers is drawn."""

# Annotations are no texts here: Gradio looks for `EventData` among them, and is imported inside the function.
from typing import TYPE_CHECKING, Any

from . import look
from .shop_window import Shelf, ShopWindow

if TYPE_CHECKING:
    import gradio

DELETE_UPLOADS_S = (600, 3000)
"""How often uploaded files are looked through, and from which age they go then: none gets older than an hour."""


def make_page(window: ShopWindow, title: str = "The shop") -> "gradio.Blocks":
    """The page; `show_page` serves it.

    Args:
        window: answers.
        title: shown on top.
    """
    import gradio as gr

    pressed: dict[str, Any] = {"js_on_load": look.CLICKS, "apply_default_css": False}
    page = gr.Blocks(title=title, analytics_enabled=False, delete_cache=DELETE_UPLOADS_S, fill_width=True)
    with page:
        history, number = gr.State([]), gr.State(0)
        gr.HTML(look.mast(title), apply_default_css=False, js_on_load=None)
        with gr.Row(elem_classes="searchbar"):
            words = gr.Textbox(label="Search", placeholder="What are you looking for?", max_length=2000, scale=5)
            find = gr.Button("Search", variant="primary", scale=0, min_width=110)
            by_image = gr.UploadButton(
                "Search by image", type="binary", file_types=["image"], scale=0, min_width=170, visible=window.encodes
            )
        said = gr.HTML(look.said(""), elem_id="said", apply_default_css=False, js_on_load=None)
        found = gr.HTML("", elem_id="found", visible=False, **pressed)
        past = gr.HTML(look.strip([]), elem_id="history", **pressed)
        with gr.Row(elem_classes="how"):
            balance = gr.Slider(
                0,
                1,
                0.5,
                step=0.05,
                label="What counts: words (left) or images (right)",
                visible=window.weighs,
                buttons=[],
            )
            explain = gr.Checkbox(True, label="Say why", scale=0, min_width=130)
        best = gr.HTML("", elem_id="recommended", **pressed)
        shop = gr.HTML("", elem_id="shop", **pressed)
        more = gr.Button("Show other items")
        with gr.Accordion("Put a new item into the shop", open=False, visible=window.takes_items):
            new_text = gr.Textbox(label="Title or description of the new item", max_length=2000)
            new_image = gr.File(
                label="Image of the new item", type="binary", file_types=["image"], height=120, elem_id="new_image"
            )
            add = gr.Button("Put it in", variant="primary")

        drawn = [history, past, best, said]

        def draw(clicks: list[str], weight: float, why: bool) -> tuple[Any, ...]:
            try:
                recommended, note = window.recommend(clicks, weight, why), look.said("")
            except ValueError as error:
                recommended, note = window.recommend([]), look.said(str(error), bad=True)
            return clicks, look.strip(window.shown(clicks)), look.shelf(recommended), note

        def press(clicks: list[str], weight: float, why: bool, event: gr.EventData) -> tuple[Any, ...]:
            does, item = getattr(event, "do", None), getattr(event, "item", None)
            if does == "add":
                clicks = window.click(clicks, item)
            elif does == "remove":
                clicks = [one for one in clicks if one != item]
            elif does == "clear":
                clicks = []
            return draw(clicks, weight, why)

        def browse(at: int) -> tuple[int, str]:
            return at, look.shelf(window.browse(at))

        def results(shelf: Shelf) -> tuple[Any, str]:
            return gr.HTML(look.shelf(shelf, f"{len(shelf.items)} items"), visible=True), look.said(shelf.heading)

        def search(text: str | None = None, image: bytes | None = None) -> tuple[Any, str]:
            try:
                return results(window.search(text, image))
            except ValueError as error:
                return gr.HTML(visible=False), look.said(str(error), bad=True)

        def put(text: str, image: bytes | None, clicks: list[str], weight: float, why: bool) -> tuple[Any, ...]:
            try:
                item, note = window.put(text, image, clicks)
            except ValueError as error:
                return *draw(clicks, weight, why)[:3], look.said(str(error), bad=True), gr.HTML(), text, image, 0, ""
            shown = gr.HTML(look.shelf(Shelf([item], "Just in")), visible=True)
            return *draw(clicks, weight, why)[:3], look.said(note), shown, "", None, *browse(0)

        how: list[Any] = [balance, explain]
        for shelf in (found, past, best, shop):
            # Every click counts, however quick: they wait in line, and each reads the history that the last one left.
            shelf.click(
                press, [history, *how], drawn, trigger_mode="multiple", concurrency_limit=1, show_progress="hidden",
                api_visibility="private",
            )  # fmt: skip
        for control in how:
            control.change(
                draw, [history, *how], drawn, trigger_mode="always_last", show_progress="hidden",
                api_visibility="private",
            )  # fmt: skip
        gr.on([find.click, words.submit], search, [words], [found, said], api_visibility="private")
        by_image.upload(lambda image: search(image=image), [by_image], [found, said], api_visibility="private")
        more.click(lambda at: browse(at + 1), [number], [number, shop], api_visibility="private")
        add.click(
            put, [new_text, new_image, history, *how], [*drawn, found, new_text, new_image, number, shop],
            api_visibility="private",
        )  # fmt: skip
        page.load(draw, [history, *how], drawn, show_progress="hidden", api_visibility="private")
        page.load(browse, [number], [number, shop], show_progress="hidden", api_visibility="private")
    return page
