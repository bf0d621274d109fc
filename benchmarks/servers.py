"""Servers that refuse, hang, or answer every request with one status: what a W&B server may do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def refusing() -> Iterator[str]:
    """A port where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def server(status: int | None) -> Iterator[str]:
    """A server that answers every request with `status`; None accepts a connection and never answers."""
    if status is None:
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        return

    code: int = status

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(code)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *words: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
