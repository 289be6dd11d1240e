# make demo          the whole pipeline in miniature, from images to report.html
# make test          all tests
# make test-slurm    jobs on a SLURM of two nodes, which it installs (Debian or Ubuntu, root)
# make check-envs    every rule in the environments of envs/, made from PyPI (15 GB, no conda)
# make lint          formatting and static checks
# make benchmark     the method benchmark in miniature, hours on two CPU cores (docs/benchmark.md)
# make redraw        figures, tables and report from collected results; FIGURE=fid for one
# make docs          the generated option reference
# make site          the documentation site, in site/
# make requirements  pin what pyproject.toml asks for, without the extra trackers
#
# Each makes what it needs, .venv included, and nothing twice. CORES=4 limits the cores.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
CORES ?= all
CONFIG ?= config/mini.yaml
FIGURE ?= $$(python -m vrpo.report.catalogue) report
EXTRAS := workflow parquet dev
VENV := .venv
STAMP := $(VENV)/.installed
SITE := .venv-site
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help environment demo test test-slurm check-envs lint benchmark redraw docs site requirements

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

environment: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@PYTHON="$(PYTHON)" VENV="$(VENV)" .ci/environment
	@touch $@

demo: $(STAMP)
	snakemake --cores $(CORES) --configfile $(CONFIG)
	@python -c "from vrpo.config import load_experiment; from vrpo.plan.paths import Paths; print('The report: ', Paths.of(load_experiment('$(CONFIG)')).report.resolve())"

test: $(STAMP)
	OMP_NUM_THREADS=1 pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slurm: $(STAMP)
	OMP_NUM_THREADS=1 VRPO_TEST_SLURM=1 pytest -v -rs --confcutdir tests/slurm tests/slurm

check-envs: $(STAMP)
	OMP_NUM_THREADS=1 VRPO_CHECK_ENVS=1 pytest -v --confcutdir tests/conda -o timeout=3600 tests/conda

lint: $(STAMP)
	ruff check
	ruff format --check
	snakefmt --check Snakefile workflow
	snakemake --lint

benchmark: $(STAMP)
	snakemake --cores $(CORES) --configfile config/mini.yaml config/benchmark.yaml -- benchmark

redraw: $(STAMP)
	snakemake --cores $(CORES) --configfile $(CONFIG) --allowed-rules resolved_config $(FIGURE) --forcerun $(FIGURE) -- $(FIGURE)

docs: $(STAMP)
	vrpo docs

site: $(SITE)/.installed
	PATH=$(SITE)/bin:$$PATH NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

$(SITE)/.installed: docs/requirements.txt
	@PYTHON="$(PYTHON)" VENV="$(SITE)" REQUIREMENTS=$< .ci/environment
	@touch $@

requirements: $(STAMP)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header $(foreach extra,$(EXTRAS),--extra $(extra)) pyproject.toml -o requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --group docs -o docs/requirements.txt
