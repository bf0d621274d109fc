"""Values that are not finite are caught where they arise, with advice that fits the run; a new instance is
one more row."""

from __future__ import annotations

import logging

import pytest
import torch

from sow.config.compose import compose
from sow.errors import UserError
from sow.method import noise
from sow.models.tiny import Tiny


def tiny(dtype: str):
    return Tiny(dtype, "cpu", [128, 128], [180, 256], 0).load()


def picture() -> torch.Tensor:
    return noise.randn((1, 3, 64, 64), noise.generator(0), "cpu", torch.float32).clamp(-1, 1)


def overflowing(backbone, part: str, factor: float):
    """The model with activations of its autoencoder `factor` times as large inside, and the same result."""
    half = getattr(backbone.vae, part)
    with torch.no_grad():
        half.conv_in.weight.mul_(factor)
        half.conv_in.bias.mul_(factor)
    return backbone


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_autoencoder_that_overflows_is_run_again_in_float32(dtype, part, caplog):
    # bfloat16 has float32's range: its overflow is one of float32, and stays an error.
    backbone = overflowing(tiny(dtype), part, 3e5 if dtype == "float16" else 1e3)
    images = picture()
    latents = noise.randn((1, 4, 8, 8), noise.generator(1), "cpu", backbone.dtype)
    with caplog.at_level(logging.WARNING):
        made = backbone.encode(images) if part == "encoder" else backbone.decode(latents)
    assert made.isfinite().all()
    assert ("once more in float32" in caplog.text) == (dtype == "float16")
    assert {p.dtype for p in backbone.vae.parameters()} == {backbone.dtype}  # the model stays as it was
    if part == "decoder":
        assert made.std() > 0.01  # no black picture


@pytest.mark.parametrize(
    "dtype, cure, other",
    [
        ("float16", "model.dtype=float32 or bfloat16", "nothing"),
        ("bfloat16", "model.dtype=float32 ", "bfloat16"),
        ("float32", "precision is not the cause", "model.dtype"),
        ("float64", "precision is not the cause", "model.dtype"),
    ],
)
@pytest.mark.parametrize("where", ["decoder", "encoder", "text", "latents"])
def test_nan_is_one_line_with_advice_that_fits(dtype, cure, other, where):
    backbone = tiny(dtype)
    latents = noise.randn((1, 4, 8, 8), noise.generator(1), "cpu", backbone.dtype)
    with torch.no_grad():
        if where == "text":
            backbone.text_encoder.get_input_embeddings().weight[:] = float("nan")
        elif where == "latents":
            latents[0, 0, 0, 0] = float("nan")
        else:
            getattr(backbone.vae, where).conv_in.bias[0] = float("nan")
    with pytest.raises(UserError, match="not finite") as caught:
        if where == "text":
            backbone.embed(["a person"])
        elif where == "encoder":
            backbone.encode(picture())
        else:
            backbone.decode(latents)
    assert cure in str(caught.value) and other not in str(caught.value).replace(cure, "")


@pytest.mark.parametrize("dtype, advised", [("float32", False), ("float16", True)])
def test_latents_that_are_not_finite_name_the_step_and_fit_the_run(dtype, advised):
    from sow.pipeline.trace import Recorder
    from sow.types import Step, StepContext

    recorder = Recorder(tiny(dtype))
    recorder.add(Step(torch.full((1, 4, 8, 8), float("inf")), "denoise", StepContext("cycle", 2, 5, 401)))
    with pytest.raises(UserError, match="phase cycle, cycle 2, step 5") as caught:
        recorder.finish(1)
    assert ("model.dtype=float32" in str(caught.value)) == advised


def test_autocast_is_named_where_it_runs():
    backbone = tiny("float32")
    backbone.autocast = True
    assert "model.autocast=false" in backbone.precision_cure()


# Numbers of the command line that are none. A row: the word, whose key is named.

NO_NUMBERS = (
    "guidance.scale=.inf guidance.scale=1e400 gate.tau=nan p_plus.omega=-.inf preservation.eta=nan "
    "condition.box=[0,0,inf,20] condition.box=[nan,0,20,20] condition.box=[0,0,1e400,20] cycle.t1=nan "
    "cache.folder_mb=.inf modulation.resolutions=[.inf] seed=nan num_inference_steps=inf height=nan "
    "study.images=.inf"
).split()


@pytest.mark.parametrize("word", NO_NUMBERS)
def test_every_number_of_the_configuration_is_finite(word):
    key = word.partition("=")[0]
    with pytest.raises(UserError, match=rf"\({key}\)") as caught:
        compose(["experiment=debug", "tracker=none", word])
    assert "\n" not in str(caught.value)
