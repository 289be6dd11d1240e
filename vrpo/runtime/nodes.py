"""`vrpo --nodes N --gpus G STAGE ...` in a SLURM job: one stage on the GPUs of several nodes.

The process on the job's first node has `srun` start `main` once on each node. That takes the
node's GPUs and runs its ranks by `torchrun`. The ranks meet at a port of the first node and are
numbered in SLURM's order of the nodes, so that the same number gives the same results.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence

from vrpo.errors import INTERRUPTED, PREFIX, UserError, refuse
from vrpo.runtime.launch import launch
from vrpo.runtime.queue import put_back
from vrpo.runtime.ranks import set_up_logging

STEP = (
    "--ntasks-per-node=1",
    "--overlap",  # never waits for another step of the job
    "--cpu-bind=none",  # a node's ranks share its CPUs
    "--kill-on-bad-exit=1",
    "--wait=300",  # seconds, for the others after the first has ended
    "--input=none",
)
ENDS_WITHIN = 35  # seconds, of the other nodes after the first that failed; KillWait is 30
SAYS = PREFIX.partition(" ")[0]  # begins what a command says of its own end
MEET_WITHIN = 300  # seconds from the start of a node's process to that of the last one
OF_SLURM = re.compile(r"(?:srun|slurmstepd): (error: )?(.*)")
ENDED = re.compile(r".*: tasks? .*|Node failure on .*")
CAUSE = re.compile("oom_kill|Out Of Memory|Node failure")  # which no rank can say


def run_on_nodes(nodes: int, gpus: int, arguments: Sequence[str]) -> int:
    """Run a stage on all nodes of this process's SLURM job; each error is shown once.

    A SIGTERM of SLURM reaches every process of the job. The ranks save, and this one waits.

    Args:
        nodes: how many.
        gpus: of each node, as `launch` takes them.
        arguments: the stage and its arguments.

    Returns:
        The exit status.

    Raises:
        UserError: this is no SLURM job.
    """
    if "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            f"--nodes: {nodes} nodes are asked for outside a SLURM job; "
            "use `--workflow-profile slurm`, or set --set-resources train:nodes=1"
        )
    host, port = socket.gethostname(), _free_port()
    meeting = [str(nodes), host, str(port), _torch_version()]
    command = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", *STEP]
    command += [sys.executable, "-m", "vrpo.runtime.nodes", *meeting, str(gpus), *arguments]
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        step = subprocess.Popen(command, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise UserError("srun: not found on this node; make SLURM's commands available") from None
    late = threading.Timer(ENDS_WITHIN, step.kill)
    late.daemon = True
    # a progress bar's lines end in \r, and stay so
    said, errors = pass_on(
        io.TextIOWrapper(step.stderr, errors="replace", newline=""), on_end=late.start
    )
    status = step.wait()
    late.cancel()
    refused = any(line.startswith(PREFIX) for line in said)
    causes = dict.fromkeys(line for line in errors if CAUSE.search(line))
    if status and refused and causes:  # ranks that lost another one have spoken
        print(f"{PREFIX}{'; '.join(causes)}; the same command resumes", file=sys.stderr)
    elif status and not refused and not (said and status == INTERRUPTED):
        print(f"{PREFIX}{_reason(status, errors)}", file=sys.stderr)
    return INTERRUPTED if status < 0 else status


def _reason(status: int, errors: list[str]) -> str:
    """Why a step ended that said nothing itself; where a node is lost, the job is put back."""
    ended = [line for line in errors if ENDED.match(line)]
    if status == -signal.SIGKILL and all("Exited with" in line for line in ended):
        reason = "a node of the job does not answer"
        if put_back(by_itself=True):
            return f"{reason}; SLURM runs this job again"
    else:
        reason = "; ".join(dict.fromkeys(errors)) or f"srun ended with exit status {status}"
    return f"{reason}; the same command resumes"


def pass_on(lines: Iterable[str], on_end: Callable[[], None]) -> tuple[set[str], list[str]]:
    """Write lines to stderr, those that say why once, and SLURM's own never.

    Args:
        lines: what `srun` and the tasks say.
        on_end: called when SLURM says the first time that a task has ended.

    Returns:
        Errors and reasons of an interruption, and SLURM's own errors in their order.
    """
    said, errors, running = set(), [], True
    for line in lines:
        if line in said:
            continue
        if line.startswith(SAYS):
            said.add(line)
        elif found := OF_SLURM.match(line):
            if found[1]:
                errors.append(found[2])
            if running and found[1] and line.startswith("srun") and ENDED.match(found[2]):
                running = False
                on_end()
            continue
        sys.stderr.write(line)
        sys.stderr.flush()
    return said, errors


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _torch_version() -> str:
    return importlib.metadata.version("torch")


def main() -> None:
    """Run the ranks of this node; started by `srun`, once on each."""
    nodes, host, port, version, gpus, *arguments = sys.argv[1:]
    sys.path.append("")
    set_up_logging()
    try:
        if (own := _torch_version()) != version:
            raise UserError(
                f"torch: {socket.gethostname()} has version {own} and {host} {version}; "
                "install the same one on all nodes"
            )
        node = os.environ["SLURM_PROCID"]
        meeting = [f"--nnodes={nodes}", f"--node-rank={node}", f"--master-addr={host}"]
        meeting += [f"--master-port={port}", f"--rdzv-conf=timeout={MEET_WITHIN}"]
        launch(int(gpus), arguments, meeting)
    except UserError as error:
        refuse(error)


if __name__ == "__main__":
    main()
