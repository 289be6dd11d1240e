"""Checks before a workflow's first job, and results that are kept and restored."""
