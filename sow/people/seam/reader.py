"""The trained seam classifier."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sow.errors import UserError
from sow.models.loading import fill
from sow.people.seam.network import SeamNetwork, tensor, view
from sow.store.checksums import check_files, write_checksums

WEIGHTS = Path(__file__).with_name("weights.safetensors")


class SeamReader:
    """Batched reading of pictures of any size."""

    def __init__(self, network: SeamNetwork, batch: int = 64) -> None:
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.batch = batch

    @torch.no_grad()
    def read(
        self, images: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.bool_]]
    ) -> list[float | None]:
        """The probability in [0, 1] that what lies in each mask (H, W) was set into its picture (H, W, 3);
        None for an empty mask."""
        out: list[float | None] = [None] * len(images)
        known = [i for i, mask in enumerate(masks) if mask.any()]
        for start in range(0, len(known), self.batch):
            here = known[start : start + self.batch]
            logits = self.network(tensor([view(images[i], masks[i]) for i in here]))
            for i, p in zip(here, torch.sigmoid(logits).tolist(), strict=True):
                out[i] = p
        return out


def save_seam(path: Path, network: SeamNetwork, report: dict[str, Any]) -> None:
    """Write the weights in float16 with the report in their metadata, and their checksum beside them."""
    from safetensors.torch import save_file

    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    tensors = {k: v.detach().to(torch.float16).contiguous() for k, v in state.items()}
    save_file(tensors, str(path), metadata={"report": json.dumps(report)})
    write_checksums(path.parent, [path.name])


@lru_cache(maxsize=2)
def load_seam(path: Path = WEIGHTS) -> SeamReader:
    """The classifier whose weights ship with the package (loaded once); raises UserError where the file is
    missing or damaged."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(
            f"the seam classifier's weights are missing at {path}: run `python run.py study=train_seam` "
            "(metrics=people)"
        )
    check_files(path.parent, "metrics=people")
    network = SeamNetwork()
    state = {k: v.to(torch.float32) for k, v in load_file(str(path)).items()}
    fill(network, state, str(path), "metrics=people")
    return SeamReader(network)
