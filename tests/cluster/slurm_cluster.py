"""A real SLURM cluster of one node, with its own daemons, ports and files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# On Debian: apt install slurm-wlm munge. SLURM's commands find this cluster through SLURM_CONF.
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "setpriv")
TIMEOUT = 30  # seconds within which a daemon must answer

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until credentials expire: at least 5 seconds (by default 120).
AuthInfo=socket={home}/munge.socket,cred_expire=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
MailProg=/bin/true
MpiDefault=none
# linuxproc signals all processes of a job; proctrack/cgroup and pgid signal only the first.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=20
MessageTimeout=5
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 PriorityTier=1 State=UP
PartitionName=urgent Nodes={host} MaxTime=60 PriorityTier=2 PreemptMode=OFF State=UP
"""


class SlurmCluster:
    """Context with a running cluster of 4 CPUs (on any machine) without accounting.

    It has the partitions main and urgent. Jobs in urgent preempt those in main.

    Raises:
      RuntimeError: on entering, if a program is missing or a daemon does not start.
    """

    def __init__(self) -> None:
        self.host = socket.gethostname().partition(".")[0]
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> SlurmCluster:
        if os.geteuid() != 0:
            raise RuntimeError("SLURM's daemons need root")
        for program in PROGRAMS:
            if shutil.which(program) is None:
                raise RuntimeError(f"{program} is not installed")
        self.home = Path(tempfile.mkdtemp(prefix="slurm-"))  # short, because it holds sockets
        self.conf = self.home / "slurm.conf"
        self.conf.write_text(
            CONF.format(
                home=self.home,
                host=self.host,
                controller_port=free_port(),
                node_port=free_port(),
            )
        )
        (self.home / "state").mkdir()
        (self.home / "spool").mkdir()
        key = self.home / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {name: self.home / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        try:
            self._start(
                *("munged", "--foreground", "--force", f"--socket={files['socket']}"),
                *(f"--key-file={key}", f"--pid-file={files['pid']}"),
                *(f"--log-file={files['log']}", f"--seed-file={files['seed']}"),
            )
            self._wait(files["socket"].exists, "munged does not start")
            self.start_controller()
            self._start("slurmd", "-D")
            self._wait(lambda: self.run("sinfo", "-h", "-o", "%t") == "idle", "no node comes up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._daemons)[::-1]:
            self._stop(name)
        # Jobs and their step daemons, which do not end with the other daemons.
        variable = f"SLURM_CONF={self.conf}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # the process has ended, or belongs to another user
                if variable in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)

    def run(self, *command: str) -> str:
        """Runs a command of SLURM; returns its output and errors."""
        done = subprocess.run(
            command,
            env={**os.environ, "SLURM_CONF": str(self.conf)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.strip()

    def start_controller(self, *options: str) -> None:
        """Starts slurmctld; with the option -c it forgets all jobs."""
        self._start("slurmctld", "-D", *options)
        self._wait(lambda: "UP" in self.run("scontrol", "ping"), "slurmctld does not start")

    def stop_controller(self) -> None:
        """Stops slurmctld; running jobs continue."""
        self._stop("slurmctld")

    def _start(self, *command: str) -> None:
        """Starts a daemon, which ends with this process even if that is killed."""
        with (self.home / f"{command[0]}.out").open("ab") as out:
            self._daemons[command[0]] = subprocess.Popen(
                ("setpriv", "--pdeathsig=TERM", *command),
                env={**os.environ, "SLURM_CONF": str(self.conf)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _stop(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _wait(self, condition: Callable[[], object], message: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                out = self.home / f"{(ended or list(self._daemons))[-1]}.out"
                raise RuntimeError(f"{message}: {out.read_text()[-500:]}")
            time.sleep(0.1)


def free_port() -> int:
    """Returns a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
