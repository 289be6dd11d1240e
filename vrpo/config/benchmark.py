"""Options of the method benchmark (docs/benchmark.md): who competes, on which seeds and scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Literal

from pydantic import model_validator

from vrpo.config.base import LONGEST_NAME, Labelled, Name, Options, Rows, Seed, option

LEAST_VERDICT_SEEDS = 5
SEARCH = "search-"  # how the names of the search's runs begin


class BenchmarkOptions(Options):
    """The method benchmark (docs/benchmark.md); its generated runs take the place of `runs`."""

    model: str = option(..., "size and patch of every run, as in `runs`")
    processes: list[Name] = option(
        ..., "keys of `processes` for search and comparison: one setting for all", min_length=1
    )
    search_seeds: list[Seed] = option(list, "training seeds of the search")
    verdict_seeds: list[Seed] = option(
        ..., f"training seeds of the verdict: {LEAST_VERDICT_SEEDS} or more, none of the search's"
    )
    validation: str | None = option(
        None,
        "score of the search, e.g. `fd_validation` of an `evaluation.extra_networks`; "
        "null: no search",
    )
    held_out: str = option("fid", "score that the verdict is about; the search never sees it")
    candidates: Rows[list[Name]] | None = option(
        None,
        "{kind: alignments of this kind}, what the search chooses from, the simplest first, "
        "equally many of each kind; null: no search, `chosen` is given",
    )
    chosen: Rows[Name] | None = option(
        None,
        "{kind: alignment} that stands for each searched kind, `repa` and `vrpo` among them: what "
        "the rule gave, written down after the search; null: only the search is run; null for a "
        "kind leaves it out",
    )
    compared: list[Name] = option(
        ..., "alignments in the comparison, the chosen ones among them", min_length=2
    )
    ablations: list[Name] = option(list, "alignments that differ from the chosen VRPO in one thing")
    ablation_processes: list[Name] | None = option(
        None, "keys of `processes` for the ablations; null: all of `processes`", min_length=1
    )
    diagnosed: Labelled | None = option(
        None,
        "{label: alignment}, of `compared` and `ablations`, in the figures "
        "`diagnostics_<process>`; null: the chosen REPA and VRPO",
    )
    ablation_milestones: Literal["all", "last"] = option(
        "last", "milestones at which ablations are scored; their table is about the last"
    )

    @model_validator(mode="after")
    def _fair(self) -> BenchmarkOptions:
        self._check_seeds()
        if self.validation == self.held_out:
            raise ValueError(
                f"`validation` and `held_out` are both `{self.held_out}`; "
                "the search must not see the score of the verdict"
            )
        for option_name in ("processes", "compared", "ablations", "ablation_processes"):
            named = getattr(self, option_name) or []
            if len(set(named)) < len(named):
                raise ValueError(f"`{option_name}` {named} names one of them twice; give each once")
        if stray := sorted({*(self.ablation_processes or [])} - {*self.processes}):
            raise ValueError(
                f"`ablation_processes`: `{stray[0]}` is not in `processes` {self.processes} "
                "of the benchmark; name one that is"
            )
        self._check_diagnosed()
        self._check_search()
        self._check_run_names()
        for method, name in (self.chosen or {}).items():
            if name not in self.compared:
                raise ValueError(
                    f"`chosen.{method}`: `{name}` is not in `compared` {self.compared}; add it"
                )
        return self

    def _check_seeds(self) -> None:
        search, verdict = {*self.search_seeds}, {*self.verdict_seeds}
        if len(verdict) < max(LEAST_VERDICT_SEEDS, len(self.verdict_seeds)):
            raise ValueError(
                f"`verdict_seeds` {self.verdict_seeds} must be {LEAST_VERDICT_SEEDS} or more, "
                "all different; correct them"
            )
        if len(search) < len(self.search_seeds):
            raise ValueError(
                f"`search_seeds` {self.search_seeds} must be different from each other; "
                "give each once"
            )
        if both := sorted(search & verdict):
            raise ValueError(
                f"seed {both[0]} is in `search_seeds` and in `verdict_seeds`; "
                "the verdict needs fresh seeds"
            )

    def _check_diagnosed(self) -> None:
        if not self.diagnosed:
            return
        diagnosed = {*self.diagnosed.values()}
        if stray := sorted(diagnosed - {*self.compared, *self.ablations}):
            raise ValueError(
                f"`diagnosed`: `{stray[0]}` is neither in `compared` nor in `ablations`; "
                "name one that is trained"
            )
        for process in self.processes if self.chosen else ():
            trained = self.compared_runs(process) | self.ablation_runs(process)
            if diagnosed.isdisjoint(trained.values()):
                raise ValueError(
                    f"`diagnosed` names nothing that is trained on `{process}`; "
                    "add one of `compared`, e.g. the chosen VRPO"
                )

    def _check_search(self) -> None:
        for option_name in ("candidates", "chosen"):
            given = getattr(self, option_name)
            if given is not None and (missing := {"repa", "vrpo"} - {*given}):
                raise ValueError(
                    f"`{option_name}` has {_listed(given)} and lacks `{min(missing)}`; add it"
                )
        if self.candidates is None:
            if self.chosen is None:
                raise ValueError(
                    "neither `candidates` nor `chosen` is given; name candidates for a search, "
                    "or what is compared without one"
                )
            return
        counts = {method: len(names) for method, names in self.candidates.items()}
        if len({*counts.values()}) > 1:
            listed = ", ".join(f"{method} has {count}" for method, count in counts.items())
            raise ValueError(
                f"`candidates`: {listed}; give all equally many, or the comparison is not fair"
            )
        if self.chosen is not None and {*self.chosen} != {*self.candidates}:
            raise ValueError(
                f"`chosen` has {_listed(self.chosen)}, `candidates` {_listed(self.candidates)}; "
                "give one of each kind"
            )
        for method, names in self.candidates.items():
            if len(set(names)) < max(len(names), 1):
                raise ValueError(
                    f"`candidates.{method}` {names} is empty or names an alignment twice; "
                    "give each once"
                )
            chosen = (self.chosen or {}).get(method)
            if chosen is not None and chosen not in names:
                raise ValueError(
                    f"`chosen.{method}`: `{chosen}` is not in `candidates.{method}`; "
                    f"name one of {', '.join(names)}"
                )
        if not self.search_seeds or self.validation is None:
            raise ValueError(
                "`candidates` are given, so `search_seeds` and `validation` must be, too; give both"
            )

    def _check_run_names(self) -> None:
        owners: dict[str, tuple[str, str]] = {}
        for process in self.processes:
            verdict = self.compared_runs(process) | self.ablation_runs(process)
            for run, name in (self.search_runs(process) | verdict).items():
                if len(run) > LONGEST_NAME:
                    raise ValueError(
                        f"`processes`: the run `{run}` would have a name of more than "
                        f"{LONGEST_NAME} characters; give shorter names"
                    )
                if owners.setdefault(run, (process, name)) != (process, name):
                    raise ValueError(
                        f"`processes`: two runs would have the name `{run}`; "
                        f"rename `{process}` or `{name}`"
                    )

    @property
    def repa(self) -> str:
        """The alignment that stands for REPA; others are compared with it."""
        return self.chosen["repa"]

    @property
    def vrpo(self) -> str:
        """The alignment that stands for VRPO; ablations are compared with it."""
        return self.chosen["vrpo"]

    # ---- runs and the names in the options ------------------------------------------------------

    def named(self) -> Iterator[tuple[str, str, str | None]]:
        """(option, alignment, kind that it must have or None) of all alignments named here."""
        for method, names in (self.candidates or {}).items():
            for name in names:
                yield f"candidates.{method}", name, method
        for method, name in (self.chosen or {}).items():
            yield f"chosen.{method}", name, method
        for option_name in ("compared", "ablations"):
            for name in getattr(self, option_name):
                yield option_name, name, None

    def search_runs(self, process: str) -> dict[str, str]:
        """{run: alignment} of the search on `process`."""
        candidates = chain.from_iterable((self.candidates or {}).values())
        return {search_name(process, name): name for name in candidates}

    def compared_runs(self, process: str) -> dict[str, str]:
        """{run: alignment} of the comparison on `process`."""
        return {run_name(process, name): name for name in self.compared} if self.chosen else {}

    def ablation_runs(self, process: str) -> dict[str, str]:
        """{run: alignment} of the ablations on `process`."""
        wanted = self.chosen and process in (self.ablation_processes or self.processes)
        return {run_name(process, name): name for name in self.ablations} if wanted else {}

    def rows(self, milestones: list[int]) -> dict[str, dict[str, Any]]:
        """`runs` of the benchmark.

        The search has its seeds and the last of `milestones`, the comparison the verdict's seeds
        and all milestones (None).
        """
        last = milestones[-1:]
        ablated = last if self.ablation_milestones == "last" else None
        rows: dict[str, dict[str, Any]] = {}

        def add(process: str, runs: dict[str, str], **when: list[int] | None) -> None:
            for run, name in runs.items():
                row = {"model": self.model, "process": process, "alignment": name, **when}
                rows.setdefault(run, row)

        search, verdict = self.search_seeds, self.verdict_seeds
        for process in self.processes:
            add(process, self.search_runs(process), seeds=search, milestones=last)
        for process in self.processes:
            add(process, self.compared_runs(process), seeds=verdict, milestones=None)
            add(process, self.ablation_runs(process), seeds=verdict, milestones=ablated)
        return rows


def search_name(process: str, alignment: str) -> str:
    """The search's run of an alignment."""
    return f"{SEARCH}{process}-{alignment}"


def run_name(process: str, alignment: str) -> str:
    """The verdict's run of an alignment."""
    return f"{process}-{alignment}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
