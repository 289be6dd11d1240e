"""Checks before a workflow's first job, and results that are kept and restored."""

KEEP = "VRPO_KEEP"
"""Environment variable set in workflows: new results get a second name until the workflow ends,
and logs of failed tries are kept.
"""
