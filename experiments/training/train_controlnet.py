"""`study=train_controlnet`: a ControlNet on Canny edges for the embedded model, trained on its own rendered figures.

The ControlNet starts as a copy of the frozen UNet's encoder with zero convolutions (Zhang et al. 2023, Sec. 3.1) and sees
the edges of whole pictures, or of the face alone on the background a visual condition is pasted on; half of its captions
are empty (Sec. 3.3). `method=controlnet_canny` uses it.

Three things differ from the authors', because a network this small has thousands of steps, not hundreds of thousands. The
layers that read the edges start at unit variance: by default each of them shrinks what it passes on, and behind eight of
them thin edges are next to nothing. Every noise level counts about alike (`denoising_loss`), or the early steps, which
place things, hardly count. Muon takes the steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sow.errors import UserError
from sow.store.files import atomic_folder, place_of
from sow.store.fingerprint import fingerprint
from sow.types import Bound, component

from ..core.fields import Count, Share

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from sow.models.backbone import Backbone
    from sow.people.training.latents import Batch

    from ..core.study import StudyContext


LEVELS = (200, 400, 600, 700, 800, 850, 900, 950)  # timesteps of the held-out losses


@dataclass(frozen=True, eq=False)
class Pool:
    """Rendered figures: `latents` (n, C, h, w), and `edges` (n, 2, H, W) uint8 of each picture and of its face alone."""

    latents: Tensor
    edges: Tensor
    attributes: list[Any]


@component("study")
class TrainControlNet:
    """A training of `minutes` in all; it goes on where `folder` left off with the same model.

    `pictures` rendered figures in the pool; `held_out`
    others, on which the losses are compared; `batch` of a step; `learning_rate` after `warmup` steps, falling to zero over the last `decay` of the time; `average` of the weights'
    moving average; `gamma`, `balance` as in `denoising_loss`; `empty` share of captions left out; `face_only` share of
    pictures that show the edges of the face alone; `precision` of the products; `low`, `high` Canny's thresholds;
    `channels` of the layers that read the edges, the last at latent size; `save_every` seconds between saves; `start`
    folder of a ControlNet of the same shape to go on from, None = the model's own encoder; `output` folder of the
    finished ControlNet, None = controlnet in the run's folder.
    """

    minutes: Annotated[float, Bound(gt=0)]
    pictures: Count
    held_out: Count
    batch: Count
    learning_rate: Annotated[float, Bound(gt=0)]
    warmup: Count
    decay: Annotated[float, Bound(gt=0, le=1)]
    average: Share
    gamma: float
    balance: float
    empty: Share
    face_only: Share
    precision: Literal["float32", "bfloat16"]
    low: float
    high: float
    channels: list[int]
    save_every: float
    seed: int
    start: str | None
    folder: str
    output: str | None

    def files(self) -> list[str]:
        """The ControlNet to go on from; `folder` holds this study's own state."""
        return [self.start] if self.start else []

    def run(self, context: StudyContext) -> None:
        """Train, save, report the losses on held-out figures beside the model's own."""
        from sow.people.training.export import carry_over, forget_origin
        from sow.people.training.figures import HELD_OUT_SEEDS, TRAINING_SEEDS
        from sow.report import figures
        from sow.store.checksums import write_checksums

        sampler = context.sampler()
        backbone, side = sampler.backbone, sampler.canvas.width
        with context.timed("figures"):
            pool = self.figures(backbone, side, TRAINING_SEEDS, self.pictures)
            held_out = self.figures(backbone, side, HELD_OUT_SEEDS, self.held_out)
        schedule = sampler.method.noise_schedule
        lesson = Lesson(backbone, schedule.alphas_cumprod, schedule.prediction_type)
        with context.timed("train"):
            net, step, loss = self.train(lesson, pool)
        with context.timed("measure"):
            ratios = self.measure(lesson, net, held_out)
        place = place_of(self.output, "study.output") if self.output else context.folder.path / "controlnet"
        with atomic_folder(place) as fresh:
            net.half().save_pretrained(fresh)
            forget_origin(fresh / "config.json")
            carry_over(place, fresh)
            write_checksums(fresh)
        context.folder.save_json(
            "metrics.json",
            {"steps": step, "samples": step * self.batch, "loss": loss, "levels": LEVELS, "ratios": ratios},
        )
        path = figures.save(context.folder, "controlnet", drawn(ratios, self.held_out))
        context.tracked.images({"controlnet": path})
        steered = ", ".join(
            f"{v[LEVELS.index(850)]:.2f} with the edges of the {k}" for k, v in ratios.items()
        )
        context.console.print(
            f"{place}: {step} steps{'' if loss else ', none of them in this run, for its minutes are over'} (study.minutes); "
            f"held-out loss over the model's own at t = 850: {steered}"
        )

    def figures(self, backbone: Backbone, side: int, first: int, count: int) -> Pool:
        """`count` rendered figures from seed `first` on."""
        import numpy as np
        import torch
        from tqdm import tqdm

        from sow.baselines.controlnet import edges
        from sow.people.drawing.render import GRAY, render

        latents, maps, attributes = [], [], []
        for i in tqdm(range(count), desc="figures", disable=None):
            made = render(first + i, side)
            face = np.where(made.face_mask[..., None], made.image, np.uint8(GRAY))
            whole, alone = (
                torch.from_numpy(a.copy()).permute(2, 0, 1).float() / 127.5 - 1 for a in (made.image, face)
            )
            latents.append(backbone.encode(whole[None]))
            both = [edges(picture, self.low, self.high)[0] * 255 for picture in (whole, alone)]
            maps.append(torch.stack(both).to(torch.uint8))
            attributes.append(made.attributes)
        return Pool(torch.cat(latents).float(), torch.stack(maps), attributes)

    def train(self, lesson: Lesson, pool: Pool) -> tuple[Any, int, float | None]:
        """The averaged ControlNet, its steps in all, and the mean loss of this run's last hundred; None without a step."""
        import torch
        from tqdm import tqdm

        from sow.people.training.checkpoint import LossFile, pack, save_state, unpack
        from sow.people.training.muon import Muon
        from sow.people.training.pace import Average, Pace

        net = self.fresh(lesson.backbone, pool)
        average = Average(net.parameters(), self.average)
        optimizer = Muon(net.parameters(), lr=self.learning_rate)
        pace = Pace(self.minutes, warmup=self.warmup, decay=self.decay)
        path = self.state(lesson.backbone)
        step, seen = unpack(path, net, average, optimizer, pace)
        losses = LossFile(path.with_suffix(".csv"))
        recent: list[float] = []
        saved = time.monotonic()
        bar = tqdm(desc="controlnet", initial=step, unit="step", disable=None)
        with lesson.plain_attention(net):
            while (share := pace.tick()) < 1:
                batch, control = self.batch_of(lesson, pool, step)
                with lesson.autocast(self.precision):
                    loss = lesson.losses(net, batch, control, self.gamma, self.balance)[0]
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * pace.factor(step, share)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                average.update(step)
                step, seen = step + 1, seen + self.batch
                recent = [*recent[-99:], loss.item()]
                losses.add(loss=loss.item())
                bar.update()
                if step % 50 == 0:
                    bar.set_postfix(loss=f"{losses.write(step, share=share, seen=seen)['loss']:.4f}")
                if time.monotonic() - saved > self.save_every:
                    save_state(path, pack(net, average, optimizer, step, pace, seen))
                    saved = time.monotonic()
        if not step:
            raise UserError(f"no step in {self.minutes} minutes: give more (study.minutes)")
        save_state(path, pack(net, average, optimizer, step, pace, seen))
        average.swap()
        return net.eval(), step, sum(recent) / len(recent) if recent else None

    def state(self, backbone: Backbone) -> Path:
        """Where the training's state lies: a file for each model and size of the layers that read the edges."""
        of = fingerprint([dict(backbone.unet.state_dict()), list(self.channels)])
        return place_of(self.folder, "study.folder") / f"{of[:12]}.pt"

    def fresh(self, backbone: Backbone, pool: Pool) -> Any:
        """The ControlNet before its first step: float32, its residuals zero unless it goes on from `start`."""
        import torch
        from diffusers import ControlNetModel

        from sow.people.training.denoiser import begin_from

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = ControlNetModel.from_unet(
                backbone.unet, conditioning_embedding_out_channels=tuple(self.channels)
            )
            spread_out(net.controlnet_cond_embedding, pool.edges[:64, :1].float() / 255)
        if self.start:
            begun = ControlNetModel.from_pretrained(
                place_of(self.start, "study.start"), torch_dtype=torch.float32
            )
            begin_from(net, begun.state_dict(), self.start, "study.start")
        net = torch.nn.Module.to(net, device=backbone.device, dtype=torch.float32)
        return net.to(memory_format=torch.channels_last).train().requires_grad_(True)

    def batch_of(self, lesson: Lesson, pool: Pool, step: int) -> tuple[Batch, Tensor]:
        """What (seed, step) draws: the model's batch and the edges (B, 3, H, W) beside it."""
        import numpy as np
        import torch

        from sow.people.training.latents import Batch
        from sow.people.training.text import prompt_of

        rng = np.random.default_rng([self.seed, step])
        rows = rng.integers(len(pool.latents), size=self.batch)
        texts = ["" if rng.random() < self.empty else prompt_of(pool.attributes[i], rng) for i in rows]
        alone = torch.from_numpy((rng.random(self.batch) < self.face_only).astype(np.int64))
        latents = pool.latents[rows]
        noise = torch.from_numpy(rng.standard_normal(tuple(latents.shape), dtype=np.float32)).to(latents)
        timesteps = torch.from_numpy(rng.integers(len(lesson.alphas), size=self.batch)).to(latents.device)
        weights = torch.ones_like(latents[:, :1])
        batch = Batch(latents, noise, timesteps, lesson.prompts(texts), weights)
        return batch, lesson.control(pool.edges[torch.from_numpy(rows), alone])

    def measure(self, lesson: Lesson, net: Any, pool: Pool) -> dict[str, list[float]]:
        """The loss with the ControlNet over the model's own without it, on the same noise, at each of `LEVELS`."""
        import numpy as np
        import torch

        from sow.people.training.latents import Batch
        from sow.people.training.text import prompt_of

        rng = np.random.default_rng(self.seed)
        prompts = lesson.prompts([prompt_of(a, rng) for a in pool.attributes])
        noise = torch.from_numpy(rng.standard_normal(tuple(pool.latents.shape), dtype=np.float32))
        noise, weights = noise.to(pool.latents), torch.ones_like(pool.latents[:, :1])
        ratios: dict[str, list[float]] = {"whole picture": [], "face": []}
        with torch.no_grad(), lesson.autocast(self.precision):
            for level in LEVELS:
                timesteps = torch.full((len(noise),), level, device=noise.device)
                batch = Batch(pool.latents, noise, timesteps, prompts, weights)
                own = lesson.losses(None, batch, None, self.gamma, self.balance)[0]
                for k, values in enumerate(ratios.values()):
                    control = lesson.control(pool.edges[:, k])
                    steered = lesson.losses(net, batch, control, self.gamma, self.balance)[0]
                    values.append(float(steered / own))
        return ratios


@dataclass(frozen=True, eq=False)
class Lesson:
    """The frozen model and its schedule: what a ControlNet is trained against."""

    backbone: Backbone
    alphas: Tensor
    prediction: str

    def prompts(self, texts: list[str]) -> Tensor:
        """Embeddings (B, L, D) float32."""
        import torch

        # The backbone would keep every caption, and they seldom come twice.
        return torch.cat([self.backbone.encode_prompt(text) for text in texts]).float()

    def control(self, edges: Tensor) -> Tensor:
        """Edges (B, H, W) uint8 as a ControlNet takes them, (B, 3, H, W) of 0 and 1."""
        return (edges.to(self.backbone.device).float() / 255)[:, None].expand(-1, 3, -1, -1)

    def losses(
        self,
        net: Any | None,
        batch: Batch,
        control: Tensor | None,
        gamma: float,
        balance: float,
    ) -> tuple[Tensor, Tensor]:
        """`denoising_loss` of the frozen model with the residuals of `net`, or without any."""
        from sow.people.training.denoiser import denoising_loss

        alphas = self.alphas.to(batch.latents)

        def model(x: Tensor, t: Tensor, prompts: Tensor, return_dict: bool) -> tuple[Tensor]:
            own: dict[str, Any] = self.backbone.unet_inputs(x, prompts)
            more: dict[str, Any] = {}
            if net is not None:
                down, middle = net(x, t, controlnet_cond=control, return_dict=False, **own)
                more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            output = self.backbone.unet(x, t, return_dict=False, **own, **more)[0]
            if self.prediction == "epsilon":
                return (output,)
            a = alphas[t].view(-1, 1, 1, 1)
            return (a**0.5 * output + (1 - a) ** 0.5 * x,)  # epsilon of a predicted velocity

        return denoising_loss(model, batch, alphas, gamma=gamma, balance=balance)

    def autocast(self, precision: str) -> torch.autocast:
        """The products' precision."""
        import torch

        return torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    @contextmanager
    def plain_attention(self, net: Any) -> Iterator[None]:
        """The training's attention in both networks, and what was there before afterwards."""
        from sow.people.training.denoiser import PlainAttention

        networks = (self.backbone.unet, net)
        before = [dict(network.attn_processors) for network in networks]
        for network in networks:
            network.set_attn_processor(PlainAttention())
        try:
            yield
        finally:
            for network, processors in zip(networks, before, strict=True):
                network.set_attn_processor(processors)


def spread_out(embedding: Any, edges: Tensor) -> None:
    """Orthogonal weights for the layers that read edges (n, 1, H, W), scaled so that each passes on mean 0, variance 1.

    The last, which the authors set to zero, passes on a variance of 1/4; a fresh ControlNet's residuals stay zero behind
    its own zero convolutions.
    """
    import torch

    x = edges.expand(-1, 3, -1, -1)
    layers = [embedding.conv_in, *embedding.blocks, embedding.conv_out]
    with torch.no_grad():
        for layer in layers:
            matrix = torch.nn.init.orthogonal_(torch.empty(layer.out_channels, layer.weight[0].numel()))
            layer.weight.copy_(matrix.view(layer.weight.shape))
            layer.bias.zero_()
            layer.weight.div_(layer(x).std((0, 2, 3)).view(-1, 1, 1, 1) + 1e-3)
            layer.bias.sub_(layer(x).mean((0, 2, 3)))
            x = torch.nn.functional.silu(layer(x))
        embedding.conv_out.weight.mul_(0.5)
        embedding.conv_out.bias.mul_(0.5)


def drawn(ratios: dict[str, list[float]], count: int) -> Figure:
    """The curves of `measure` on `count` figures."""
    from sow.report import figures

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for name, values in ratios.items():
            axes.plot(LEVELS, values, marker="o", label=f"edges of the {name}")
        axes.axhline(1, color=figures.COLORS["gray"], linewidth=0.8)
        axes.set(
            xlabel="timestep", ylabel="loss with ControlNet / without", title=f"{count} held-out figures"
        )
        axes.legend()

    return figures.draw(5, 3.2, paint)
