"""Resolved configs: for each stage exactly what it depends on, in a file.

Rules take these files as inputs: changing a plot's title retrains nothing, changing an encoder's
training redoes what depends on it. A file is rewritten only when its content changes.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from vrpo.config.base import Options
from vrpo.config.described import described_report
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.reading import load_resolved, sealed
from vrpo.config.strict_yaml import dump_yaml
from vrpo.errors import UserError
from vrpo.files import short_hash, write_text_if_changed
from vrpo.plan.jobs import collection, trainings
from vrpo.plan.paths import Paths

PLAN = ".plan.yaml"
VARIABLE = "VRPO_PLAN"
LONGEST_TEXT = 100_000  # bytes; a shell command may have 128 KiB


def resolved_files(config: ExperimentConfig) -> dict[Path, Options]:
    """Every resolved config of the experiment, by path."""
    paths = Paths.of(config)
    stages: dict[str, Options | None] = {
        "images": config.data,
        "tokenizer": config.tokenizer,
        "critic": config.critic,
        "evaluation": config.evaluation,
        "experiment": config,
        "collect": collection(config),
        "tracking": config.tracking.model_copy(
            update={"project": config.tracking.project or config.experiment}
        ),
        "report": described_report(config),
        "benchmark": config.benchmark,
        "representation": config.representation,
        **{f"encoders/{name}": encoder for name, encoder in config.encoders.items()},
        **{f"samplers/{name}": sampler for name, sampler in config.samplers.items()},
    }
    files = {paths.config(name): options for name, options in stages.items() if options}
    runs = {paths.run_config(*key): config.run_config(*key) for key in trainings(config)}
    return {**files, **runs}


@dataclass(frozen=True)
class Plan:
    """A workflow's experiment and the text of each resolved config.

    Planning writes nothing. Jobs write the configs. The plan itself is written once the results are
    locked, for cluster jobs, which read the Snakefile again.
    """

    experiment: ExperimentConfig
    texts: Mapping[Path, str]

    @classmethod
    def of(cls, experiment: ExperimentConfig) -> Plan:
        """The plan of an experiment.

        Raises:
            UserError: a resolved config is too long to be handed to a job.
        """
        files = resolved_files(experiment)
        texts = {path: sealed(options.model_dump(mode="json")) for path, options in files.items()}
        for path, text in texts.items():
            if (size := len(text.encode())) > LONGEST_TEXT:
                raise UserError(
                    f"{path}: the resolved config has {size:,} bytes, "
                    f"{LONGEST_TEXT:,} at most are possible; cut the experiment in two"
                )
        return cls(experiment, texts)

    @property
    def path(self) -> Path:
        """Where the plan is written."""
        return Paths.of(self.experiment).folder / PLAN

    def is_stale(self, path: Path) -> bool:
        """Whether a resolved config on the disk differs from the planned one."""
        return path.is_file() and path.read_bytes() != self.texts[path].encode()

    def publish(self, environment: MutableMapping[str, str]) -> None:
        """Name the plan in `environment`, which jobs inherit."""
        path = self.path.absolute()
        environment[VARIABLE] = f"{path}#{short_hash(self._as_yaml().encode())}"

    def write(self) -> None:
        """Write the plan for the processes that `publish` names it to."""
        write_text_if_changed(self.path, self._as_yaml())

    def _as_yaml(self) -> str:
        """The options that were set; whether one was, tells more than its value."""
        return dump_yaml(self.experiment.model_dump(mode="json", exclude_unset=True))

    @classmethod
    def published(cls, environment: Mapping[str, str]) -> Plan | None:
        """The plan that `environment` names; None where it names none or none was written.

        Raises:
            UserError: another workflow has been started on the results since.
        """
        name, _, digest = environment.get(VARIABLE, "").rpartition("#")
        if not Path(name).is_file():
            return None
        if short_hash(Path(name).read_bytes()) != digest:
            raise UserError(
                f"{name}: another workflow was started on these results with other options, "
                "this job is of an earlier one; start the workflow again"
            )
        return cls.of(load_resolved(ExperimentConfig, name))
