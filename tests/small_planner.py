"""A language model's planner against a server on this machine, for its tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from stub_models import Stub, serve

from sow.config.compose import compose
from sow.planner.mllm import MLLM
from sow.types import Canvas, Request, VisualCondition

CANVAS = Canvas(512, 512, 8, 184, 256)


KEY = "AIzaSyPlanted-0123456789-abcdefghij"


WORDS = {
    "genai": ["planner=gemini"],
    "generativeai": ["planner=gemini", "planner.sdk=google-generativeai"],
    "openai": ["planner=openai", "planner.model=some-vision-model"],
}


THREE = ["recognition", "position", "region"]


@pytest.fixture(scope="module")
def configured() -> dict[str, MLLM]:
    return {name: compose([*words, "tracker=none"]).planner for name, words in WORDS.items()}


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serve() as running:
        yield running


@pytest.fixture(params=list(WORDS))
def provider(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


@pytest.fixture
def make(stub: Stub, configured: dict[str, MLLM], tmp_path: Path) -> Callable[..., MLLM]:
    """The planner of a provider, pointed at the stub, impatient, with a store of its own."""

    def build(provider: str = "openai", **changes: Any) -> MLLM:
        url = stub.url + ("/v1" if provider == "openai" else "")
        quick = {"base_url": url, "store": tmp_path / "plans", "backoff": 0.01, "retries": 3, "budget": 60.0}
        return replace(configured[provider], **{**quick, **changes})

    return build


def ask(*conditions: VisualCondition, prompt: str = "a person in a forest.", seed: int = 0) -> Request:
    return Request(conditions or (face(),), prompt, seed=seed)


def face(color: str = "red", size: tuple[int, int] = (100, 100), **more: Any) -> VisualCondition:
    return VisualCondition(Image.new("RGB", size, color), **more)
