"""One command for everything, `python run.py` in a checkout and `sow` when installed:
[group=option] [key=value] [-m]."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sow.config.environment import know, printed_without_environment, told
from sow.config.explain import explain
from sow.config.help import help_text
from sow.config.imports import put_off
from sow.config.loader import application
from sow.config.places import CONF, module
from sow.config.repeat import need_own_server, words_of
from sow.config.streams import lasting, unheard
from sow.errors import Refusal, UserError
from sow.store.secrets import redact, redact_file, redact_logs

# What the system refuses of a file that is meant to be there: no faults of ours, which end in a traceback.
OF_THE_SYSTEM = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ELOOP),
)

failed: list[str] = []


def main() -> int:
    """`command_line` in a process of its own, whose libraries import only what is needed."""
    put_off()
    return command_line()


def command_line() -> int:
    """Do what the words of the command line say; the exit status:
    1 after any failure, 130 when interrupted."""
    arguments = sys.argv[1:]
    sys.argv[1:] = redact(arguments)  # which W&B keeps
    failed.clear()
    redact_logs()
    logging.raiseExceptions = False  # a log on a full disk prints no traceback a line
    sys.excepthook = _traceback
    with lasting() as out:
        status = _status(arguments)
        out.flush()
        if words := unheard(out):
            print(f"error: {words}", file=sys.stderr)
    return 1 if words else status


def _status(arguments: list[str]) -> int:
    try:
        if arguments == ["doctor"]:
            return int(module("experiments.doctor").doctor())
        if len(arguments) == 2 and arguments[0] == "pipeline":
            print(module("sow.apps.diffusers_pipeline").save_custom_pipeline(arguments[1]))
            return 0
        if arguments[:1] == ["demo"]:
            job = module("experiments.core.study").run_job
            return int(module("sow.apps.demo").demo(arguments[1:], job))
        _do(arguments)
    except Refusal as refused:
        print(f"error: {told(str(refused.error))}", file=sys.stderr)
        return 1
    except (UserError, HydraException, OmegaConfBaseException) as error:
        text = str(error) if isinstance(error, UserError) else explain(error, arguments)
        print(f"error: {told(text)}", file=sys.stderr)
        return 1
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno not in OF_THE_SYSTEM:
            raise
        with contextlib.suppress(MemoryError):
            module("sow.runs.folders").discard_unstarted()
        print(f"error: {redact(_told(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 1 if failed else 0


def job(composed: DictConfig) -> float | None:
    """One job: validate, then run the study; a failing job of a multirun lets the others go on.

    The sweeper's objective.
    """
    running = HydraConfig.get()
    redact_logs()
    know(OmegaConf.to_container(composed, resolve=False))
    sys.argv[1:] = redact(sys.argv[1:])  # without those that the configuration names
    try:
        for file in (
            *_records(running.runtime.output_dir, running.output_subdir),
            Path(running.sweep.dir, "multirun.yaml"),
        ):
            if file.is_file():
                redact_file(file)
        return module("experiments.core.job").run_composed(composed, running)
    except (UserError, OSError, MemoryError) as error:
        if not isinstance(error, UserError):
            if isinstance(error, OSError) and error.errno not in OF_THE_SYSTEM:
                raise
            module("sow.runs.folders").discard_untouched(Path(running.runtime.output_dir))
            error = UserError(_told(error))
        if not running.launcher._target_.endswith(".BasicLauncher"):
            raise UserError(told(str(error))) from None  # its launcher, in another process, must hear of it
        print(f"error: {told(str(error))}", file=sys.stderr, flush=True)
        failed.append(str(error))
        return None


def _do(arguments: Sequence[str]) -> None:
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    parser.add_argument(
        "--from", dest="image", help="Repeat the run that made this image.png; more words change it"
    )
    flags = parser.parse_intermixed_args(list(arguments))
    if flags.experimental_rerun is not None:
        raise UserError("--experimental-rerun runs a pickle: give the run's own words instead")
    if flags.cfg is None and (flags.resolve or flags.package is not None):
        raise UserError("--resolve and --package say how --cfg prints: add --cfg job, or leave them out")
    folders = [Path(flags.config_dir).absolute()] if flags.config_dir is not None else []
    conf = str(CONF) if flags.config_path is None else str(Path(flags.config_path).absolute())
    own, name = list(flags.overrides), flags.config_name or "config"
    hydra: Any = application(folders, own, conf)
    words = own
    if flags.image is not None:
        words = [*words_of(flags.image, own), *own]
        print(f"from {flags.image}: {shlex.join(redact(words))}", flush=True)
        need_own_server(hydra.compose_config(name, words, RunMode.MULTIRUN), own)
    if flags.help:
        print(redact(help_text(words, folders)))
        return
    show = {
        "hydra_help": lambda: hydra.hydra_help(name, parser, flags),
        "cfg": lambda: hydra.show_cfg(name, words, flags.cfg, flags.package, flags.resolve),
        "info": lambda: hydra.show_info(flags.info, name, words),
        "shell_completion": lambda: hydra.shell_completion(name, words),
    }
    for flag, printed in show.items():
        if getattr(flags, flag):
            text = printed_without_environment(partial(_said, printed)) if flags.resolve else _said(printed)
            print(redact(text), end="")
            return
    if flags.multirun or "hydra.mode=MULTIRUN" in words:
        hydra.multirun(name, job, [*words, "hydra.mode=MULTIRUN"])
    else:
        hydra.run(name, job, words)


def _said(printing: Callable[[], object]) -> str:
    """What is printed to standard output."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        printing()
    return out.getvalue()


def _told(error: OSError | MemoryError) -> str:
    """What the system has refused, and where."""
    if isinstance(error, MemoryError):
        return (
            f"there is not enough memory ({error or 'none is left'}): ask for smaller pictures or fewer "
            "of them (condition.size, condition.count, width, height, batch_size, -m)"
        )
    place = f" {error.filename}" if error.filename else ""
    return f"cannot use the file or folder{place}: {error.strerror} (paths.outputs)"


def _traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python prints of a fault of ours, without the secrets in its messages; memory that ran out while
    an error was told is none of ours."""
    if isinstance(error, MemoryError):
        print(f"error: {redact(_told(error))}", file=sys.stderr)
        return
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _refuse(message: str) -> NoReturn:
    raise UserError(
        f"{message}: words are key=value or group=option without dashes; --hydra-help lists the flags"
    )


def _records(folder: str, part: str | None) -> list[Path]:
    """The files in which Hydra keeps a job's configuration."""
    return sorted(Path(folder, part).glob("*.yaml")) if part else []


os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach command_line(), which says them in one line
