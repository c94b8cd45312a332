"""Serve the shop's page: on this machine alone by default, and nothing of it comes from elsewhere."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .shop_window import LARGEST_IMAGE, ShopWindow

if TYPE_CHECKING:
    from ..recommending.recommender import Recommender

SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_SHARE": "False"}


def require_demo() -> None:
    """Say what is missing.

    Raises:
        ValueError: the extra `demo` is not installed.
    """
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise ValueError("The page needs gradio; install it with `pip install 'vlm2rec-hf[demo]'`.")


def show_page(
    recommender: Recommender,
    *,
    title: str = "The shop",
    host: str = "127.0.0.1",
    port: int = 7860,
    k: int = 12,
    new_items: bool = True,
    listening: Callable[[str], None] = lambda address: None,
    block: bool = True,
) -> Any:
    """Serve a page on which a model recommends: click items, see what follows and why, search, put items in.

    Args:
        recommender: as `open_recommender` gives it.
        title: shown on top.
        host: address to listen on; by default nobody but this machine reaches it. There is no password.
        port: 0: a free one.
        k: how many items are recommended.
        new_items: whether visitors may put items into the index.
        listening: called with the page's address.
        block: wait until the process is told to stop.

    Returns:
        The Gradio application, which runs; `close()` ends it.

    Raises:
        ValueError: gradio is not installed, or the host or the port cannot be listened on.

    Example:
        ```python
        from vlm2rec_hf import open_recommender, show_page

        show_page(open_recommender("runs/quickstart"))  # doctest: +SKIP
        ```
    """
    require_demo()
    port = _port(host, port)
    os.environ.update(SETTINGS)
    if "GRADIO_TEMP_DIR" not in os.environ:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="vlm2rec-page-")
    import gradio as gr

    from . import look
    from .blocks import make_page

    page = make_page(ShopWindow(recommender, k=k, new_items=new_items), title)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=False,
            footer_links=[],
            max_file_size=LARGEST_IMAGE,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            inbrowser=False,
            theme=gr.themes.Base(primary_hue="blue", neutral_hue="stone", font=FONT, font_mono=["monospace"]),
            css=look.STYLE,
        )
    except OSError as error:
        raise _no_listening(host, port, error) from error
    listening(address.rstrip("/"))
    if block:
        page.block_thread()
    return page


FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
"""What the visitor's machine has; no font is fetched."""


def _port(host: str, port: int) -> int:
    """The port, a free one for 0.

    Raises:
        ValueError: it is none, or the host is none of this machine.
    """
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError(f"`port` must lie between 0 and 65535, got {port!r}.")
    if port:
        return port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as one:
        try:
            one.bind((host, 0))
        except OSError as error:
            raise _no_listening(host, port, error) from error
        return int(one.getsockname()[1])


def _no_listening(host: str, port: int, error: OSError) -> ValueError:
    return ValueError(f"`port` {port} of {host} cannot be listened on: {error}; name another, or 0.")
