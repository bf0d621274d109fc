"""Packages that the command line puts off are the same ones, later."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from sow.config.imports import PACKAGES, PutOff, put_off

put_off(), put_off()
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

waiting = {name for name in PACKAGES if isinstance(sys.modules.get(name), PutOff)}
assert {"torch._dynamo", "diffusers.models.transformers", "transformers.loss.loss_utils"} <= waiting, waiting
assert "torch._dynamo.eval_frame" not in sys.modules
seen = sys.modules["torch._dynamo"]

double = torch.compile(lambda x: 2 * x, backend="eager")
assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))
assert sys.modules["torch._dynamo"] is seen is torch._dynamo and not isinstance(seen, PutOff)
from diffusers.models.attention import BasicTransformerBlock
from torch._dynamo.trace_rules import is_callable_allowed
assert is_callable_allowed(BasicTransformerBlock)

from diffusers.models.transformers import PixArtTransformer2DModel
import diffusers
assert diffusers.PixArtTransformer2DModel is PixArtTransformer2DModel
import scipy.stats
assert abs(scipy.stats.norm.cdf(0.0) - 0.5) < 1e-12
from transformers.modeling_utils import LOSS_MAPPING
assert callable(LOSS_MAPPING["ForCausalLM"]) and len(LOSS_MAPPING) > 10 and "nothing" not in LOSS_MAPPING
print("fine")
"""
LORA = """
import sys
from importlib.util import find_spec
from sow.config.imports import PutOff, put_off

put_off()
from diffusers.loaders import lora_base
from diffusers import UNet2DConditionModel
import torch
if find_spec("peft") is not None:
    waiting = {name for name in ("peft", "peft.tuners") if isinstance(sys.modules[name], PutOff)}
    assert waiting == {"peft", "peft.tuners"} and "peft.peft_model" not in sys.modules
    net = torch.nn.Sequential(torch.nn.Linear(4, 4))
    assert not isinstance(net[0], lora_base.BaseTunerLayer)
    from peft import LoraConfig, inject_adapter_in_model
    made = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), net)
    assert isinstance(made[0], lora_base.BaseTunerLayer) and not isinstance(net, lora_base.BaseTunerLayer)
    from peft.tuners.tuners_utils import BaseTunerLayer
    assert isinstance(made[0], BaseTunerLayer) and not isinstance(sys.modules["peft"], PutOff)
print("fine")
"""

# A module of a package comes first, whatever it is: a whole pipeline asks diffusers.hooks for peft.helpers.
MODULES = """
import sys
from importlib.util import find_spec
from sow.config.imports import PutOff, put_off

put_off()
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
import diffusers
assert all(getattr(diffusers, name) for name in LOADABLE_CLASSES["diffusers"])
if find_spec("peft") is not None:
    import peft.helpers
    import peft.peft_model
    assert peft.PeftModel is peft.peft_model.PeftModel is peft.helpers.PeftModel
    assert not isinstance(peft.helpers.__spec__.loader, sys.modules["sow.config.imports"].Found)
import torch
import torch._dynamo.eval_frame as frame
assert torch._dynamo.eval_frame is frame and frame.optimize is torch._dynamo.optimize
print("fine")
"""


@pytest.mark.parametrize("program", [PROGRAM, LORA, MODULES], ids=["the libraries", "peft", "modules first"])
def test_what_is_put_off_is_there_when_asked_for(program: str) -> None:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout == "fine\n", result.stderr[-2000:]
