"""How many requests share a batch: what free memory holds, and half of it when that was too much."""

from __future__ import annotations

import logging

import torch

from sow.errors import UserError
from sow.models.backbone import Backbone
from sow.pipeline.memory import host_memory
from sow.types import Canvas

log = logging.getLogger(__name__)

# Activations alive at once, in copies of the first level's feature map: a UNet's skip connections, the widest
# of its feed-forward layers and attention; a decoder's last blocks. Rounded up: a batch that fails costs more
# than one too small.
UNET_COPIES = 64
DECODER_COPIES = 8
SHARE = 0.8  # of free memory; the rest is for workspaces and fragmentation
LARGEST = 16  # beyond it a batch gains nothing


def automatic_batch_size(backbone: Backbone, canvas: Canvas, branches: int) -> int:
    """The number of requests, 1..16, whose activations fit free memory; `branches` rows of each in a UNet
    call."""
    size = torch.empty((), dtype=backbone.dtype).element_size()
    height, width = canvas.latent_size
    unet = UNET_COPIES * branches * backbone.widest(height, width) * size
    decoder = DECODER_COPIES * canvas.height * canvas.width * backbone.vae.config.block_out_channels[0] * size
    found = int(SHARE * free_memory(backbone.device) / max(unet, decoder))
    chosen = max(1, min(LARGEST, found))
    log.info("batch_size %d: %.2f GiB free", chosen, free_memory(backbone.device) / 2**30)
    return chosen


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return host_memory()


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on a device or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def release(backbone: Backbone) -> None:
    """Give back the device's memory that is not in use."""
    if backbone.device.type == "cuda":
        torch.cuda.empty_cache()


def halved(canvas: Canvas, count: int) -> int:
    """Half of a batch of `count` that memory did not hold; raises UserError where it was one request."""
    if count == 1:
        raise UserError(
            f"out of memory with one request of {canvas.width} x {canvas.height} pixels: try a smaller "
            "canvas, model.dtype=float16, model.vae_tiling=true or model.cpu_offload=true (width, height, "
            "model)"
        )
    log.warning("out of memory with %d requests in a batch: going on with %d (batch_size)", count, count // 2)
    return count // 2
