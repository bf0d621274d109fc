"""Models from folders: what a folder in Stable Diffusion's format must hold, and the names of those that
ship."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sow.errors import UserError
from sow.models import checkpoint
from sow.models.stable_diffusion import CHECKS
from sow.models.transformer import adapter_of
from sow.store.files import place_of

OWN = ("unet", "scheduler")
PARTS = ("vae", "text_encoder", "tokenizer", *OWN)
XL_PARTS = ("text_encoder_2", "tokenizer_2")
PEOPLE = Path(__file__).parents[1] / "people"
SHIPPED = {"people": PEOPLE / "weights", "people_flow": PEOPLE / "weights_flow"}  # come with the package


def place(name: str) -> Path:
    """The folder of a name of SHIPPED or of a path."""
    return SHIPPED.get(name) or place_of(name, "model.path")


def check_folder(folder: Path) -> None:
    """Fail early and clearly when a folder is no Stable-Diffusion-format model."""
    need(folder, ())
    if (folder / "transformer").is_dir():
        need(folder, tuple(adapter_of(checkpoint.read(folder / "model_index.json"), str(folder)).PARTS))
        checkpoint.check_vae(checkpoint.read(folder / "vae" / "config.json"), f"{folder}/vae/config.json")
        return
    need(folder, PARTS)
    unet = checkpoint.read(folder / "unet" / "config.json")
    if unet.get("addition_embed_type") == "text_time":
        need(folder, XL_PARTS)
    for part, check in CHECKS.items():
        if (folder / part).is_dir():
            check(checkpoint.read(folder / part / "config.json"), f"{folder / part}/config.json")


def need(folder: Path, parts: Sequence[str], key: str = "model.path") -> None:
    """Raise UserError for a folder that is not there, and for the parts of a model that it lacks."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder} ({key})")
    missing = [part for part in parts if not (folder / part).is_dir()]
    # Without it a tokenizer pads with what its class takes, which is not what every model was trained on.
    settings = [f"{part}/tokenizer_config.json" for part in parts if part.startswith("tokenizer")]
    missing += [
        name for name in settings if (folder / name).parent.is_dir() and not (folder / name).is_file()
    ]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}: give a Stable-Diffusion-format folder ({key})")
