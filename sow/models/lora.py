"""Low-rank updates (LoRA) of a model's UNet and text encoders: read by diffusers and peft, merged into the
weights.

Notation
    W      a layer's weight
    A, B   the update's two factors of rank r
    alpha  the number that training scaled the update with; r where a file has none
    s      `model.lora_scale`

W becomes W + s * alpha / r * B A, summed in float32 and rounded once to the weight's precision. What reads
the weights afterwards, modulated attention included, sees an ordinary model.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sow.errors import UserError
from sow.models.fields import in_json
from sow.models.loading import need_whole
from sow.models.single_file import header
from sow.models.tensors import need_finite, need_floats
from sow.store.files import place_of

if TYPE_CHECKING:
    from torch import nn

    from sow.models.backbone import Backbone

KEY = "model.lora"
IN_A_FOLDER = "pytorch_lora_weights.safetensors"  # what diffusers saves
log = logging.getLogger(__name__)

ADAPTER = "sow"  # peft's name of an update, while it is merged
NETWORKS = ("unet", "text_encoder", "text_encoder_2")
# The factors' names in the formats that diffusers reads: kohya's, peft's, and two of diffusers' own.
_DOWN = re.compile(r"(.+?)(\.lora_down|\.lora_A|[._]lora\.down|\.lora_linear_layer\.down)\.weight")
# Settings beside the tensors that decide what is merged, and those of which nothing but training depends.
_READ = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
_OF_TRAINING = (
    *("task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
    *("lora_dropout", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
    *("target_modules", "runtime_config"),
)
_FIRST_VALUES = (True, False, "gaussian", "orthogonal")  # of the factors; others change the weights too
Updates = dict[str, dict[str, Any]]  # by layer
_UP = {"lora_down": "lora_up", "lora_A": "lora_B", "down": "up"}


def file_of(path: str) -> Path:
    """The file that a path of `model.lora` means: itself, or diffusers' own in a folder."""
    place = place_of(path, "model.lora")
    return place / IN_A_FOLDER if place.is_dir() else place


def check_loras(paths: Sequence[str], scales: Sequence[float]) -> None:
    """Raise UserError, before torch is imported, for files that hold no whole LoRA, a number of scales that
    does not fit, and where peft is not installed."""
    if paths and len(scales) not in (1, len(paths)):
        raise UserError(
            f"{len(paths)} LoRAs have {len(scales)} scales: give one for all or one for each "
            "(model.lora, model.lora_scale)"
        )
    for path in paths:
        file = file_of(path)
        if not file.is_file():
            raise UserError(f"no such file: {file} ({KEY})")
        if file.suffix != ".safetensors":
            raise UserError(f"{file} is no .safetensors file, the only ones that a LoRA is read from ({KEY})")
        layers(file)
    if paths and importlib.util.find_spec("peft") is None:
        raise UserError(
            f"a LoRA needs the package peft, the extra lora of this one: pip install '.[lora]' ({KEY})"
        )


def is_lora(file: Path) -> bool:
    """Whether the names in a file of safetensors are those of a LoRA; raises UserError for a damaged file."""
    return any(_DOWN.fullmatch(name) for name in header(file, KEY))


def layers(file: Path) -> int:
    """The number of layers that a LoRA changes; raises UserError where it is not whole, by its tensors' names
    and shapes."""
    shapes = {name: about["shape"] for name, about in header(file, KEY).items()}
    pairs = {name: _up(name) for name in shapes if _DOWN.fullmatch(name)}
    if not pairs:
        raise UserError(f"{file} holds no low-rank update: give a LoRA of a Stable Diffusion model ({KEY})")
    alphas = {f"{_layer(name)}.alpha" for name in pairs} | {re.sub(r"\.weight$", ".alpha", n) for n in pairs}
    need_whole(
        str(file),
        KEY,
        missing=[up for up in pairs.values() if up not in shapes],
        unexpected=shapes.keys() - pairs.keys() - set(pairs.values()) - alphas,
        mismatched=[
            down
            for down, up in pairs.items()
            if up in shapes and (len(shapes[up]) < 2 or shapes[down][:1] != shapes[up][1:2])
        ],
    )
    return len(pairs)


def _up(down: str) -> str:
    head, _, name = down.removesuffix(".weight").rpartition(".")
    return f"{head}.{_UP[name]}.weight"


def _layer(down: str) -> str:
    found = _DOWN.fullmatch(down)
    assert found is not None
    return found[1]


def merge(backbone: Backbone, paths: Sequence[str], scales: Sequence[float]) -> dict[str, Any]:
    """Merge the LoRAs at `paths` into the model's UNet and text encoders; what was done, for the manifest.

    A scale of 0 leaves the weights as they are. Raises UserError for tensors that fit no layer, are no floats
    or not finite; then the model is not to be used.
    """
    if not paths:
        return {}
    scales = list(scales) * len(paths) if len(scales) == 1 else list(scales)
    encoders = [encoder for _, encoder in backbone.encoders]
    networks = dict(zip(NETWORKS, (backbone.unet, *encoders), strict=False))
    told = []
    for path, scale in zip(paths, scales, strict=True):
        file = file_of(path)
        need_floats(file, KEY)
        state, alphas, settings = _state(file, backbone.unet.config, xl=len(encoders) > 1)
        try:
            found = _fitting(state, alphas or {}, networks, file)
        except ValueError as error:  # of names in no format that diffusers knows
            raise _unreadable(file, error) from error
        for prefix, own in found.items() if scale else ():
            _add(prefix, networks[prefix], own, state, settings, scale, file)
            need_finite(networks[prefix], f"the {prefix} with {file} merged", KEY)
        log.info("%s: merged into %d layers, scale %g (%s)", file, sum(map(len, found.values())), scale, KEY)
        told.append({"file": str(file), "scale": scale, "layers": sum(map(len, found.values()))})
    return {"lora": told}


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"cannot read the LoRA {file}: {' '.join(str(error).split())[:200]} ({KEY})")


def _state(file: Path, config: Any, xl: bool) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Tensors by diffusers' names, each below its network's, with alphas and settings as its loader has
    them."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin

    mixin = StableDiffusionXLLoraLoaderMixin if xl else StableDiffusionLoraLoaderMixin
    try:
        state, alphas, metadata = mixin.lora_state_dict(
            str(file.parent),
            weight_name=file.name,
            local_files_only=True,
            use_safetensors=True,
            unet_config=config,
            return_lora_metadata=True,
        )
    except (ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(file, error) from error
    if not any(name.startswith(tuple(f"{n}." for n in NETWORKS)) for name in state):  # of a UNet alone
        state = {f"unet.{name}": value for name, value in state.items()}
        if isinstance(metadata, Mapping):
            metadata = {f"unet.{name}": value for name, value in metadata.items()}
    need_finite(state, str(file), KEY)
    return state, alphas, _settings(metadata, file)


def _settings(metadata: Any, file: Path) -> dict[str, Any]:
    """The settings in a file that are read, each below its network's name; raises UserError for one that
    would have something else merged than the formula."""
    from peft import LoraConfig

    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise UserError(f"{file} has settings that are no JSON object: save the LoRA anew ({KEY})")
    plain, read = LoraConfig().to_dict(), {}
    for name, value in metadata.items():
        network, _, key = name.partition(".")
        if network in NETWORKS and key in _READ:
            read[name] = value
        elif key == "init_lora_weights":
            known = value in _FIRST_VALUES
        else:
            known = key in _OF_TRAINING or value in (None, False, [], {}) or value == plain.get(key)
        if name not in read and not known:
            raise UserError(
                f"{file} has the setting {name}={in_json(value)}: a plain low-rank update, "
                f"W + s alpha / r B A, is understood; save it as one ({KEY})"
            )
    return read


def _fitting(
    state: Mapping[str, Any], alphas: Mapping[str, float], networks: Mapping[str, nn.Module], file: Path
) -> dict[str, Updates]:
    """The layers that a LoRA changes, below their network's name, with `lora_A`, `lora_B` and `alpha`, None
    where the file has none; raises UserError for tensors without a layer of their shape."""
    unknown = [name for name in state if name.partition(".")[0] not in networks]
    mismatched, found = [], dict[str, Updates]()
    for prefix, network in networks.items():
        modules = dict(network.named_modules())
        for given, name, value in _factors(prefix, state, network):
            module, _, factor = name.removesuffix(".weight").rpartition(".")
            weight = getattr(modules.get(module), "weight", None)
            if weight is None or weight.ndim not in (2, 4) or factor not in ("lora_A", "lora_B"):
                unknown.append(given)
                continue
            update = found.setdefault(prefix, {}).setdefault(module, {})
            update[factor] = value
            if factor == "lora_A":
                update["alpha"] = alphas.get(
                    f"{given}.alpha", alphas.get(f"{given.split('.lora.')[0]}.alpha")
                )
                fits = value.shape[1:2] == weight.shape[1:2]
            else:
                fits = len(value) == len(weight)
            mismatched += [] if fits and value.ndim in (2, weight.ndim) else [given]
    need_whole(str(file), KEY, unexpected=unknown, mismatched=mismatched)
    return found


def _factors(prefix: str, state: Mapping[str, Any], network: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Names as they are in `state` and, below a network, in peft's spelling, with their tensors."""
    from diffusers.utils import state_dict_utils as names

    given = [n for n in state if n.startswith(f"{prefix}.")]
    own = {n.removeprefix(f"{prefix}."): state[n] for n in given}
    if own and prefix == "unet":
        own = own if "lora_A" in next(iter(own)) else names.convert_unet_state_dict_to_peft(own)
    elif own:
        own = names.convert_state_dict_to_peft(names.convert_state_dict_to_diffusers(own))
        if not hasattr(network, "text_model"):
            own = {name.removeprefix("text_model."): value for name, value in own.items()}
    yield from ((one, *other) for one, other in zip(given, own.items(), strict=True))


def _add(
    prefix: str,
    network: nn.Module,
    updates: Updates,
    state: dict[str, Any],
    settings: Mapping[str, Any],
    scale: float,
    file: Path,
) -> None:
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    # Without the alphas: where they differ from layer to layer, diffusers finds no layer of kohya's for them.
    if any(name.startswith(f"{prefix}.") for name in settings):
        metadata = {**settings, f"{prefix}.target_modules": list(updates)}
    else:
        metadata = None
    more: dict[str, Any] = {"network_alphas": None, "metadata": metadata, "adapter_name": ADAPTER}
    try:
        if prefix == "unet":
            Loader.load_lora_into_unet(state, unet=network, **more)
        else:
            Loader.load_lora_into_text_encoder(state, text_encoder=network, prefix=prefix, **more)
        _merge(network, updates, scale)
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"cannot merge the LoRA {file} into the {prefix}: {words} ({KEY})") from error


def _merge(network: Any, updates: Updates, scale: float) -> None:
    """Merge the update that was injected into the weights, and make the network what it was."""
    import torch
    from diffusers.utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in network.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        base: Any = module.get_base_layer()
        kind = base.weight.dtype
        module.to(torch.promote_types(kind, torch.float32))
        update = updates[name]
        for factor in ("lora_A", "lora_B"):  # anew: they were rounded to the network's precision
            own = getattr(module, factor)[ADAPTER].weight
            own.data = update[factor].reshape(own.shape).to(own)
        if (alpha := update["alpha"]) is not None:
            module.scaling[ADAPTER] = alpha / module.r[ADAPTER]
        module.scale_layer(scale)
        module.merge(adapter_names=[ADAPTER])
        base.to(kind)
    recurse_remove_peft_layers(network)
    del network.peft_config
    network._hf_peft_config_loaded = False
    network.requires_grad_(False).eval()
