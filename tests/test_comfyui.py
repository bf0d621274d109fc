"""The nodes for ComfyUI, against a stub of what they use of `comfy_api.latest`: it takes the documented
arguments alone, and calls `execute` with a node's inputs by name as ComfyUI does."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import save_tiny_pipeline
from PIL import Image

from sow import SOWPipeline, UserError

FILE = Path(__file__).parents[1] / "integrations" / "comfyui" / "__init__.py"
COMMON = {"display_name", "optional", "tooltip", "lazy", "extra_dict", "raw_link", "advanced"}
NUMBERS = {
    "default",
    "min",
    "max",
    "step",
    "control_after_generate",
    "display_mode",
    "socketless",
    "force_input",
}
OWN = {
    "Int": NUMBERS,
    "Float": {*NUMBERS, "round"},
    "String": {"default", "multiline", "placeholder", "dynamic_prompts", "socketless", "force_input"},
    "Combo": {"options", "default", "control_after_generate", "socketless"},
    "Image": set(),
    "Mask": set(),
}


def kind(name: str) -> SimpleNamespace:
    """One of io's types: what its Input and Output take, by name."""

    def given(id: str, **more: Any) -> SimpleNamespace:
        assert more.keys() <= COMMON | OWN.get(name, set()), (name, more)
        return SimpleNamespace(id=id, kind=name, optional=more.get("optional", False), more=more)

    def returned(id: str | None = None, display_name: str | None = None, tooltip: str | None = None) -> str:
        return name

    return SimpleNamespace(Input=given, Output=returned)


class Schema:
    def __init__(
        self,
        node_id: str,
        display_name: str,
        category: str,
        inputs: list[Any],
        outputs: list[Any],
        description: str = "",
    ) -> None:
        self.node_id, self.inputs, self.outputs = node_id, inputs, outputs


class NodeOutput:
    def __init__(self, *args: Any) -> None:
        self.args = args


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The extension's nodes by id, as ComfyUI finds them."""
    latest = ModuleType("comfy_api.latest")
    io = SimpleNamespace(
        **{name: kind(name) for name in OWN},
        Custom=kind,
        ComfyNode=type("ComfyNode", (), {}),
        Schema=Schema,
        NodeOutput=NodeOutput,
    )
    latest.io, latest.ComfyExtension = io, type("ComfyExtension", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy_api", ModuleType("comfy_api"))
    monkeypatch.setitem(sys.modules, "comfy_api.latest", latest)
    spec = importlib.util.spec_from_file_location(
        "sow_nodes", FILE, submodule_search_locations=[str(FILE.parent)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    async def found() -> list[Any]:
        return list(await (await module.comfy_entrypoint()).get_node_list())

    return {node.define_schema().node_id: node for node in asyncio.run(found())}


def executed(node: Any, **given: Any) -> tuple[Any, ...]:
    """What the node gives, its widgets at their defaults."""
    schema = node.define_schema()
    values = {i.id: i.more["default"] for i in schema.inputs if "default" in i.more} | given
    assert {i.id for i in schema.inputs if not i.optional} <= values.keys() <= {i.id for i in schema.inputs}
    out = node.execute(**values)
    assert isinstance(out, NodeOutput) and len(out.args) == len(schema.outputs)
    return out.args


def test_a_schema_names_what_execute_takes(nodes: dict[str, Any]) -> None:
    assert set(nodes) == {"SOWLoad", "SOWGenerate"}
    for node in nodes.values():
        taken = inspect.signature(node.execute).parameters
        inputs = node.define_schema().inputs
        assert [i.id for i in inputs] == list(taken)
        assert {i.id for i in inputs if i.optional} == {
            n for n, p in taken.items() if p.default is not p.empty
        }
        assert all(i.more["default"] in i.more["options"] for i in inputs if i.kind == "Combo")


def test_the_nodes_give_the_pipeline_s_pixels(nodes: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tiny_pipeline(tmp_path)
    (pipeline,) = executed(nodes["SOWLoad"], model=str(folder), device="cpu")
    assert isinstance(pipeline, SOWPipeline) and pipeline.unet.dtype == torch.float32
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).float() / 255
    mask = torch.zeros(1, 48, 48)
    mask[:, 8:40, 8:40] = 1
    box = {"x": 16, "y": 8, "width": 48, "height": 48}
    (made,) = executed(nodes["SOWGenerate"], pipeline=pipeline, image=image, mask=mask, seed=5, **box)
    assert (
        made.shape == (2, 128, 128, 3) and made.dtype == torch.float32 and 0 <= made.min() <= made.max() <= 1
    )
    expected = pipeline(
        "a person in a forest",
        Image.fromarray(pixels[1]),
        Image.fromarray((mask[0].numpy() * 255).astype(np.uint8)),
        box=[16, 8, 48, 48],
        negative_prompt="",
        generator=torch.Generator().manual_seed(6),
        output_type="np",
    ).images[0]
    assert np.array_equal(made[1].numpy(), expected)
    (planned,) = executed(nodes["SOWGenerate"], pipeline=pipeline, image=image[:1])
    assert planned.shape == (1, 128, 128, 3)
    with pytest.raises(UserError, match="canvas"):
        executed(nodes["SOWGenerate"], pipeline=pipeline, image=image, x=120, width=48, height=48)


def test_its_page_says_that_it_has_not_run() -> None:
    assert "have not run inside ComfyUI" in FILE.with_name("README.md").read_text()
