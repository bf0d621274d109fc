"""A server on 127.0.0.1 that speaks the wire formats of Gemini and of OpenAI's chat completions, for tests.

It answers every stage sensibly unless its script says otherwise, counts requests and keeps their bodies.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    """One request as it arrived: `stage`, the words, the PNG images, headers and the raw body."""

    provider: str
    path: str
    stage: str
    text: str
    images: tuple[bytes, ...]
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Act:
    """How to treat one request: a raw `text`, `fields` to put into the sensible answer, an HTTP `status` with
    a `message`, a `block`ed prompt, a reply cut off (`truncated`), or `hang` seconds of silence first."""

    text: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    block: bool = False
    truncated: bool = False
    hang: float = 0.0


@dataclass
class Stub:
    """The server's state: `script` is used up one act a request, then `default` holds."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    script: deque[Act] = field(default_factory=deque)
    default: Act = field(default_factory=Act)
    answer: Callable[[Call], dict[str, Any]] = field(default_factory=lambda: sensible)
    lock: Any = field(default_factory=threading.Lock)

    def next(self, *acts: Act) -> None:
        """Treat the coming requests like this, in order."""
        self.script.extend(acts)

    def stages(self) -> list[str]:
        """The stages that were asked for."""
        return [call.stage for call in self.calls]


def sensible(call: Call) -> dict[str, Any]:
    """An answer to a stage that a good model might give: boxes side by side, the body below them."""
    count = max(1, len(call.images))
    prompt = re.search(r'"""(.*?)"""', call.text, re.DOTALL)
    words = prompt.group(1) if prompt else ""
    size = re.search(
        r"(\d+) x (\d+) pixels(?:,| around|\.)", call.text.partition("canvas of ")[2] or call.text
    )
    width, height = (int(v) for v in size.groups()) if size else (512, 512)
    side = round(0.42 * min(width, height))
    boxes = [
        [round((i + 0.5) * width / count - side / 2), round(0.1 * height), side, side] for i in range(count)
    ]
    regions = [
        [b[0] - side // 4, b[1] + side - 8, round(1.5 * side), height - b[1] - side + 8] for b in boxes
    ]
    if "write each box as an object" in call.text:
        boxes, regions = (
            [dict(zip(("x", "y", "width", "height"), b, strict=True)) for b in listed]
            for listed in (boxes, regions)
        )
    return {
        "conditions": [{"subject": "person", "features": ["red hair", "glasses"]}] * count,
        "intensified_prompt": f"{words.rstrip('.')}, with red hair and glasses",
        "boxes": boxes,
        "regions": regions,
        "reason": "there is room for the body",
    }


@contextmanager
def serve() -> Iterator[Stub]:
    """A running stub; `stub.url` is its address without a path."""
    stub = Stub()

    class Handler(_Handler):
        state = stub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        provider = "openai" if self.path.endswith("/chat/completions") else "gemini"
        if provider == "gemini" and ":generateContent" not in self.path:
            self._send(404, {"error": {"code": 404, "message": "no such method", "status": "NOT_FOUND"}})
            return
        texts, images = (_openai_parts if provider == "openai" else _gemini_parts)(body)
        text = "\n".join(texts)
        call = Call(provider, self.path, _stage(text), text, tuple(images), dict(self.headers.items()), body)
        with self.state.lock:
            self.state.calls.append(call)
            act = self.state.script.popleft() if self.state.script else self.state.default
        if act.hang:
            time.sleep(act.hang)
        try:
            if act.status != 200:
                self._send(act.status, _error(provider, act), act.headers)
                return
            answer = self.state.answer(call)
            wanted = _FIELDS[call.stage]
            reply = json.dumps(
                {k: v for k, v in {**answer, **act.fields}.items() if k in wanted and v is not None}
            )
            reply = act.text if act.text is not None else reply
            reply = reply[: len(reply) // 2] if act.truncated else reply
            self._send(200, (_openai if provider == "openai" else _gemini)(reply, act))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up

    def _send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=UTF-8")
        self.send_header("content-length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


_FIELDS = {
    "recognition": {"conditions", "intensified_prompt"},
    "position": {"boxes", "reason"},
    "region": {"regions", "reason"},
    "single": {"conditions", "intensified_prompt", "boxes", "regions", "reason"},
}


def _stage(text: str) -> str:
    for number, stage in ((1, "recognition"), (2, "position"), (3, "region")):
        if f"Stage {number}," in text:
            return stage
    return "single"


def _gemini_parts(body: dict[str, Any]) -> tuple[list[str], list[bytes]]:
    parts = [p for c in body["contents"] for p in c["parts"]]
    data = [p.get("inlineData") or p.get("inline_data") for p in parts]
    images = [base64.b64decode(d["data"].replace("-", "+").replace("_", "/")) for d in data if d]
    return [p["text"] for p in parts if p.get("text")], images


def _openai_parts(body: dict[str, Any]) -> tuple[list[str], list[bytes]]:
    parts = [p for m in body["messages"] for p in m["content"]]
    urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
    images = [base64.b64decode(u.partition("base64,")[2]) for u in urls]
    return [p["text"] for p in parts if p["type"] == "text"], images


def _gemini(text: str, act: Act) -> dict[str, Any]:
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 50, "totalTokenCount": 1050}
    if act.block:
        return {
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
            "usageMetadata": {"promptTokenCount": 1000},
        }
    return {
        "candidates": [
            {
                "content": {"parts": [{"text": text}], "role": "model"},
                "finishReason": "MAX_TOKENS" if act.truncated else "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": usage,
        "modelVersion": "stub",
    }


def _openai(text: str, act: Act) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    finish = "length" if act.truncated else "stop"
    if act.block:
        message, finish = {"role": "assistant", "content": None, "refusal": "I cannot help with that"}, "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050},
    }


_STATUS = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}


def _error(provider: str, act: Act) -> dict[str, Any]:
    if provider == "openai":
        return {"error": {"message": act.message, "type": "error", "param": None, "code": None}}
    return {
        "error": {"code": act.status, "message": act.message, "status": _STATUS.get(act.status, "UNKNOWN")}
    }
