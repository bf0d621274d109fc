"""`study=train_controlnet`: a ControlNet on Canny edges for the embedded model, trained on its own rendered figures.

The ControlNet starts as a copy of the frozen UNet's encoder with zero convolutions (Zhang et al. 2023, Sec. 3.1) and sees
the edges of whole pictures, or of the face alone as where a visual condition is pasted; half of its captions are empty
(Sec. 3.3). `method=controlnet_canny method.path=...` uses it. 800 steps of 16 are too few: the zero convolutions have hardly opened.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.bounds import need_above, need_within
from sow.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.study import StudyContext
    from sow.backbone import Backbone


@dataclass(frozen=True, eq=False)
class Pool:
    """Training figures: `latents` (n, C, h, w), `edges` (n, 1, H, W) uint8, `faces` (n, 1, H, W) bool, the face's box."""

    latents: Tensor
    edges: Tensor
    faces: Tensor
    attributes: list[Any]


@dataclass(frozen=True)
class TrainControlNet:
    """A training of `minutes` in all; it goes on where `folder` left off.

    `pictures` rendered figures in the pool, every other one a portrait; `batch` of a step; `learning_rate`; `empty` share of
    captions left out; `face_only` share of pictures that show the edges of the face alone; `precision` of the products;
    `low`, `high` Canny's thresholds; `channels` of the layers that read the edges, the last but one at latent size;
    `save_every` seconds between saves; `output` folder of the finished ControlNet, None = controlnet in the run's folder.
    """

    minutes: float
    pictures: int
    batch: int
    learning_rate: float
    empty: float
    face_only: float
    precision: str
    low: float
    high: float
    channels: list[int]
    save_every: float
    seed: int
    folder: str
    output: str | None
    _target_: str = "experiments.train_controlnet.TrainControlNet"

    def __post_init__(self) -> None:
        need_above(self, "study", minutes=0, pictures=0, batch=0, learning_rate=0)
        need_within(self, "study", 0, 1, "empty", "face_only")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"need float32 or bfloat16, got {self.precision!r} (study.precision)")

    def files(self) -> list[str]:
        """None: the folder holds this study's own state."""
        return []

    def run(self, context: StudyContext) -> None:
        """Train, save, report the loss."""
        sampler = context.sampler()
        backbone, schedule = sampler.backbone, sampler.schedule
        with context.timed("figures"):
            pool = self.figures(backbone, sampler.canvas.width)
        net, losses = self.train(backbone, schedule.alphas_cumprod, schedule.prediction_type, pool, context)
        place = Path(self.output).expanduser() if self.output else context.folder.path / "controlnet"
        net.half().save_pretrained(place)
        if not losses:
            raise UserError(
                f"the training in {self.folder} has had its {self.minutes} minutes: give more, or another folder "
                "(study.minutes, study.folder)"
            )
        mean = sum(losses[-100:]) / len(losses[-100:])
        context.folder.save_json(
            "metrics.json", {"steps": len(losses), "loss": mean, "minutes": self.minutes}
        )
        context.console.print(
            f"{place}: {len(losses)} steps in this run, loss {mean:.4f} over the last hundred"
        )

    def figures(self, backbone: Backbone, side: int) -> Pool:
        """Rendered training figures."""
        import torch
        from tqdm import tqdm

        from sow.methods.baselines.controlnet import edges
        from sow.people.render import render
        from sow.people.training.figures import TRAINING_SEEDS

        latents, maps, faces, attributes = [], [], [], []
        for i in tqdm(range(self.pictures), desc="figures", disable=None):
            made = render(TRAINING_SEEDS + i, side, framing=("scene", "portrait")[i % 2])
            pixels = torch.from_numpy(made.image.copy()).permute(2, 0, 1).float() / 127.5 - 1
            latents.append(backbone.encode(pixels[None]))
            maps.append((edges(pixels, self.low, self.high)[:1] * 255).to(torch.uint8))
            face = torch.zeros((1, side, side), dtype=torch.bool)
            if made.face_box is not None:
                x, y, w, h = made.face_box
                face[:, y : y + h, x : x + w] = True
            faces.append(face)
            attributes.append(made.attributes)
        return Pool(torch.cat(latents), torch.stack(maps), torch.stack(faces), attributes)

    def train(
        self,
        backbone: Backbone,
        alphas: Tensor,
        prediction: str,
        pool: Pool,
        context: StudyContext,
    ) -> tuple[Any, list[float]]:
        """The ControlNet and the losses of this run's steps."""
        import torch
        from diffusers import ControlNetModel
        from tqdm import tqdm

        from sow.people.training.denoiser import PlainAttention

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            channels = tuple(self.channels)
            net = ControlNetModel.from_unet(backbone.unet, conditioning_embedding_out_channels=channels)
        net = (
            torch.nn.Module.to(net, device=backbone.device, dtype=torch.float32).train().requires_grad_(True)
        )
        net.set_attn_processor(PlainAttention())
        before = dict(backbone.unet.attn_processors)
        backbone.unet.set_attn_processor(PlainAttention())
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.learning_rate)
        path = Path(self.folder).expanduser() / "state.pt"
        step, spent = restore(path, net, optimizer)
        losses: list[float] = []
        saved = last = time.monotonic()
        bar = tqdm(desc="controlnet", initial=step, unit="step", disable=None)
        with context.timed("train"):
            while spent < 60 * self.minutes:
                with torch.autocast(
                    backbone.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
                ):
                    loss = self.loss(net, backbone, alphas, prediction, pool, step)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                losses.append(float(loss.detach()))
                now = time.monotonic()
                step, spent, last = step + 1, spent + now - last, now
                bar.update()
                if now - saved > self.save_every:
                    keep(path, net, optimizer, step, spent)
                    saved = now
        backbone.unet.set_attn_processor(before)
        keep(path, net, optimizer, step, spent)
        return net, losses

    def loss(
        self,
        net: Any,
        backbone: Backbone,
        alphas: Tensor,
        prediction: str,
        pool: Pool,
        step: int,
    ) -> Tensor:
        """The model's own loss with the ControlNet's residuals, on the batch that (seed, step) draws."""
        import numpy as np
        import torch

        from sow.people.training.text import prompt_of

        rng = np.random.default_rng([self.seed, step])
        rows = rng.integers(len(pool.latents), size=self.batch)
        texts = ["" if rng.random() < self.empty else prompt_of(pool.attributes[i], rng) for i in rows]
        alone = torch.from_numpy(rng.random(self.batch) < self.face_only).view(-1, 1, 1, 1)
        z = pool.latents[rows].float()
        e = torch.from_numpy(rng.standard_normal(tuple(z.shape), dtype=np.float32)).to(z)
        t = torch.from_numpy(rng.integers(len(alphas), size=self.batch)).to(z.device)
        a = alphas.to(z)[t].view(-1, 1, 1, 1)
        noisy = a**0.5 * z + (1 - a) ** 0.5 * e
        c = torch.cat([backbone._encode_prompt(text) for text in texts]).float()  # captions seldom come twice
        shown = pool.edges[rows] * (pool.faces[rows] | ~alone)
        control = (shown.to(z) / 255).expand(-1, 3, -1, -1)
        inputs = backbone.unet_inputs(noisy, c)
        down, middle = net(noisy, t, controlnet_cond=control, return_dict=False, **inputs)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        output = backbone.unet(noisy, t, return_dict=False, **inputs, **residuals)[0]
        target = e if prediction == "epsilon" else a**0.5 * e - (1 - a) ** 0.5 * z
        return torch.nn.functional.mse_loss(output, target)


def keep(path: Path, net: Any, optimizer: Any, step: int, spent: float) -> None:
    """Write the state under a temporary name and rename it."""
    from sow.people.training.checkpoint import save_state

    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": spent}
    save_state(path, state)


def restore(path: Path, net: Any, optimizer: Any) -> tuple[int, float]:
    """(step, seconds spent) of the state in `path`, taken up; (0, 0) where there is none."""
    import torch

    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["spent"])
