"""Face detection (MTCNN) and ID-Distance (FaceNet), the protocol of the benchmark."""

from __future__ import annotations

import importlib.util
import os
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from sow.errors import UserError
from sow.metrics import Value, mean
from sow.metrics.copying import COPYING, another_picture, copy_paste
from sow.models.loading import fill
from sow.store.code import fingerprint_code
from sow.store.file_hashes import file_sha256, fingerprint_files
from sow.store.files import atomic_write, place_of
from sow.store.fingerprint import fingerprint
from sow.store.store import shared
from sow.types import Bound, Box, Sample, component

if TYPE_CHECKING:
    import torch
    from PIL import Image

# The instrument, not a tunable: changing one of these makes numbers incomparable with the benchmark's.
THRESHOLDS = (0.6, 0.7, 0.7)  # MTCNN's three stages
CROP_SIZE = 160  # pixels of the face crop that FaceNet reads, margin 0
MIN_SIDE = 256  # smaller pictures are enlarged by a whole factor before detection, to 256..511 px
MAX_SIDE = 1600  # larger photographs are reduced before detection, for memory
WEIGHTS_NAME = "20180402-114759-vggface2.pt"
WEIGHTS_URL = f"https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/{WEIGHTS_NAME}"


def detect_faces(
    images: Sequence[Image.Image], device: str = "cpu", batch_size: int = 16
) -> list[Box | None]:
    """The largest face of each image in its own pixels, None where MTCNN finds none."""
    return [_largest(found) for found in detect_all_faces(images, device, batch_size)]


def detect_all_faces(
    images: Sequence[Image.Image], device: str = "cpu", batch_size: int = 16
) -> list[list[Box]]:
    """Every face of each image, clipped to it, in its own pixels;
    images of one size go through MTCNN together."""
    ready = [_detection_size(image) for image in images]
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, image in enumerate(ready):
        groups[image.size].append(i)
    out: list[list[Box]] = [[] for _ in images]
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            chunk = members[start : start + batch_size]
            for i, boxes in zip(chunk, _detect([ready[j] for j in chunk], device), strict=True):
                ratio = images[i].width / ready[i].width
                out[i] = [box for corners in boxes if (box := _to_box(corners, ratio, images[i].size))]
    return out


def kept_faces(images: Sequence[Image.Image], device: str = "cpu", batch_size: int = 16) -> list[list[Box]]:
    """`detect_all_faces`, kept by the image, MTCNN's weights and the code."""
    instrument = [fingerprint_code(detect_all_faces), fingerprint_files(mtcnn_files())]

    def compute(new: list[int]) -> list[list[list[int]]]:
        found = detect_all_faces([images[i] for i in new], device, batch_size)
        return [[box.as_list() for box in boxes] for boxes in found]

    keys = [fingerprint(["mtcnn", instrument, image]) for image in images]
    return [[Box(*b) for b in boxes] for boxes in shared().values(keys, compute)]


def mtcnn_files() -> list[Path]:
    """The weights of MTCNN's three stages, as the package carries them."""
    found = importlib.util.find_spec("facenet_pytorch")  # without its import, which takes seconds
    places = [Path(place) for place in (found.submodule_search_locations or [])] if found else []
    return sorted(file for place in places for file in (place / "data").glob("?net.pt"))


@component("metrics")
class Faces:
    """Face Detection Rate (MTCNN) and ID-Distance: Euclidean distance of L2-normalised FaceNet embeddings.

    `weights` is the file of InceptionResnetV1 `vggface2`, None looks in torch's hub folder and fetches it
    there. Detections and embeddings are kept by the image (`sow.store.store.shared`).
    """

    COLUMNS: ClassVar[dict[str, str]] = {
        "face_detected": "MTCNN finds a face anywhere on the image",
        "face_iou": "overlap of the condition's face on the image with its place",
        "id_distance": "FaceNet distance of the condition and the face on the image, in [0, 2]; undetected "
        "faces left out",
        **COPYING,
    }

    weights: str | None
    device: str
    batch_size: Annotated[int, Bound(ge=1)]

    def files(self) -> list[Path]:
        """The weights that were given, and MTCNN's; FaceNet's usual ones are known by their name."""
        return [*([Path(self.weights)] if self.weights else []), *mtcnn_files()]

    def check(self) -> None:
        """Raises UserError when the FaceNet weights are not on disk and cannot be fetched, or are none."""
        _network(self.weights, resolve_device(self.device))

    def measure(self, samples: Sequence[Sample]) -> list[dict[str, Value]]:
        """`face_detected`; `face_iou` of the face with the condition's subject; `id_distance` in [0, 2];
        `id_distance_other` and `copy_paste` where another picture of the person is known.

        Each condition is compared with the face that overlaps it most (the largest face for a single
        condition); several conditions give their mean. None where the face, or the condition's own face, is
        not detected.
        """

        device = resolve_device(self.device)
        images = [s.image for s in samples]
        references = [c.image for s in samples for c in s.request.conditions]
        found = kept_faces(images, device, self.batch_size)
        expected = iter(_largest(f) for f in kept_faces(references, device, self.batch_size))
        others = self._others(samples, device)
        crops: list[tuple[Image.Image, Box]] = []
        rows: list[dict[str, Value]] = []
        pairs: list[list[int]] = []
        threes: list[list[int]] = []
        for sample, faces in zip(samples, found, strict=True):
            mine, ious, three = [], [], []
            for condition, box in zip(sample.request.conditions, sample.plan.boxes, strict=True):
                reference, target = next(expected), condition.subject_in(box)
                face = _matching(faces, target, alone=len(sample.plan.boxes) == 1)
                if face is None:
                    continue
                ious.append(face.iou(target))
                if reference is not None:
                    mine.append(len(crops))
                    crops += [(sample.image, face), (condition.image, reference)]
                    if (other := others.get(id(condition))) is not None:
                        three.append(mine[-1])
                        crops.append(other)
            pairs.append(mine)
            threes.append(three)
            rows.append({"face_detected": bool(faces), "face_iou": mean(ious)})
        vectors = kept_embeddings(crops, self.weights, device, self.batch_size)
        for row, mine, three in zip(rows, pairs, threes, strict=True):
            row["id_distance"] = mean([face_distance(vectors[i], vectors[i + 1]) for i in mine])
            row["id_distance_other"] = mean([face_distance(vectors[i], vectors[i + 2]) for i in three])
            row["copy_paste"] = mean([copy_paste(*vectors[i : i + 3]) for i in three])
        return rows

    def _others(self, samples: Sequence[Sample], device: str) -> dict[int, tuple[Image.Image, Box]]:
        """Another picture of each condition's person and the face on it, by the condition's id(), where there
        is one and MTCNN finds a face."""
        conditions = [c for s in samples for c in s.request.conditions]
        found = [(c, o) for c in conditions if (o := another_picture(c)) is not None]
        faces = kept_faces([o.image for _, o in found], device, self.batch_size)
        sides = [(id(c), o.image, _largest(f)) for (c, o), f in zip(found, faces, strict=True)]
        return {key: (image, face) for key, image, face in sides if face is not None}


def face_distance(a: Sequence[float], b: Sequence[float]) -> float:
    """ID-Distance of two embeddings of any length: ||a / ||a|| - b / ||b|| ||, in [0, 2] (Sec. V-A)."""
    u, v = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(u / np.linalg.norm(u) - v / np.linalg.norm(v)))


def kept_embeddings(
    crops: Sequence[tuple[Image.Image, Box]], weights: str | None, device: str = "cpu", batch_size: int = 16
) -> list[list[float]]:
    """`embed_faces`, kept by image, box, weights and code."""
    if not crops:
        return []
    instrument = [fingerprint_code(embed_faces), file_sha256(weights_file(weights))]
    keys = [fingerprint(["facenet", instrument, image, box]) for image, box in crops]

    def compute(new: list[int]) -> list[list[float]]:
        return embed_faces([crops[i] for i in new], weights, device, batch_size).tolist()

    return shared().values(keys, compute)


def embed_faces(
    crops: Sequence[tuple[Image.Image, Box]], weights: str | None, device: str = "cpu", batch_size: int = 16
) -> torch.Tensor:
    """L2-normalised FaceNet embeddings (n, 512) float32 on the CPU of faces given as (image, box)."""
    import torch
    from facenet_pytorch import extract_face, fixed_image_standardization

    model = _network(weights, device)
    out = []
    for start in range(0, len(crops), batch_size):
        chunk = crops[start : start + batch_size]
        faces = [
            fixed_image_standardization(
                extract_face(image.convert("RGB"), [b.x, b.y, b.right, b.bottom], CROP_SIZE, 0)
            )
            for image, b in chunk
        ]
        with torch.no_grad():
            out.append(model(torch.stack(faces).to(device)).float().cpu())
    return torch.cat(out)


def weights_file(weights: str | None) -> Path:
    """The FaceNet weight file, fetched into torch's hub folder when it is nowhere;
    UserError when it cannot be had."""
    if weights is not None:
        file = place_of(weights, "metrics.weights")
        if not file.is_file():
            raise UserError(f"no file {weights}: give the FaceNet weights {WEIGHTS_NAME} (metrics.weights)")
        return file
    file = weights_place()
    if not file.is_file():
        _fetch(file)
    return file


def weights_place() -> Path:
    """Where torch's hub keeps the FaceNet weights."""
    cache = place_of(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "XDG_CACHE_HOME") / "torch"
    return place_of(os.environ.get("TORCH_HOME", cache), "TORCH_HOME") / "checkpoints" / WEIGHTS_NAME


def resolve_device(device: str) -> str:
    """`auto` as cuda where there is one, else cpu."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _fetch(file: Path) -> None:
    import shutil
    import urllib.request

    try:
        with urllib.request.urlopen(WEIGHTS_URL, timeout=15) as source, atomic_write(file) as part:
            with part.open("wb") as target:
                shutil.copyfileobj(source, target)
            if part.stat().st_size < int(source.headers.get("Content-Length") or 0):
                raise OSError("the connection ended early")
    except OSError as error:  # URLError, time-outs and refused connections are all OSErrors
        raise UserError(
            f"the FaceNet weights are not on this machine and could not be fetched: put {WEIGHTS_URL} at "
            f"{file}, or choose metrics=pixels or metrics=none (metrics.weights)"
        ) from error


def _network(weights: str | None, device: str) -> torch.nn.Module:
    file = weights_file(weights)
    return _facenet(str(file), file_sha256(file), device)


@lru_cache(maxsize=2)
def _facenet(file: str, digest: str, device: str) -> torch.nn.Module:
    import torch
    from facenet_pytorch import InceptionResnetV1

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        # The file carries the training head (`logits`), which embeddings do not use.
        state = {k: v for k, v in state.items() if not k.startswith("logits.")}
    except Exception as error:
        raise UserError(
            f"{file} does not hold FaceNet weights: replace it by {WEIGHTS_NAME} (metrics.weights)"
        ) from error
    model = InceptionResnetV1(classify=False)
    fill(
        model,
        {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        file,
        "metrics.weights",
    )
    return model.eval().to(device)


@lru_cache(maxsize=2)
def _detector(device: str) -> Any:
    from facenet_pytorch import MTCNN

    return MTCNN(thresholds=list(THRESHOLDS), select_largest=True, keep_all=True, device=device).eval()


def _detect(images: list[Image.Image], device: str) -> list[list[Sequence[float]]]:
    """Corners (x0, y0, x1, y1) of the faces of images of one size."""
    detector = _detector(device)
    try:
        boxes, _ = detector.detect(images)
    except RuntimeError as error:
        # MTCNN concatenates an empty list when every candidate of a batch lies off the picture.
        if "non-empty" not in str(error):
            raise
        if len(images) == 1:
            return [[]]
        return [_detect([image], device)[0] for image in images]
    return [[] if found is None else [[float(v) for v in corners] for corners in found] for found in boxes]


def _detection_size(image: Image.Image) -> Image.Image:
    from PIL import Image as Pillow

    image = image.convert("RGB")
    small, large = min(image.size), max(image.size)
    if small < MIN_SIDE:
        factor = -(-MIN_SIDE // small)
        return image.resize((image.width * factor, image.height * factor), Pillow.Resampling.BICUBIC)
    if large > MAX_SIDE:
        ratio = MAX_SIDE / large
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        return image.resize(size, Pillow.Resampling.BOX)
    return image


def _to_box(corners: Sequence[float], ratio: float, size: tuple[int, int]) -> Box | None:
    x0, y0, x1, y1 = (round(v * ratio) for v in corners)
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, size[0]), min(y1, size[1])
    return Box(x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None


def _largest(faces: Sequence[Box]) -> Box | None:
    return max(faces, key=lambda b: b.area, default=None)


def _matching(faces: Sequence[Box], target: Box, alone: bool) -> Box | None:
    if alone:
        return _largest(faces)
    best = max(faces, key=lambda b: b.iou(target), default=None)
    return best if best is not None and best.intersection(target) else None
