"""ControlNet (Zhang et al., ICCV 2023) on the Canny edges of the pasted condition, the paper's Table I."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sow.baselines.config import PEOPLE, ControlNetCanny, local_folder
from sow.baselines.sampler import BaselineSampler, Prepared
from sow.errors import UserError
from sow.method.denoiser import Denoiser
from sow.models import hub
from sow.models.backbone import Backbone
from sow.models.loading import load_whole
from sow.pipeline.factory import need_plain
from sow.store.checksums import check_files


def edges(picture: Tensor, low: float, high: float) -> Tensor:
    """Canny edges of a picture (3, H, W) in [-1, 1]: (3, H, W) of 0 and 1; thresholds on 8-bit gradients."""
    import cv2
    import numpy as np

    pixels = ((picture + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    found = torch.from_numpy(np.ascontiguousarray(cv2.Canny(pixels, low, high)))
    return (found > 0).float().expand(3, -1, -1)


def load(options: ControlNetCanny, backbone: Backbone) -> Any:
    """The ControlNet for this model; raises UserError where there is none, it cannot be loaded, or does not
    fit."""
    from diffusers import ControlNetModel

    unet = backbone.unet.config
    source = options.path or options.hub.get(str(unet.cross_attention_dim))
    if source is None:
        raise UserError(
            f"no ControlNet is known for a UNet of {unet.cross_attention_dim} text channels: give a folder "
            "or hub id with method.path=... (method.path)"
        )
    place = PEOPLE if source == "people" else local_folder(source) or source
    if place == source:
        hub.need(source, "config.json", "method.path")
    try:
        check_files(Path(place), "method.path")
        net = load_whole(ControlNetModel, str(place), "method.path", dtype=backbone.dtype)
    except UserError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot load the ControlNet {source}: {words}; give a folder in diffusers' format (method.path)"
        ) from error
    own = net.config
    for name in ("cross_attention_dim", "in_channels", "block_out_channels", "addition_embed_type"):
        ours, theirs = getattr(own, name), getattr(unet, name)
        if (list(ours) if isinstance(ours, (list, tuple)) else ours) != (
            list(theirs) if isinstance(theirs, (list, tuple)) else theirs
        ):
            raise UserError(
                f"the ControlNet {source} has {name}={ours} but the model {theirs}: give one trained for "
                "this model (method.path)"
            )
    return torch.nn.Module.to(net, device=backbone.device, dtype=backbone.dtype).eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class ControlNetSampler(BaselineSampler):
    """Plain sampling steered by the edges; no latent of the condition enters."""

    controlnet: Any = None

    @classmethod
    def loaded(cls, options: ControlNetCanny, backbone: Backbone) -> tuple[Backbone, dict[str, Any]]:
        need_plain(backbone)
        return backbone, {"controlnet": load(options, backbone)}

    @property
    def needs_latents(self) -> bool:
        return False

    def inputs(
        self, batch: Prepared, denoiser: Denoiser, rows: Tensor, k: int
    ) -> tuple[Tensor, dict[str, Any]]:
        if "edges" not in batch.kept:
            maps = [edges(p, self.options.low, self.options.high) for p in batch.pictures]
            batch.kept["edges"] = torch.stack(maps).to(self.backbone.device, self.backbone.dtype)
        control = torch.cat([batch.kept["edges"]] * (len(rows) // len(batch.known)))
        with torch.no_grad():
            down, middle = self.controlnet(
                rows,
                self.schedule.timesteps[k],
                controlnet_cond=control,
                conditioning_scale=self.options.scale,
                return_dict=False,
                **self.backbone.unet_inputs(rows, denoiser.embeds),
            )
        return rows, {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
