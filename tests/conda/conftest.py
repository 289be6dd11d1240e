"""Environments of their own for Snakemake and its jobs; only `make check-envs` makes them."""

import os

if not os.environ.get("VRPO_CHECK_ENVS"):
    collect_ignore_glob = ["test_*.py"]
