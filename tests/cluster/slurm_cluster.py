"""A real SLURM of one node, with daemons, ports and files of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

# On Debian: apt install slurm-wlm munge. The commands of SLURM find this cluster by SLURM_CONF.
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "setpriv")
TIMEOUT = 30  # seconds until a daemon answers

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that was requeued waits until credentials expire: 5 seconds at the least, 120 usually.
AuthInfo=socket={home}/munge.socket,cred_expire=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
MailProg=/bin/true
MpiDefault=none
# It sends signals to all processes of a job; proctrack/cgroup and pgid to the first.
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
    """Context in which a cluster runs: 4 CPUs (whatever the machine has), no accounting.

    Its partitions are main and urgent, whose jobs take the place of those in main.

    Raises:
      RuntimeError: on entering, where the machine lacks something or a daemon does not start.
    """

    def __init__(self):
        self.host = socket.gethostname().partition(".")[0]
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> SlurmCluster:
        if os.geteuid() != 0:
            raise RuntimeError("the daemons of SLURM need root")
        for program in PROGRAMS:
            if shutil.which(program) is None:
                raise RuntimeError(f"there is no {program}")
        self.home = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: sockets are in it
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
        # Jobs and what watches over them; they do not end with the daemons.
        mark = f"SLURM_CONF={self.conf}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)

    def run(self, *command: str) -> str:
        """Output of one of SLURM's commands; its error if it fails."""
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
        """Starts slurmctld; with -c it has forgotten all jobs."""
        self._start("slurmctld", "-D", *options)
        self._wait(lambda: "UP" in self.run("scontrol", "ping"), "slurmctld does not start")

    def stop_controller(self) -> None:
        """Stops slurmctld; jobs run on."""
        self._stop("slurmctld")

    def _start(self, *command: str) -> None:
        """Starts a daemon, which ends with this process in any case."""
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

    def _wait(self, condition, message: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                out = self.home / f"{(ended or list(self._daemons))[-1]}.out"
                raise RuntimeError(f"{message}: {out.read_text()[-500:]}")
            time.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
