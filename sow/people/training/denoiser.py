"""The noise predictor: stock UNet2DConditionModel, trained to predict epsilon on Stable Diffusion 2.1-base's schedule."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from sow.errors import UserError
from sow.people.training.checkpoint import LossFile, Tracker, no_tracker, pack, save_state, unpack
from sow.people.training.latents import Batch, LatentStream
from sow.people.training.muon import Muon
from sow.people.training.pace import Average, Pace
from sow.people.training.recipes import DenoiserRecipe


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion 2.1-base's: 1000 steps, scaled-linear beta from 0.00085 to 0.012, epsilon prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def flow_schedule() -> FlowMatchEulerDiscreteScheduler:
    """Rectified flow's: x_t = (1 - t) x_0 + t n at even noise levels, the network told 1000 t."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def build_denoiser(
    recipe: DenoiserRecipe, latent_channels: int, text_width: int, side: int = 16
) -> UNet2DConditionModel:
    """A fresh UNet2DConditionModel with self- and cross-attention at every level; weights (seeded) in float32."""
    levels = len(recipe.channels)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return UNet2DConditionModel(
            sample_size=side,
            in_channels=latent_channels,
            out_channels=latent_channels,
            layers_per_block=recipe.layers,
            block_out_channels=recipe.channels,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            cross_attention_dim=text_width,
            attention_head_dim=tuple(
                c // recipe.head for c in recipe.channels
            ),  # the number of heads, in spite of its name
            use_linear_projection=True,
            norm_num_groups=recipe.groups,
        )


def begin_from(model: torch.nn.Module, weights: dict[str, torch.Tensor], name: str, key: str) -> None:
    """Take the weights of a model of the same shape; raises UserError, naming a tensor, for another shape."""
    mine = model.state_dict()
    wrong = sorted(
        k
        for k in mine.keys() | weights.keys()
        if k not in mine or k not in weights or mine[k].shape != weights[k].shape
    )
    if wrong:
        raise UserError(
            f"{name} holds another network than is trained here: {len(wrong)} tensors differ, "
            f"among them {wrong[0]} ({key})"
        )
    model.load_state_dict(weights)


class PlainAttention:
    """Attention as two matrix products and a softmax.

    On a processor with bfloat16 arithmetic the fused kernel's backward pass takes a quarter of a training step; this
    form took a third less time for the whole step.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        weights = torch.softmax((query * attn.scale) @ key.transpose(-1, -2), dim=-1)
        return attn.to_out[0]((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


def denoising_loss(
    model: Callable[..., tuple[torch.Tensor]],
    batch: Batch,
    alphas_cumprod: torch.Tensor,
    *,
    gamma: float,
    balance: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted squared error of the predicted noise, and the same without the level's weight; scalars.

    The weight min(SNR, gamma) / SNR (1 + 1 / SNR)^balance is min-SNR's for balance = 0. Where nearly all is noise, the
    error of the noise is next to nothing whatever the picture; balance = 1/2 lets every level count about alike.
    """
    a = alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    predicted = model(noisy, batch.timesteps, batch.prompts, return_dict=False)[0]
    error = ((predicted.float() - batch.noise).square() * batch.weights).mean(dim=(1, 2, 3))
    snr = (a / (1 - a)).flatten()
    weight = snr.clamp(max=gamma) / snr * (1 + 1 / snr) ** balance
    return (error * weight).mean(), error.mean()


def velocity_loss(
    model: Callable[..., tuple[torch.Tensor]], batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error of the velocity n - x_0 at x_t = (1 - t) x_0 + t n, weighted by place and not; scalars.

    t is the logistic function of a normal variable (Esser et al. 2024, Sec. 3.1), a quantile for each of the batch's
    timesteps; the model is told 1000 t.
    """
    t = torch.special.ndtri((batch.timesteps.float() + 0.5) / 1000).sigmoid()
    u = t.view(-1, 1, 1, 1)
    noisy = ((1 - u) * batch.latents + u * batch.noise).contiguous(memory_format=torch.channels_last)
    predicted = model(noisy, 1000 * t, batch.prompts, return_dict=False)[0]
    error = (predicted.float() - (batch.noise - batch.latents)).square()
    return (error * batch.weights).mean(), error.mean()


def train_denoiser(
    recipe: DenoiserRecipe,
    work: Path,
    latents: Path,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    *,
    scale: float,
    latent_channels: int,
    track: Tracker = no_tracker,
    on_save: Callable[[UNet2DConditionModel, int], None] | None = None,
) -> Path:
    """Train until the budget is spent and return the checkpoint; `on_save` gets the averaged model after each save."""
    torch.set_num_threads(recipe.threads)
    on_card = recipe.device != "cpu"
    if on_card:
        torch.set_float32_matmul_precision("high")
    model = build_denoiser(recipe, latent_channels, encoder.config.hidden_size)
    if recipe.start is not None:
        begun = UNet2DConditionModel.from_pretrained(recipe.start, torch_dtype=torch.float32)
        begin_from(model, begun.state_dict(), recipe.start, "study.denoiser.start")
    torch.nn.Module.to(model, recipe.device)
    if not recipe.compile:
        model = model.to(memory_format=torch.channels_last)
    average = Average(model.parameters(), recipe.average)
    if not on_card:
        model.set_attn_processor(PlainAttention())
    optimizer = Muon(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    # Close-ups have sides of their own, for each of which the compiler would start again: they go uncompiled.
    whole = torch.compile(model, dynamic=False) if recipe.compile else model
    pace = Pace(recipe.minutes, recipe.until, recipe.warmup, recipe.decay)
    path = work / "state.pt"
    step, seen = unpack(path, model, average, optimizer, pace)
    stream = LatentStream(
        latents, encoder.requires_grad_(False).eval(), tokenizer, scale=scale, batch=recipe.batch,
        closeup_share=recipe.closeup_share, head_share=recipe.head_share, dropout=recipe.dropout, seed=recipe.seed,
        device=recipe.device,
    )  # fmt: skip
    alphas = noise_schedule().alphas_cumprod.to(recipe.device)
    losses = LossFile(work / "losses.csv", track)
    saved = time.monotonic()
    kind = torch.device(recipe.device).type
    bar = tqdm(desc="denoiser", initial=step, unit="step", mininterval=10)
    batches = stream.run(step)
    while (share := pace.tick()) < 1:
        batch = next(batches)
        predict = whole if batch.latents.shape[-1] == model.config.sample_size else model
        with torch.autocast(kind, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            if recipe.predicts == "velocity":
                loss, plain = velocity_loss(predict, batch)
            else:
                loss, plain = denoising_loss(
                    predict, batch, alphas, gamma=recipe.gamma, balance=recipe.balance
                )
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * pace.factor(step, share)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
        step, seen = step + 1, seen + len(batch.latents)
        losses.add(loss=loss.detach(), plain=plain.detach(), norm=norm.detach())
        bar.update()
        if step % 50 == 0:
            row = losses.write(step, share=share, seen=seen, spent=pace.spent, figures=stream.figures)
            bar.set_postfix(loss=f"{row['loss']:.4f}", plain=f"{row['plain']:.4f}", figures=stream.figures)
        if time.monotonic() - saved > recipe.save_every:
            save_state(path, pack(model, average, optimizer, step, pace, seen), recipe.state_part)
            _hand_over(model, average, step, on_save)
            saved = time.monotonic()
    save_state(path, pack(model, average, optimizer, step, pace, seen), recipe.state_part)
    _hand_over(model, average, step, on_save)
    return path


def _hand_over(
    model: UNet2DConditionModel,
    average: Average,
    step: int,
    on_save: Callable[[UNet2DConditionModel, int], None] | None,
) -> None:
    if on_save is not None:
        average.swap()
        on_save(model, step)
        average.swap()
