"""Text similarity with an open_clip model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sow.errors import UserError
from sow.metrics import Value
from sow.metrics.faces import resolve_device
from sow.types import Sample


@dataclass(frozen=True)
class ClipText:
    """CLIP cosine similarity of the image and the user's prompt c.

    `pretrained` is a tag of open_clip or a weight file; it is required, because open_clip would measure with random
    weights without it.
    """

    model: str
    pretrained: str
    cache_dir: str | None
    device: str
    batch_size: int

    def __post_init__(self) -> None:
        if not self.pretrained:
            raise UserError(
                f"metrics.pretrained is empty: name the weights of {self.model}, for example laion2b_s34b_b79k"
            )

    def check(self) -> None:
        """Raises UserError when the model is unknown or its weights are not on disk and cannot be fetched."""
        self._load()

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Value]]:
        """`text_similarity` in [-1, 1], one row a sample."""
        import torch

        model, transform, tokenizer = self._load()
        device = resolve_device(self.device)
        rows: list[dict[str, Value]] = []
        for start in range(0, len(samples), self.batch_size):
            chunk = samples[start : start + self.batch_size]
            pixels = torch.stack([transform(s.image) for s in chunk]).to(device)
            tokens = tokenizer([s.request.prompt for s in chunk]).to(device)
            with torch.no_grad():
                image = torch.nn.functional.normalize(model.encode_image(pixels).float(), dim=-1)
                text = torch.nn.functional.normalize(model.encode_text(tokens).float(), dim=-1)
            rows.extend({"text_similarity": float(v)} for v in (image * text).sum(-1).cpu())
        return rows

    def _load(self) -> tuple[Any, Any, Any]:
        return _load(self.model, self.pretrained, self.cache_dir, resolve_device(self.device))


@lru_cache(maxsize=2)
def _load(name: str, pretrained: str, cache_dir: str | None, device: str) -> tuple[Any, Any, Any]:
    import open_clip

    if name not in open_clip.list_models():
        raise UserError(
            f"open_clip has no model {name}: choose from {', '.join(open_clip.list_models()[:12])}, ... (metrics.model)"
        )
    is_file = Path(pretrained).expanduser().is_file()
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not is_file and pretrained not in tags:
        raise UserError(
            f"{pretrained} is neither a file nor weights of {name}: choose from {', '.join(tags)} (metrics.pretrained)"
        )
    source = str(Path(pretrained).expanduser()) if is_file else pretrained
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=source, device=device, cache_dir=cache_dir
        )
    except Exception as error:
        raise UserError(
            f"the weights {pretrained} of {name} are not on this machine and could not be fetched "
            f"({type(error).__name__}): give their file or a cache folder that has them (metrics.pretrained, metrics.cache_dir)"
        ) from error
    return model.eval(), transform, open_clip.get_tokenizer(name)
