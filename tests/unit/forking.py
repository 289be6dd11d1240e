"""Trainings in forked children of one process that has imported everything: starting one takes milliseconds, so many can be killed.

`python forking.py FOLDER MILESTONE kill KILLS RUN` trains the toy in RUN, killed KILLS times; `... ranks N RUN...` trains it on N ranks in each RUN,
the run whose folder is named `<alignment>-<process>` with these two, others with VRPO on SiT.
`... states N RUN` trains all of VRPO, and each rank writes the state that it would save to RUN/rank<R>.pt.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from striking import strike_at
from training_fixtures import ALIGNMENTS, Toy, milestone_file

import vrpo.files
from vrpo.training.run import train
from vrpo.training.trainer import Trainer

MOMENTS = [
    (Trainer, "train_step", "before"),  # beside it, a state is being written
    (Trainer, "train_step", "after"),
    (vrpo.files, "commit", "torn"),  # beside it, the training goes on
    (vrpo.files, "commit", "before"),
    (vrpo.files, "commit", "after"),
]


def child(
    toy: Toy,
    run: Path,
    milestone: int,
    environment: dict[str, str],
    save_minutes: float,
    names: tuple[str, ...],
    strike: tuple | None = None,
) -> int:
    """Fork a process that trains to `milestone`, or until it strikes itself; its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.environ.update(environment)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2) if not environment else None
        if strike:
            strike_at(*strike)
        config = toy.config(*names)
        inputs = toy.inputs(config)
        train(
            config,
            **inputs,
            milestone=milestone,
            output=milestone_file(run, milestone),
            device="cpu",
            log_every=5,
            save_minutes=save_minutes,
        )
        status = 0
    finally:
        os._exit(status)


def kill_at_random_moments(toy: Toy, run: Path, milestone: int, kills: int) -> tuple[int, int]:
    """Kills that met a running training, and those that left a half-written file."""
    moments, met, half_written = random.Random(0), 0, 0
    for _ in range(kills):
        owner, name, when = moments.choice(MOMENTS)
        pid = child(
            toy,
            run,
            milestone,
            {},
            1e-9,
            (),
            strike=(owner, name, moments.randint(1, milestone // kills), when),
        )
        met += os.waitpid(pid, 0)[1] == signal.SIGKILL
        half_written += any(run.rglob("*.partial"))
    return met, half_written


def on_ranks(toy: Toy, run: Path, milestone: int, world: int, *names: str) -> list[int]:
    """Exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pids = [
        child(
            toy, run, milestone, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, 10.0, names
        )
        for rank in range(world)
    ]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def write_states(folder: Path) -> None:
    """Let every rank write what it would save."""
    state_dict = Trainer.state_dict

    def written(self: Trainer) -> dict[str, Any]:
        state = state_dict(self)
        torch.save(state, folder / f"rank{self.ranks.rank}.pt")
        return state

    Trainer.state_dict = written


def main() -> None:
    folder, milestone, what, number, runs = (
        Path(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        int(sys.argv[4]),
        list(map(Path, sys.argv[5:])),
    )
    torch.set_num_threads(1)
    toy = Toy(folder)
    config = toy.config("vrpo")
    train(
        config,
        **toy.inputs(config),
        milestone=1,
        output=milestone_file(folder / "warm", 1),
        device="cpu",
    )  # what is imported late is imported now
    if what == "states":
        runs[0].mkdir(parents=True)
        write_states(runs[0])
        print(*on_ranks(toy, runs[0], milestone, number, "everything"))
    elif what == "kill":
        print(*kill_at_random_moments(toy, runs[0], milestone, number))
    else:
        named = (
            (run, run.name.split("-") if run.name.split("-")[0] in ALIGNMENTS else ())
            for run in runs
        )
        print(
            *(
                code
                for run, names in named
                for code in on_ranks(toy, run, milestone, number, *names)
            )
        )


if __name__ == "__main__":
    main()
