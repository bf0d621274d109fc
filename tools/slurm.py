"""A Slurm of one node for tests: Debian's slurm-wlm and munge, without systemd, cgroups or anything outside
one folder.

`python tools/slurm.py start FOLDER` starts it and prints the environment that its commands need; `python
tools/slurm.py stop FOLDER` ends the processes that it started, by their ids.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
CONFIGURATION = """
ClusterName=sow
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=3
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
ReturnToService=2
KillWait=2
SlurmctldTimeout=30
SlurmdTimeout=30
MaxArraySize=1001
NodeName={host} NodeAddr=127.0.0.1 {hardware} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that are not installed, and what else a Slurm of one's own needs."""
    lost = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return lost if os.geteuid() == 0 else [*lost, "root in this container"]


def start(folder: Path) -> dict[str, str]:
    """Start munged, slurmctld and slurmd; the environment for their commands.

    RuntimeError with the logs when they do not come.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)  # munged insists on folders that nobody else can write to
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=host, folder=folder, ports=free_ports(2), hardware=hardware(environment))
    )
    try:
        daemon(
            folder,
            environment,
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={folder}/munge.socket",
            f"--seed-file={folder}/munge.seed",
            f"--pid-file={folder}/munge.own.pid",
        )
        wait_until(lambda: (folder / "munge.socket").exists(), folder, "munged")
        daemon(folder, environment, "slurmctld", "-D", "-f", environment["SLURM_CONF"])
        daemon(folder, environment, "slurmd", "-D", "-N", host, "-f", environment["SLURM_CONF"])
        wait_until(
            lambda: "idle" in ask(environment, "sinfo", "-h", "-o", "%T"), folder, "slurmctld", "slurmd"
        )
    except BaseException:
        stop(folder)
        raise
    return {name: environment[name] for name in ("PATH", "SLURM_CONF")}


def daemon(folder: Path, environment: dict[str, str], name: str, *words: str) -> None:
    """A process in a session of its own, its id in a file."""
    with open(folder / f"{name}.out", "wb") as out:
        process = subprocess.Popen(
            [shutil.which(name, path=PATH) or name, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    (folder / f"{name}.started").write_text(str(process.pid))


def stop(folder: Path) -> None:
    """End what `start` started, the youngest first."""
    for name in ("slurmd", "slurmctld", "munged"):
        file = folder / f"{name}.started"
        if not file.exists():
            continue
        pid = int(file.read_text())
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            end = time.monotonic() + 10
            while running(pid) and time.monotonic() < end:
                time.sleep(0.1)
            if not running(pid):
                break
        file.unlink()


def running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a running Slurm, which ends with the block."""
    try:
        yield start(folder)
    finally:
        stop(folder)


def hardware(environment: dict[str, str]) -> str:
    """CPUs and their layout, as slurmd sees them."""
    words = ask(environment, "slurmd", "-C").split()
    kept = ("CPUs", "Boards", "SocketsPerBoard", "CoresPerSocket", "ThreadsPerCore", "RealMemory")
    return " ".join(word for word in words if word.partition("=")[0] in kept)


def ask(environment: dict[str, str], *words: str) -> str:
    """What a command prints; "" when it fails."""
    program = shutil.which(words[0], path=PATH) or words[0]
    done = subprocess.run([program, *words[1:]], env=environment, capture_output=True, text=True, timeout=30)
    return done.stdout if done.returncode == 0 else ""


def wait_until(ready: object, folder: Path, *names: str, seconds: float = 60) -> None:
    """Poll until `ready()`; RuntimeError with the logs after `seconds`."""
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        if time.monotonic() > end:
            logs = [folder / f"{name}{ending}" for name in names for ending in (".out", ".log")]
            said = "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())
            raise RuntimeError(f"{' and '.join(names)} did not start:\n{said}")
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    verb, place = sys.argv[1:]
    if verb == "start":
        for variable, value in start(Path(place)).items():
            print(f"export {variable}={value}")
    else:
        stop(Path(place))
