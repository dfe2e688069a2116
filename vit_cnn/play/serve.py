"""The page served to this machine's browser alone, which loads nothing from elsewhere and reports nothing."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vit_cnn.play.page import page
from vit_cnn.play.show import CSS
from vit_cnn.play.stage import Stage

LARGEST_FILE = "50mb"
ONLY_FROM_HERE = b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"


class OnlyFromHere:
    """Tells the browser to load nothing from elsewhere, and to send nothing there."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", ONLY_FROM_HERE)]
            await send(message)

        await self.app(scope, receive, with_header)


def serve(stage: Stage, *, port: int | None, open_browser: bool) -> tuple[gr.Blocks, str]:
    """Start to serve the page; returns it, to be waited for or closed, and its address.

    Args:
        port: ``None`` for the first that is free.

    Raises:
        OSError: the port is taken.
    """
    blocks = page(stage)
    _, address, _ = blocks.launch(
        server_name="127.0.0.1",
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        max_file_size=LARGEST_FILE,
        theme=gr.themes.Default(
            primary_hue="slate", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),  # grey: colours are for the networks
        css=CSS,
        app_kwargs={"middleware": [Middleware(OnlyFromHere)]},
    )
    return blocks, address
