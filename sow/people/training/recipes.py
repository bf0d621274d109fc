"""The numbers of each training stage; their values live in conf/study/train_people.yaml. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Literal

from sow.errors import UserError
from sow.types import Bound, component


def _need(valid: bool, message: str) -> None:
    if not valid:
        raise UserError(message)


@component("study.figures")
class FigureRecipe:
    """How figures are rendered into shards, and how many.

    One shard in `closeup_every` holds close-ups (in colour or on mid-gray, alternating) with a side from
    `closeups`, the others whole scenes at `canvas`. Sizes are in pixels. `workers` processes render, and as many encode
    and write `captions` captions of every figure.
    """

    canvas: int
    closeups: tuple[int, ...]
    closeup_every: int
    shard: int
    total: Annotated[int, Bound(ge=1)]
    captions: Annotated[int, Bound(ge=1)]
    workers: Annotated[int, Bound(ge=1)]

    def __post_init__(self) -> None:
        sides = (self.canvas, *self.closeups)
        _need(
            all(s % 8 == 0 for s in sides), f"need sides that 8 divides, got {sides} (study.figures.closeups)"
        )

    def layout(self, index: int) -> tuple[str, int]:
        """Framing and side in pixels of shard `index`."""
        if index % self.closeup_every != 1:
            return "scene", self.canvas
        turn = index // self.closeup_every
        return ("closeup", "gray")[turn % 2], self.closeups[turn // 2 % len(self.closeups)]


@component("study.autoencoder")
class AutoencoderRecipe:
    """The autoencoder and its training on crops; with `decoder_only` the encoder stays what `start` holds."""

    latent_channels: int
    channels: tuple[int, ...]
    groups: int
    start_log_variance: float
    batch: int
    crop: int
    closeup_share: float
    learning_rate: float
    warmup: int
    l1: float
    kl: float
    features: float
    average: float
    minutes: float
    until: str | None
    decoder_only: bool
    start: str | None
    device: str
    pool: int
    seed: int
    threads: int

    def __post_init__(self) -> None:
        _need(self.crop % 8 == 0, f"need a crop that 8 divides, got {self.crop} (study.autoencoder.crop)")
        _need(
            len(self.channels) == 4,
            "need four levels of channels for the factor 8 (study.autoencoder.channels)",
        )


@component("study.text")
class TextRecipe:
    """The tokenizer, learnt from `captions` captions, the text encoder, and its training on captions alone.

    `start` is a folder with tokenizer/ and text_encoder/ to go on from; None learns both anew.
    """

    start: str | None

    vocabulary: Annotated[int, Bound(ge=600)]  # all bytes, and merges
    captions: int
    length: int
    hidden: int
    layers: int
    heads: int
    batch: int
    learning_rate: float
    warmup: int
    average: float
    empty: float
    noise: float
    minutes: float
    until: str | None
    seed: int
    threads: int

    def __post_init__(self) -> None:
        _need(
            self.hidden % self.heads == 0, f"need heads that divide hidden={self.hidden} (study.text.heads)"
        )


@component("study.denoiser")
class DenoiserRecipe:
    """The noise predictor and its training on latents by Muon; `start` is a folder of a UNet of the same shape to go on from.

    It `predicts` epsilon on Stable Diffusion's schedule, or the velocity of a rectified flow. `state_part` is the largest
    file of its state in MiB, None = one file; a state goes on on any device.
    """

    start: str | None
    device: str
    predicts: Literal["epsilon", "velocity"]
    compile: bool

    channels: tuple[int, ...]
    layers: int
    head: int
    groups: int
    batch: int
    learning_rate: float
    warmup: int
    decay: Annotated[float, Bound(gt=0, le=1)]
    weight_decay: float
    average: float
    gamma: float
    balance: float
    dropout: float
    closeup_share: float
    head_share: float
    minutes: float
    until: str | None
    save_every: float
    state_part: float | None
    seed: int
    threads: int
    precision: Literal["float32", "bfloat16"]

    def __post_init__(self) -> None:
        wrong = [c for c in self.channels if c % self.head or c % self.groups]
        _need(
            not wrong, f"need head and groups that divide the channels, got {wrong} (study.denoiser.channels)"
        )


@component("study.evaluation")
class EvaluationRecipe:
    """How much is measured, and how pictures are sampled for it."""

    figures: int
    inversions: int
    inversion_steps: int
    captions: int
    guidance: tuple[float, ...]
    steps: tuple[int, ...]
    grid: str
    unet: str | None
    publish: bool
