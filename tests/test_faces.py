"""Face detection at every size, ID-Distance as the protocol says,
and clear words where weights are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from sow.data.conditions import Person, Photo
from sow.errors import UserError
from sow.metrics import Metrics
from sow.metrics.clip import ClipText
from sow.metrics.faces import WEIGHTS_NAME, Faces, detect_all_faces, detect_faces, embed_faces
from sow.metrics.none import NoMetrics
from sow.types import Box, Canvas, Plan, Request, Sample, VisualCondition


@pytest.fixture(scope="module")
def people() -> list[VisualCondition]:
    source = Person(None, None, 128, 1, {"style": "photo", "glasses": "none"}, None)
    return [source.load(seed)[0] for seed in range(6)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FaceNet's layout with random numbers: what a weight file holds, not what it knows."""
    from facenet_pytorch import InceptionResnetV1

    torch.manual_seed(0)
    model = InceptionResnetV1(classify=True, num_classes=8631)
    file = tmp_path_factory.mktemp("facenet") / WEIGHTS_NAME
    torch.save(model.state_dict(), file)
    return file


def sample(image: Image.Image, conditions: list[VisualCondition], boxes: list[Box]) -> Sample:
    canvas = Canvas(*image.size, 8, 32, image.width)
    request = Request(tuple(conditions), "a person")
    return Sample(request, Plan(tuple(boxes), (), "a person", "fixed"), image, torch.zeros(1), canvas)


def test_small_pictures_are_enlarged_and_boxes_come_back_in_their_pixels(
    people: list[VisualCondition],
) -> None:
    image = people[0].image
    found = detect_faces([image, image.resize((512, 512), Image.Resampling.BICUBIC)])
    assert found[0] is not None and found[1] is not None
    assert found[0].iou(found[1].scaled(0.25)) > 0.8
    assert found[0].iou(people[0].bounds()) > 0.5


def test_sizes_and_empty_pictures_mix_in_one_call(people: list[VisualCondition]) -> None:
    flat = Image.new("RGB", (128, 128), (128, 128, 128))
    photo = Photo("sample:grace_hopper.jpg", "none", "white", "none", None).load(0)[0].image
    images = [flat, people[0].image, photo, people[1].image, flat.resize((300, 200))]
    together = detect_faces(images)
    assert [b is not None for b in together] == [False, True, True, True, False]
    assert together == [detect_faces([image])[0] for image in images]


def test_the_largest_of_two_faces(people: list[VisualCondition]) -> None:
    page = Image.new("RGB", (512, 256), (128, 128, 128))
    page.paste(people[0].image.resize((240, 240)), (8, 8))
    page.paste(people[1].image.resize((120, 120)), (330, 60))
    assert len(detect_all_faces([page])[0]) == 2
    largest = detect_faces([page])[0]
    assert largest is not None and largest.right < 260


def test_distances_follow_the_protocol(people: list[VisualCondition], weights: Path) -> None:
    metric = Faces(str(weights), "cpu", 4)
    metric.check()
    box = Box(0, 0, 128, 128)
    rows = metric.measure(
        [
            sample(people[0].image, [people[0]], [box]),
            sample(people[1].image, [people[0]], [box]),
            sample(Image.new("RGB", (128, 128)), [people[0]], [box]),
        ]
    )
    assert [row["face_detected"] for row in rows] == [True, True, False]
    assert rows[0]["id_distance"] == pytest.approx(0, abs=1e-5) and rows[2]["id_distance"] is None
    faces = detect_faces([people[0].image, people[1].image])
    crops = [(p.image, f) for p, f in zip(people, faces, strict=False) if f is not None]
    a, b = embed_faces(crops, str(weights))
    assert float(a.norm()) == pytest.approx(1, abs=1e-5)
    assert rows[1]["id_distance"] == pytest.approx(float((a - b).norm()), abs=1e-4)
    assert rows[0]["face_iou"] > 0.5 and rows[2]["face_iou"] is None  # type: ignore[operator]


def test_several_conditions_are_matched_by_place(people: list[VisualCondition], weights: Path) -> None:
    page = Image.new("RGB", (512, 256), (128, 128, 128))
    boxes = [Box(8, 8, 240, 240), Box(264, 8, 240, 240)]
    for p, box in zip(people, boxes, strict=False):
        page.paste(p.image.resize((box.w, box.h), Image.Resampling.BICUBIC), (box.x, box.y))
    metric = Faces(str(weights), "cpu", 4)
    right, swapped = metric.measure(
        [sample(page, people[:2], boxes), sample(page, people[:2], boxes[::-1])],
    )
    assert right["id_distance"] < swapped["id_distance"]  # type: ignore[operator]


def test_missing_and_wrong_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("sow.metrics.faces.WEIGHTS_URL", "http://127.0.0.1:9/weights.pt")
    with pytest.raises(UserError, match=f"{tmp_path}/checkpoints/{WEIGHTS_NAME}"):
        Faces(None, "cpu", 4).check()
    assert not list(tmp_path.rglob("*.part"))
    with pytest.raises(UserError, match="metrics.weights"):
        Faces(str(tmp_path / "none.pt"), "cpu", 4).check()
    (tmp_path / "wrong.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match="does not hold FaceNet weights"):
        embed_faces([(Image.new("RGB", (64, 64)), Box(0, 0, 64, 64))], str(tmp_path / "wrong.pt"))
    with pytest.raises(UserError, match="does not hold FaceNet weights"):  # before anything is made
        Faces(str(tmp_path / "wrong.pt"), "cpu", 4).check()
    torch.save({"a": Path}, tmp_path / "code.pt")
    with pytest.raises(UserError) as refused:
        ClipText("RN50", str(tmp_path / "code.pt"), None, "cpu", 2).check()
    assert "a pickle of more than tensors" in str(refused.value) and "False" not in str(refused.value)


def test_weights_that_are_not_whole_name_the_tensors(tmp_path: Path) -> None:
    import torch
    from facenet_pytorch import InceptionResnetV1

    state = InceptionResnetV1(classify=False).state_dict()
    state["renamed.weight"] = state.pop("last_linear.weight")
    torch.save(state, tmp_path / "renamed.pt")
    with pytest.raises(UserError, match=r"1 missing \(last_linear.weight\); 1 unexpected \(renamed.weight\)"):
        embed_faces([(Image.new("RGB", (64, 64)), Box(0, 0, 64, 64))], str(tmp_path / "renamed.pt"))
    torch.save({"visual.proj": torch.zeros(3, 3)}, tmp_path / "clip.pt")
    with pytest.raises(
        UserError, match=r"does not hold the weights of RN50: .*Missing key.*metrics.pretrained"
    ):
        ClipText("RN50", str(tmp_path / "clip.pt"), None, "cpu", 2).check()


def test_clip_needs_weights_it_can_name(tmp_path: Path, people: list[VisualCondition]) -> None:
    import open_clip

    with pytest.raises(UserError, match="metrics.pretrained"):
        ClipText("RN50", "", None, "cpu", 2)
    with pytest.raises(UserError, match="metrics.model"):
        ClipText("ViT-Z", "openai", None, "cpu", 2).check()
    with pytest.raises(UserError, match="metrics.pretrained"):
        ClipText("ViT-B-32", "no_such_weights", None, "cpu", 2).check()
    with pytest.raises(UserError, match="could not be fetched"):
        ClipText("ViT-B-32", "laion2b_s34b_b79k", str(tmp_path), "cpu", 2).check()
    name = "ViT-S-32-alt"
    torch.manual_seed(0)
    torch.save(open_clip.create_model(name, pretrained=None).state_dict(), tmp_path / "clip.pt")
    metric = ClipText(name, str(tmp_path / "clip.pt"), None, "cpu", 2)
    metric.check()
    rows = metric.measure([sample(p.image, [p], [Box(0, 0, 128, 128)]) for p in people[:3]])
    assert len(rows) == 3 and all(-1 <= row["text_similarity"] <= 1 for row in rows)  # type: ignore[operator]
    assert len({row["text_similarity"] for row in rows}) == 3


def test_every_metric_keeps_the_protocol() -> None:
    for metric in (Faces(None, "cpu", 1), ClipText("RN50", "openai", None, "cpu", 1), NoMetrics()):
        assert isinstance(metric, Metrics)
    assert NoMetrics().measure([sample(Image.new("RGB", (64, 64)), [], [])]) == [{}]
