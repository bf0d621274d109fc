"""`sow demo`: a page in the browser that plans, draws, generates and compares, on any configured model.

It is served on 127.0.0.1 alone, to one user at a time; nothing is fetched or sent elsewhere. `sow.apps.desk`
is what it does, `sow.apps.page` what it looks like.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from sow.apps.desk import Desk, RunJob
from sow.config.words import key_of
from sow.errors import UserError

HOST, PORT = "127.0.0.1", 7860
LARGEST = "50mb"  # of an uploaded picture
FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # of the system: none is fetched
POLICY = (  # what the page may load, said to the browser: nothing from elsewhere
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; frame-ancestors 'none'"
)


def demo(words: Sequence[str], run_job: RunJob) -> int:
    """Serve the page until it is interrupted; `words` are the command line's, `port=` among them.

    Raises UserError for words that do not compose, a port that is taken, and without Gradio.
    """
    port, words = _port(words)
    desk = Desk(words, run_job)
    with tempfile.TemporaryDirectory(prefix="sow-demo-") as folder:
        # Read when Gradio is imported: uploads and shown pictures lie there, and are gone at the end.
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False")
        _need_gradio()
        print("loading the page", flush=True)
        made = launch(desk, port)
        print(f"the page is at http://{HOST}:{made.server_port} (Ctrl-C ends it)", flush=True)
        try:
            made.block_thread()
        except KeyboardInterrupt:
            print("ended", file=sys.stderr)
        finally:
            made.close(verbose=False)
    return 0


def launch(desk: Desk, port: int = 0) -> Any:
    """The page, served in a thread; `port` 0 = any free one."""
    import gradio as gr
    from starlette.middleware import Middleware

    from sow.apps.page import page

    os.environ.pop("GRADIO_ALLOWED_PATHS", None)  # which stands in for an empty list
    logging.getLogger("httpx").setLevel(logging.WARNING)
    blocks = page(desk)
    blocks.queue(default_concurrency_limit=1, max_size=8, api_open=False)
    blocks.launch(
        server_name=HOST,
        server_port=port or _free_port(),
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        allowed_paths=[],
        blocked_paths=[str(desk.outputs.absolute())],
        max_file_size=LARGEST,
        ssr_mode=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(font=FONTS[0], font_mono=FONTS[1]),
        app_kwargs={"middleware": [Middleware(OnlyHere)], "docs_url": None, "redoc_url": None},
    )
    return blocks


class OnlyHere:
    """An ASGI middleware: answers to this machine's names alone, tells the browser to load nothing from
    elsewhere, and has Gradio fetch nothing in its place."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")[0]
        if host not in (HOST, "localhost") or "://" in scope["path"]:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"forbidden"})
            return

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", []), policy]}
            await send(message)

        await self.app(scope, receive, sending)


def _port(words: Sequence[str]) -> tuple[int, list[str]]:
    given = [w for w in words if key_of(w) == "port"]
    if flags := [w for w in words if w.startswith("-")]:
        raise UserError(f"{flags[0]} is no word of the demo: words are key=value or group=option, port=7861")
    value = given[-1].partition("=")[2] if given else str(PORT)
    if not value.isdecimal() or int(value) > 65535:
        raise UserError(f"port={value} is no port: give a whole number from 0 (any free one) to 65535 (port)")
    port = int(value)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used: {error.strerror}; give port=0 (port)") from error
    return port, [w for w in words if w not in given]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _need_gradio() -> None:
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("the page needs Gradio: pip install '.[demo]' (or gradio>=6)") from error
