"""A Slurm with two nodes of one core on this machine, from Debian's packages slurmctld, slurmd and slurm-client.

No munge, cgroups or systemd: `auth/none` accepts every user, so it is for tests only. Usable as a program too:

    python tests/slurm_sandbox.py up FOLDER     prints the variable to export
    python tests/slurm_sandbox.py down FOLDER
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

IS_INSTALLED = all(
    shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("slurmctld", "slurmd", "sbatch")
)
NODES = ("n1", "n2")
CONF = """\
ClusterName=sandbox
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
MessageTimeout=10
SlurmdTimeout=30
PropagatePrioProcess=0
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0
{nodes}
PartitionName=p Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""KillWait and cred_expire decide after how many seconds a requeued job may start: over a minute by default."""


class Sandbox:
    """One controller and its nodes. Processes read SLURM_CONF."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"

    def up(self) -> None:
        """Start all daemons and wait until the nodes are idle."""
        for name in ("state", "log", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        host = socket.gethostname()
        port, *ports = _free_ports(1 + len(NODES))
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=4000"
            for node, port in zip(NODES, ports, strict=True)
        ]
        values = {
            "host": host,
            "user": getpass.getuser(),
            "port": port,
            "folder": self.folder,
            "nodes": "\n".join(nodes),
        }
        self.conf.write_text(CONF.format(**values))
        self.start_controller()
        for node in NODES:
            self.start_node(node)

    def start_controller(self) -> None:
        self._run("slurmctld")
        _wait(lambda: self._answers("scontrol", "ping"), "slurmctld does not answer")

    def start_node(self, node: str) -> None:
        """Start a node's daemon, also after `kill_node`, and wait until it takes jobs."""
        self._run("slurmd", "-N", node)

        def takes_jobs() -> bool:
            state = self.state(node)
            if state.startswith("down"):  # refused if the daemon has registered meanwhile
                self._answers("scontrol", "update", f"NodeName={node}", "State=RESUME")
            return state.rstrip("*") in ("idle", "mixed", "allocated")

        _wait(takes_jobs, f"{node} takes no jobs")

    def state(self, node: str) -> str:
        """Slurm's word for the state of a node."""
        return self._run("sinfo", "--noheader", f"--nodes={node}", "--format=%T").strip()

    def kill_controller(self) -> None:
        """SIGKILL; jobs continue without it."""
        self._kill(int((self.folder / "slurmctld.pid").read_text()))

    def kill_node(self, node: str) -> None:
        """End a node as a power failure does: its daemon and everything that jobs started on it, at once."""
        daemon = int((self.folder / f"slurmd.{node}.pid").read_text())
        for process in [daemon, *self._processes_of(node)]:
            self._kill(process)
        self._run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=killed")

    def down(self) -> None:
        """End the daemons and all jobs."""
        if self._answers("scontrol", "ping"):
            subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=self.environment(), check=False)
            _wait(lambda: not self._run("squeue", "--noheader").strip(), "jobs do not end")
        for file in self.folder.glob("*.pid"):
            self._kill(int(file.read_text()))

    def environment(self) -> dict[str, str]:
        path = f"{os.environ['PATH']}:/usr/sbin"
        return {**os.environ, "SLURM_CONF": str(self.conf), "PATH": path}

    def _processes_of(self, node: str) -> list[int]:
        """Slurm's own processes for the jobs of a node, then the jobs: a live one would report that its job failed."""
        marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.conf}".encode()}
        jobs, managers = set[int](), set[int]()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if marks <= set((folder / "environ").read_bytes().split(b"\0")):
                    jobs.add(int(folder.name))
            except OSError:  # ended in the meantime, or another user's
                continue
        for process in jobs:
            while _name(process := _parent(process)) == "slurmstepd":
                managers.add(process)
        return [*managers, *jobs]

    def _kill(self, process: int) -> None:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return
        _wait(lambda: not Path(f"/proc/{process}/exe").exists(), f"process {process} does not end")

    def _run(self, *words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, env=self.environment(), stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"
        return done.stdout

    def _answers(self, *words: str) -> bool:
        done = subprocess.run(words, capture_output=True, text=True, env=self.environment(), stdin=subprocess.DEVNULL)
        return done.returncode == 0 and "DOWN" not in done.stdout


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def _wait(condition: Callable[[], bool], problem: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(0.1)


if __name__ == "__main__":
    sandbox = Sandbox(Path(sys.argv[2]).absolute())
    if sys.argv[1] == "up":
        sandbox.up()
        print(f"export SLURM_CONF={sandbox.conf}")
    else:
        sandbox.down()
