"""Trains the embedded world's latent diffusion model from renders alone,
exports and measures it: `study=train_people`."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.people.training.recipes import (
    AutoencoderRecipe,
    DenoiserRecipe,
    EvaluationRecipe,
    FigureRecipe,
    TextRecipe,
)
from sow.report.blocks import write_block
from sow.store.files import place_of
from sow.types import component

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    from sow.people.training.checkpoint import Tracker

PHASES = ("figures", "text", "autoencoder", "latents", "decoder", "denoiser", "export", "evaluate")


@component("study")
class TrainPeople:
    """The phases named in `phases`, each of which goes on where `folder` left off; the numbers are in
    `recipes`.

    `figures` and `latents` run in processes beside the others, which wait for what they need. Phases may also
    be run one by one, in several terminals at a time, on the same `folder`. Raises UserError for an unknown
    phase.
    """

    phases: list[str]
    folder: str
    output: str
    grid_minutes: float
    figures: FigureRecipe
    autoencoder: AutoencoderRecipe
    decoder: AutoencoderRecipe
    text: TextRecipe
    denoiser: DenoiserRecipe
    evaluation: EvaluationRecipe

    def __post_init__(self) -> None:
        wrong = [p for p in self.phases if p not in PHASES]
        if wrong or not self.phases:
            raise UserError(f"phases are some of {', '.join(PHASES)}, got {self.phases} (study.phases)")

    def run(self, context: Any = None) -> None:
        """Run the phases; numbers end in `folder`/evaluation.json and in the run's folder."""
        track = _tracker(context)
        beside = []
        for phase in (p for p in PHASES if p in self.phases):
            if phase in ("figures", "latents"):
                parts = range(self.figures.workers)
                beside += [_beside(_RUN_BESIDE[phase], self, (k, len(parts))) for k in parts]
            else:
                getattr(self, "_" + phase)(lambda values, step, stage=phase: track(stage, values, step))
        for process in beside:
            process.join()
            if process.exitcode:
                raise RuntimeError(f"a process that makes shards ended with status {process.exitcode}")
        report = place_of(self.folder, "study.folder") / "evaluation.json"
        if context is not None and "evaluate" in self.phases:
            numbers = json.loads(report.read_text())
            context.folder.save_json("evaluation.json", numbers)
            context.tracked.summary(_flat(numbers))

    @property
    def _work(self) -> Path:
        return place_of(self.folder, "study.folder")

    def _text(self, track: Tracker) -> None:
        from sow.people.training.text import train_text_encoder

        train_text_encoder(self.text, self._work / "text", track)

    def _autoencoder(self, track: Tracker) -> None:
        from sow.people.training.autoencoder import load_average, settle_latents, train_autoencoder
        from sow.people.training.figures import held_out_images, read_shard

        state = train_autoencoder(
            self.autoencoder, self._work / "figures", self._work / "autoencoder", held_out_images(48), track
        )
        model = load_average(state, self.autoencoder)
        first = sorted((self._work / "figures").glob("*-scene-*.npz"))[0]
        settle_latents(model, read_shard(first)["images"]).save_pretrained(self._work / "vae")

    def _decoder(self, track: Tracker) -> None:
        from sow.people.training.autoencoder import load_average, train_autoencoder
        from sow.people.training.figures import held_out_images

        recipe = replace(self.decoder, start=self.decoder.start or str(self._work / "vae"))
        state = train_autoencoder(
            recipe, self._work / "figures", self._work / "decoder", held_out_images(48), track
        )
        load_average(state, recipe).save_pretrained(self._work / "vae_tuned")

    def _denoiser(self, track: Tracker) -> None:
        from sow.people.training.denoiser import train_denoiser
        from sow.people.training.grids import people_grid

        vae = self._vae()
        encoder, tokenizer = self._text_parts()
        drawn = time.monotonic()

        def save(model: UNet2DConditionModel, step: int) -> None:
            nonlocal drawn
            model.save_pretrained(self._work / "denoiser" / "average")
            if time.monotonic() - drawn > 60 * self.grid_minutes:
                people_grid(self._pipeline(model), self._work / "grids" / f"{step:06d}.png")
                drawn = time.monotonic()

        train_denoiser(
            self.denoiser,
            self._work / "denoiser",
            self._work / "latents",
            encoder,
            tokenizer,
            scale=1 / vae.config["scaling_factor"],
            latent_channels=vae.config["latent_channels"],
            track=track,
            on_save=save,
        )

    def _export(self, track: Tracker) -> None:
        from diffusers import UNet2DConditionModel

        from sow.people.training.export import export_weights

        unet = UNet2DConditionModel.from_pretrained(self._work / "denoiser" / "average")
        export_weights(
            place_of(self.output, "study.output"),
            self._vae(),
            *self._text_parts(),
            unet,
            self.denoiser.predicts,
        )

    def _evaluate(self, track: Tracker) -> None:
        import torch

        from sow.people.training.export import load_pipeline
        from sow.people.training.grids import people_grid

        from .people_evaluation import evaluate, markdown

        torch.set_num_threads(self.denoiser.threads)
        look = self.evaluation
        other = None if look.unet is None else Path(look.unet)
        pipeline = load_pipeline(place_of(self.output, "study.output"), other)
        people_grid(pipeline, Path(look.grid), steps=max(look.steps), guidance=look.guidance[0])
        numbers = evaluate(pipeline, self.evaluation)
        self._work.mkdir(parents=True, exist_ok=True)
        (self._work / "evaluation.json").write_text(json.dumps(numbers, indent=2) + "\n")
        text = markdown(numbers)
        (self._work / "evaluation.md").write_text(text)
        print(text)
        if look.publish:
            write_block((other or place_of(self.output, "study.output")) / "README.md", "measured", text)

    def _vae(self) -> AutoencoderKL:
        from diffusers import AutoencoderKL

        tuned, first = self._work / "vae_tuned", self._work / "vae"
        return AutoencoderKL.from_pretrained(tuned if tuned.exists() else first)

    def _text_parts(self) -> tuple[Any, Any]:
        from transformers import CLIPTextModel, CLIPTokenizer

        text = self._work / "text"
        encoder = CLIPTextModel.from_pretrained(text / "text_encoder")
        return encoder, CLIPTokenizer.from_pretrained(text / "tokenizer")

    def _pipeline(self, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
        from sow.people.training.export import assemble, schedule_of

        scheduler = schedule_of(self.denoiser.predicts)
        return assemble(self._vae(), *self._text_parts(), unet, scheduler)


def _render(study: TrainPeople, part: tuple[int, int] = (0, 1)) -> None:
    from sow.people.training.figures import render_shards

    for _ in render_shards(Path(study.folder) / "figures", study.figures, part):
        pass


def _encode(study: TrainPeople, part: tuple[int, int] = (0, 1)) -> None:
    import torch
    from diffusers import AutoencoderKL

    from sow.people.training.latents import encode_shards

    torch.set_num_threads(1)
    work = Path(study.folder)
    while not (work / "vae" / "config.json").exists():
        time.sleep(5)
    model = AutoencoderKL.from_pretrained(work / "vae").eval()
    model = torch.nn.Module.to(model, study.denoiser.device).to(memory_format=torch.channels_last)
    _, tokenizer = study._text_parts()
    recipe = study.figures
    for _ in encode_shards(
        model, tokenizer, work / "figures", work / "latents",
        total=recipe.total, captions=recipe.captions, part=part,
    ):  # fmt: skip
        pass


_RUN_BESIDE = {"figures": _render, "latents": _encode}


def _beside(
    target: Callable[[TrainPeople, tuple[int, int]], None], study: TrainPeople, part: tuple[int, int]
) -> multiprocessing.process.BaseProcess:
    """Start `target` for a part of the shards in a process of its own at low priority."""
    process = multiprocessing.get_context("spawn").Process(target=_politely, args=(target, study, part))
    process.start()
    return process


def _politely(
    target: Callable[[TrainPeople, tuple[int, int]], None], study: TrainPeople, part: tuple[int, int]
) -> None:
    import cv2

    os.nice(10)
    cv2.setNumThreads(1)
    target(study, part)


def _tracker(context: Any) -> Callable[[str, dict[str, float], int], None]:
    def track(stage: str, values: dict[str, float], step: int) -> None:
        if context is not None:
            context.tracked.history([{f"{stage}/{name}": v for name, v in values.items()} | {"step": step}])

    return track


def _flat(numbers: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in numbers.items():
        flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return flat
