"""Snakemake's limit of jobs a second, which makes it select jobs all the time."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.types import MaxJobsPerTimespan

from vrpo.workflow.hooks import leave_out_default_rate

DEFAULT = get_argument_parser().get_default("max_jobs_per_timespan")


@pytest.mark.parametrize(("given", "kept"), [(DEFAULT, False), ("1/1s", True), ("100/1m", True)])
def test_only_the_default_limit_is_left_out(given: str, kept: bool) -> None:
    assert "self.job_rate_limiter = " in inspect.getsource(JobScheduler), "what is left out"
    scheduler = SimpleNamespace(job_rate_limiter=object())
    settings = SimpleNamespace(max_jobs_per_timespan=MaxJobsPerTimespan.parse_choice(given))
    leave_out_default_rate(SimpleNamespace(scheduling_settings=settings, scheduler=scheduler))
    assert (scheduler.job_rate_limiter is not None) == kept
