"""Text similarity with an open_clip model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from PIL import Image as Pillow

from sow.errors import UserError
from sow.metrics import Value
from sow.metrics.faces import resolve_device
from sow.models.tensors import need_finite, need_floats
from sow.store.code import fingerprint_code
from sow.store.file_hashes import file_sha256
from sow.store.files import place_of
from sow.store.fingerprint import fingerprint
from sow.store.store import shared
from sow.types import Bound, Sample, component

if TYPE_CHECKING:
    from PIL import Image


@component("metrics")
class ClipText:
    """CLIP cosine similarity of the image and the user's prompt c.

    `pretrained` is a tag of open_clip or a weight file; it is required, because open_clip would measure
    with random weights without it.
    """

    COLUMNS: ClassVar[dict[str, str]] = {
        "text_similarity": "cosine similarity of the image and the prompt by CLIP, in [-1, 1]; a canvas "
        "that is no square is padded with gray to one"
    }

    model: str
    pretrained: str
    cache_dir: str | None
    device: str
    batch_size: Annotated[int, Bound(ge=1)]

    def __post_init__(self) -> None:
        if not self.pretrained:
            raise UserError(
                f"metrics.pretrained is empty: name the weights of {self.model}, for example "
                "laion2b_s34b_b79k"
            )

    def files(self) -> list[Path]:
        """The weights, if they are a file; a tag of open_clip names them for good."""
        return [Path(self.pretrained)]

    def check(self) -> None:
        """Raises UserError when the model is unknown or its weights are not on disk and cannot be fetched."""
        self._load()

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Value]]:
        """`text_similarity` in [-1, 1], one row a sample; embeddings are kept by image and prompt."""
        model, transform, tokenizer = self._load()
        instrument = self._instrument()
        prompts = [s.request.prompt for s in samples]

        def embed_images(new: list[int]) -> list[list[float]]:
            return self._embed(model.encode_image, lambda i: transform(squared(samples[i].image)), new)

        def embed_prompts(new: list[int]) -> list[list[float]]:
            return self._embed(model.encode_text, lambda i: tokenizer([prompts[i]])[0], new)

        pictures = [fingerprint(["clip image", instrument, s.image]) for s in samples]
        words = [fingerprint(["clip text", instrument, prompt]) for prompt in prompts]
        images = shared().values(pictures, embed_images)
        texts = shared().values(words, embed_prompts)
        return [{"text_similarity": cosine(a, b)} for a, b in zip(images, texts, strict=True)]

    def _embed(
        self, encode: Callable[[Any], Any], load: Callable[[int], Any], places: Sequence[int]
    ) -> list[list[float]]:
        import torch

        device = resolve_device(self.device)
        out: list[list[float]] = []
        for start in range(0, len(places), self.batch_size):
            batch = torch.stack([load(i) for i in places[start : start + self.batch_size]])
            with torch.no_grad():
                out.extend(encode(batch.to(device)).float().cpu().tolist())
        return out

    def _instrument(self) -> list[str]:
        """What an embedding depends on beside its input; a tag of open_clip names its weights for good."""
        import open_clip

        file = place_of(self.pretrained, "metrics.pretrained")
        weights = file_sha256(file) if file.is_file() else self.pretrained
        return [self.model, weights, open_clip.__version__, fingerprint_code(ClipText)]

    def _load(self) -> tuple[Any, Any, Any]:
        cache = None if self.cache_dir is None else str(place_of(self.cache_dir, "metrics.cache_dir"))
        file = place_of(self.pretrained, "metrics.pretrained")
        digest = file_sha256(file) if file.is_file() else ""
        return _load(self.model, self.pretrained, digest, cache, resolve_device(self.device))


def squared(image: Image.Image) -> Image.Image:
    """The whole picture in the middle of a square of mid-gray: the transform of CLIP crops to a square."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Pillow.new("RGB", (side, side), (128, 128, 128))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Cosine similarity of two vectors of any length, in [-1, 1]."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


@lru_cache(maxsize=2)
def _load(
    name: str, pretrained: str, digest: str, cache_dir: str | None, device: str
) -> tuple[Any, Any, Any]:
    import open_clip

    if name not in open_clip.list_models():
        raise UserError(
            f"open_clip has no model {name}: choose from {', '.join(open_clip.list_models()[:12])}, ... "
            "(metrics.model)"
        )
    file = place_of(pretrained, "metrics.pretrained")
    is_file = file.is_file()
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not is_file and pretrained not in tags:
        raise UserError(
            f"{pretrained} is neither a file nor weights of {name}: choose from {', '.join(tags)} "
            "(metrics.pretrained)"
        )
    source = str(file) if is_file else pretrained
    try:
        if Path(source).suffix in (".safetensors", ".bin"):  # others may hold a whole training
            need_floats(Path(source), "metrics.pretrained")
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=source, device=device, cache_dir=cache_dir
        )
    except UserError:
        raise
    except Exception as error:
        if is_file:
            what = "it is a pickle of more than tensors" if "weights_only" in str(error) else error
            raise UserError(
                f"{pretrained} does not hold the weights of {name}: {what} (metrics.pretrained)"
            ) from error
        raise UserError(
            f"the weights {pretrained} of {name} are not on this machine and could not be fetched "
            f"({type(error).__name__}): give their file or a cache folder that has them "
            "(metrics.pretrained, metrics.cache_dir)"
        ) from error
    need_finite(model, pretrained, "metrics.pretrained")
    return model.eval(), transform, open_clip.get_tokenizer(name)
