"""Is it right, and how fast is it, on this machine's CUDA card? One command, under nine minutes.

    python benchmarks/cuda_check.py                      # on the card; JSON in
                                                         outputs/benchmarks/cuda_check.json
    python benchmarks/cuda_check.py --weights FOLDER     # a real Stable Diffusion folder: its speed, eight
                                                         pictures, table 2
    python benchmarks/cuda_check.py --dry                # the same code on a CPU, at sizes that take a minute

It needs a clone of the repository and torch, transformers, accelerate, safetensors, diffusers, numpy and
pillow, nothing else: no installation, no download, no judge. First what must be right (each line has a bound
and a verdict), then what is measured, the most wanted numbers first; what the time does not allow is named.
Exit status 1 where a check failed.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]

import torch  # noqa: E402

from benchmarks import bare, ratios  # noqa: E402
from benchmarks.attention import DIM, Calls, calls  # noqa: E402
from benchmarks.timing import interleaved, peak_mib, quartiles  # noqa: E402
from benchmarks.work import Modulated, Row, row  # noqa: E402
from sow.attention import split  # noqa: E402
from sow.attention.processor import modulated  # noqa: E402
from sow.method import noise, paper  # noqa: E402
from sow.method.seed_init import Batch  # noqa: E402

FITS = 8192  # MiB that one float16 image of Stable Diffusion's size must fit
TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}  # relative, of an attention layer


@dataclass(frozen=True)
class Found:
    """One line of the report: a check has a verdict in `ok`, a measurement has None."""

    part: str
    name: str
    value: Any
    ok: bool | None = None
    bound: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Machine:
    """Where the parts run, and how large: `small` is the dry run's sizes."""

    device: str
    small: bool
    weights: Path | None
    out: Path
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def rounds(self) -> int:
        return 1 if self.small else 5

    def full_size(self, dtype: str) -> Any:
        """The pipeline on networks of Stable Diffusion's size; one is held at a time.

        A dry run computes in float32 whatever is asked for: half precision takes a processor minutes.
        """
        dtype = dtype if self.cuda else "float32"
        if self.made.get("dtype") != dtype:
            self.made.clear()
            if self.cuda:
                torch.cuda.empty_cache()
            backbone = (
                bare.stable_diffusion(self.device, dtype, self.small)
                if self.weights is None
                else bare.checkpoint(self.weights, self.device, dtype)
            )
            cycle = paper.components()["cycle"]
            changes = {"cycle": fewer(cycle)} if self.small else {}
            self.made.update(dtype=dtype, pipeline=bare.pipeline(backbone, batch_size=8, **changes))
        return self.made["pipeline"]


def fewer(cycle: Any) -> Any:
    """The same schedule with two cycles, for dry runs."""
    return replace(cycle, cycles=2)


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """|found - exact| / |exact|, as numbers in float64 on the host."""
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    return float((found - exact).norm() / exact.norm().clamp_min(1e-300))


def bounded(part: str, name: str, value: float, bound: float, **details: Any) -> Found:
    """A check that a number, which must be finite, is at most `bound`."""
    return Found(part, name, value, math.isfinite(value) and value <= bound, f"<= {bound:g}", details)


# Checks.


def attention(machine: Machine) -> Iterator[Found]:
    """Modulated attention in each precision against a float64 oracle that has every logit and the
    bias as a tensor."""
    for dtype, bound in TOLERANCE.items():
        made = calls(torch.device(machine.device), getattr(torch, dtype), 16 if machine.small else 64)
        worst = max(relative(ours[1], oracle(made, i)) for i, ours in enumerate(made.ours()))
        yield bounded("attention", f"modulated attention, {dtype}, against float64", worst, bound)


def oracle(made: Calls, layer: int) -> torch.Tensor:
    """softmax(A') V of the text branch of one layer in float64,
    head by head (Eq. 4, 5, 8 with an open gate)."""
    _, q, k, v = made.layers[layer]
    bias = made.bias(q).double()
    heads = []
    for h in range(q.shape[1]):
        logits = (q[1, h].double() @ k[1, h].double().T) * DIM**-0.5
        width = logits.amax(-1, keepdim=True) - logits.amin(-1, keepdim=True)
        heads.append((logits + width * bias).softmax(-1) @ v[1, h].double())
    return torch.stack(heads)


def row_ranges(machine: Machine) -> Iterator[Found]:
    """The Triton kernel for ranges of attention rows against the exact pass."""
    part, name = "row ranges", "Triton kernel against the exact pass"
    shapes = [(17, 33, 40), (130, 1024, 64), (700, 4096, 64), (65, 64, 80), (16, 19, 160)]
    for dtype in ("float32", "float16", "bfloat16"):
        if not machine.cuda:
            yield Found(part, f"{name}, {dtype}", "needs a CUDA card")
            continue
        worst = 0.0
        for R, N, d in shapes:
            drawn = noise.randn((2, R + N, 2, d), noise.generator(R), machine.device, getattr(torch, dtype))
            q, k = drawn.transpose(1, 2).split((R, N), dim=2)
            if not split.kernel_is_right(q.device, q.dtype, d):
                raise RuntimeError(f"the kernel is not used on this card: {dtype}, {d} channels per head")
            from sow.attention import kernels

            for found, exact in zip(
                kernels.row_statistics(q, k, d**-0.5, True), split.exact_range(q, k, d**-0.5), strict=True
            ):
                worst = max(worst, float((found.double() - exact.double()).abs().max()))
        yield bounded(part, f"{name}, {dtype}", worst, 1e-3)


def whole_run(machine: Machine) -> Iterator[Found]:
    """A whole SOW image of the embedded model here and on the CPU, in float32."""
    changes = {"cycle": fewer(paper.components()["cycle"])} if machine.small else {}
    latents = {}
    for device in dict.fromkeys((machine.device, "cpu")):
        pipeline = bare.pipeline(bare.checkpoint(bare.WEIGHTS, device, "float32"), **changes)
        latents[device] = pipeline.generate(bare.requests(1))[0].latents
        if device == machine.device:
            machine.made["people"] = pipeline
    value = relative(latents[machine.device], latents["cpu"])
    yield bounded("whole run", "SOW on the embedded model against the CPU, float32", value, 1e-3)


def batches(machine: Machine) -> Iterator[Found]:
    """Four requests in one batch against four singles; a batch may change rounding only."""
    pipeline = machine.made["people"]
    requests = bare.requests(2 if machine.small else 4)
    together = pipeline.generate(requests)
    worst = 0.0
    for request, sample in zip(requests, together, strict=True):
        worst = max(worst, relative(sample.latents, pipeline.generate([request])[0].latents))
    yield bounded("batches", f"a batch of {len(requests)} against singles, float32", worst, 1e-3)


def no_waiting(machine: Machine) -> Iterator[Found]:
    """No host synchronisation from the first cycle to the last step: torch's own detector set to raise."""
    part, name = "no waiting", "host synchronisations between start of the cycles and x_0"
    if not machine.cuda:
        yield Found(part, name, "needs a CUDA card")
        return
    pipeline = machine.made["people"]
    method, requests = pipeline.method, bare.requests(1)
    plans = pipeline.plan(requests)

    def run(mode: str) -> None:
        cycles = False
        try:
            for step in method.run(Batch.of(requests, plans, method.canvas, method.seed_init)):
                if not cycles and step.context.phase == "cycle" and step.event == "replace":
                    cycles = True
                    torch.cuda.set_sync_debug_mode(mode)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    run("default")
    try:
        run("error")
    except RuntimeError as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        yield Found(part, name, str(error), False, "none", {"line": f"{where.filename}:{where.lineno}"})
        return
    yield Found(part, name, 0, True, "none")


@contextmanager
def compiled(backbone: Any, **how: Any) -> Iterator[Any]:
    """A twin of the model whose UNet is compiled; everything that was compiled is forgotten afterwards."""
    twin = copy.copy(backbone)
    twin.unet = copy.deepcopy(backbone.unet)
    twin.compile(**how)
    try:
        yield twin
    finally:
        torch.compiler.reset()


def modes(machine: Machine) -> dict[str, dict[str, Any]]:
    """The two ways of compiling; a dry run traces the graph and leaves its operations as they are."""
    if machine.small:
        return {"compiled": {"backend": "aot_eager"}}
    return {"compiled": {"mode": "default"}, "CUDA graphs": {"mode": "reduce-overhead"}}


def graphs(machine: Machine) -> Iterator[Found]:
    """A modulated step eager, compiled and as CUDA graphs, on the embedded model in float32."""
    pipeline = machine.made["people"]
    step = ratios.first_modulated(pipeline, bare.requests(1))
    eager = output(step, pipeline.backbone)
    for name, how in modes(machine).items():
        with compiled(pipeline.backbone, **how) as twin:
            for _ in range(1 if machine.small else 3):  # a CUDA graph is recorded in the second call
                found = output(step, twin)
        yield bounded("graphs", f"a modulated step, {name} against eager", relative(found, eager), 1e-3)


def output(step: Modulated, backbone: Any) -> torch.Tensor:
    """What the UNet of `backbone` gives for a recorded modulated call."""
    with modulated(backbone.unet, step.modulator):
        step.modulator.begin(*step.strengths)
        found = backbone.predict(*step.args).clone()
        step.modulator.end()
    return found


# Measurements.


def measured(part: str, rows: list[Row], **details: Any) -> Iterator[Found]:
    """Rows of a table of ratios as lines of the report."""
    for r in rows:
        bound = f"<= {r.at_most}" if r.at_most is not None else f">= {r.at_least}" if r.at_least else ""
        yield Found(part, r.name, list(r.value), None, bound, {**asdict(r), "met": r.met, **details})


def one_image(dtype: str) -> Callable[[Machine], Iterator[Found]]:
    """Seconds of an image, memory and arithmetic rate, eager, one request and eight."""

    def run(machine: Machine) -> Iterator[Found]:
        part, pipeline = f"image, {dtype}, eager", machine.full_size(dtype)
        requests = bare.requests(2 if machine.small else 8)
        yield from measured(part, ratios.image(pipeline, requests, machine.rounds), batch=1)
        if machine.cuda and dtype == "float16":
            torch.cuda.reset_peak_memory_stats()
            pipeline.generate(requests[:1])
            yield bounded(part, "peak memory of one image, MiB", peak_mib(pipeline.backbone.device), FITS)
        timed = interleaved(
            {"batch": lambda: pipeline.generate(requests)}, machine.rounds, pipeline.backbone.device
        )["batch"]
        seconds = [s / len(requests) for s in timed.seconds]
        value = list(quartiles(seconds))
        yield Found(part, f"seconds per image in a batch of {len(requests)}", value, None, "", {"unit": "s"})

    return run


def one_image_compiled(dtype: str, how: str) -> Callable[[Machine], Iterator[Found]]:
    """Seconds of an image with the UNet compiled, one request and eight; compilation apart."""

    def run(machine: Machine) -> Iterator[Found]:
        part, pipeline = f"image, {dtype}, {how}", machine.full_size(dtype)
        options = modes(machine).get(how)
        if options is None:
            yield Found(part, "seconds per image", "not in a dry run")
            return
        with compiled(pipeline.backbone, **options) as twin:
            other = pipeline.variant(model=replace(pipeline.model, backbone=twin))
            for count in (1,) if machine.small else (1, 8):
                requests = bare.requests(count)
                started = time.perf_counter()
                other.generate(requests)
                first = time.perf_counter() - started
                again = partial(other.generate, requests)
                timed = interleaved({"it": again}, machine.rounds, twin.device)["it"]
                value = list(quartiles([s / count for s in timed.seconds]))
                details = {"unit": "s", "first call": first, "peak_mib": timed.peak_mib}
                yield Found(part, f"seconds per image in a batch of {count}", value, None, "", details)

    return run


def table(machine: Machine) -> Iterator[Found]:
    """Every ratio of the speed table's GPU column."""
    pipeline, requests = machine.full_size("bfloat16"), bare.requests(2 if machine.small else 8)
    device, rounds = pipeline.backbone.device, machine.rounds
    latent = 16 if machine.small else 64
    yield from measured("table", [ratios.modulated_step(pipeline, requests, rounds, 1.05)])
    yield from measured("table", ratios.attention(device, torch.bfloat16, rounds, latent))
    yield from measured("table", [ratios.batch(pipeline, requests, min(rounds, 3), 0.75)])
    yield from measured("table", [ratios.overhead(pipeline, requests, rounds)])
    if not machine.small:  # seconds each on a card, minutes on a CPU
        yield from measured("table", [ratios.preservations(pipeline, requests, 2)])
        yield from measured("table", [ratios.omegas(pipeline, requests, 2)])
        yield from measured("table", ratios.options(pipeline, requests, rounds))


def beside_cow(machine: Machine) -> Iterator[Found]:
    """One SOW image beside the arithmetic of one image of COW's published code, taking turns."""
    pipeline = machine.full_size("float16")
    requests = bare.requests(1)
    sizes = {"syncs": 37, "encodings": 5} if machine.small else {}
    ours, theirs = "SOW", "COW's published arithmetic"
    contestants: dict[str, Callable[[], object]] = {
        ours: lambda: pipeline.generate(requests),
        theirs: lambda: bare.official_cow(pipeline.backbone, **sizes),
    }
    timed = interleaved(contestants, machine.rounds, pipeline.backbone.device)
    name = "one SOW image over the published COW's arithmetic"
    yield from measured("beside COW", [row(name, timed, ours, theirs, "100 at the canvas, 14 at a quarter")])


def pictures(machine: Machine) -> Iterator[Found]:
    """Eight SOW pictures of real weights, and Table II on 12 groups where its packages are installed."""
    if machine.weights is None:
        return
    folder = machine.out.parent
    pipeline = machine.full_size("float16")
    from PIL import Image

    shipped = [condition(i) for i in range(8)]
    samples = pipeline.generate(shipped)
    sheet = Image.new("RGB", (4 * 256, 2 * 256))
    for i, sample in enumerate(samples):
        sheet.paste(sample.image.resize((256, 256)), (i % 4 * 256, i // 4 * 256))
        sample.image.save(folder / f"cuda_check_{i}.png")
    sheet.save(folder / "cuda_check.png")
    finite = all(len(set(s.image.convert("L").getdata())) > 8 for s in samples)
    yield Found("pictures", "eight SOW pictures, none of one colour", str(folder / "cuda_check.png"), finite)
    words = [sys.executable, "run.py", "experiment=table2", "model=local", f"model.path={machine.weights}"]
    words += ["study.limit=12", "tracker=none"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    said = (done.stderr or done.stdout).strip().splitlines()[-1:] or [""]
    yield Found(
        "pictures", "Table II on 12 groups", said[0], done.returncode == 0, "status 0", {"command": words}
    )


def condition(i: int) -> Any:
    """A request with a smooth random picture and one of the paper's prompts."""
    from sow.types import Request

    prompts = ("a photo of a person attending a formal event.", "a person in a forest")
    first = bare.requests(i + 1)[i]
    return Request(first.conditions, prompts[i % 2], seed=i, id=str(i))


PARTS: dict[
    str, tuple[float, Callable[[Machine], Iterator[Found]]]
] = {  # seconds that a part may take on a card
    "attention": (20, attention),
    "row ranges": (20, row_ranges),
    "whole run": (25, whole_run),
    "batches": (10, batches),
    "no waiting": (10, no_waiting),
    "graphs": (90, graphs),
    "image, float16, eager": (45, one_image("float16")),
    "beside COW": (20, beside_cow),
    "pictures": (60, pictures),
    "image, bfloat16, eager": (30, one_image("bfloat16")),
    "table": (60, table),
    "image, bfloat16, compiled": (100, one_image_compiled("bfloat16", "compiled")),
    "image, float16, CUDA graphs": (100, one_image_compiled("float16", "CUDA graphs")),
}


def main(words: list[str] | None = None) -> int:
    """Run the parts in turn, write the report after each; 1 where a check failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry", action="store_true", help="the same code on a CPU at small sizes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--weights", type=Path, help="a folder in Stable Diffusion's format")
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="no part begins that might not end by then"
    )
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="some of the parts")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/cuda_check.json"))
    chosen = parser.parse_args(words)
    if not chosen.dry and not torch.cuda.is_available():
        print("error: no CUDA card here: `--dry` runs the same code on the CPU (--device)", file=sys.stderr)
        return 1
    device = "cpu" if chosen.dry else chosen.device
    machine = Machine(device, chosen.dry, chosen.weights, chosen.out)
    # Convolutions in full float32 where they are compared; the shipped default otherwise.
    torch.backends.cudnn.allow_tf32 = False
    started, found = time.monotonic(), []
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    for name, (seconds, part) in PARTS.items():
        if chosen.only is not None and name not in chosen.only:
            continue
        left = 60 * chosen.minutes - (time.monotonic() - started)
        if not chosen.dry and left < seconds:
            found.append(Found(name, "not begun", f"{left:.0f} s left, it may take {seconds:.0f}"))
        else:
            found += attempted(name, part, machine)
        write(chosen.out, machine, found, time.monotonic() - started)
    failed = [f for f in found if f.ok is False]
    passed = sum(f.ok is True for f in found)
    print(f"{passed} checks passed, {len(failed)} failed; {time.monotonic() - started:.0f} s; {chosen.out}")
    return 1 if failed else 0


def attempted(name: str, part: Callable[[Machine], Iterator[Found]], machine: Machine) -> list[Found]:
    """A part's lines, printed as they come; an error in it is one line that failed,
    and the other parts go on."""
    found: list[Found] = []
    try:
        for one in part(machine):
            found.append(one)
            print(line(one), flush=True)
    except Exception as error:
        where = traceback.format_exc().strip().splitlines()
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        found.append(Found(name, "error", message, False, "", {"traceback": where[-12:]}))
        print(line(found[-1]), flush=True)
    return found


def line(found: Found) -> str:
    """One line for the terminal."""
    verdict = {True: "ok    ", False: "FAILED", None: "      "}[found.ok]
    value = found.value
    if isinstance(value, list):
        value = f"{value[0]:.4g} [{value[1]:.4g}, {value[2]:.4g}]"
    elif isinstance(value, float):
        value = f"{value:.3g}"
    return f"{verdict} {found.part}: {found.name}: {value} {found.bound}".rstrip()


def write(path: Path, machine: Machine, found: list[Found], seconds: float) -> None:
    """The report so far."""
    import diffusers
    import transformers

    card = torch.cuda.get_device_name() if machine.cuda else f"CPU {platform.machine()}"
    report = {
        "device": card,
        "dry": machine.small,
        "weights": str(machine.weights)
        if machine.weights
        else "random, of Stable Diffusion 2.1-base's sizes",
        "seconds": round(seconds, 1),
        "python": platform.python_version(),
        "versions": {m.__name__: m.__version__ for m in (torch, diffusers, transformers)},
        "found": [asdict(f) for f in found],
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(report, indent=2, default=str) + "\n")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
