# make demo         the shipped detector on microscope pictures, with the pictures it draws
# make demo-classification   the shipped classifiers on digits: accuracy, cost, heat maps
# make test         the test suite without what takes long: minutes on two cores
# make test-long    the rest of it: COCO's sizes, several processes, whole trainings
# make train-demo   train a small detector from nothing on the default data set
# make setup        only the environment; every target here begins with it
# make docs         the documentation as a site, in output/site
# make style        format the code and fix what can be fixed
# make check        only say what is not formatted, spelled or typed right, or looks wrong
# make clean        remove what builds and tests left; environment, data and results stay
#
# PYTHON=python3    the Python that makes the environment, 3.10 or newer
# VENV=.venv        the environment; an existing one may be named, a conda environment too, as in
#                   make test VENV=$CONDA_PREFIX. In one that was not made here no version is pinned:
#                   what is missing is added, and its detectron2, its OpenCV and a torch from 2.7 on
#                   are kept. pip replaces what is older than setup.py asks for, and setuptools 82
#                   and newer.
# REQUIREMENTS=requirements.txt   the versions that were tested together; empty for whatever fits
# JOBS=2            how many tests run at once, with one thread each
PYTHON ?= python3
VENV ?= .venv
REQUIREMENTS ?= requirements.txt
JOBS ?= 2

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help docs demo demo-classification test test-long train-demo data setup style check clean

# Threads that wait must sleep: on a busy machine with few cores they otherwise spin against each
# other, and everything takes several times as long. Read when torch is imported.
export OMP_WAIT_POLICY ?= PASSIVE

PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# A worker that has nothing left takes tests from the other, so that both end together.
PYTEST := $(PY) -m pytest -n $(JOBS) --dist worksteal

help:
	@sed -n -e '/^PYTHON/q' -e 's/^#//p' Makefile

demo: setup data
	$(PY) tools/demo.py

demo-classification: setup
	@$(PY) tools/setup/prepare_digits.py
	$(PY) tools/demo_classification.py

train-demo: setup data
	$(PY) tools/train_demo.py

test: setup data
	$(PYTEST)

test-long: setup data
	$(PYTEST) -m long

data: setup
	@$(PY) tools/setup/prepare_nuclei.py

docs: setup
	$(PY) -m mkdocs build --strict

setup: $(READY)

# The stamp makes a second run cost nothing and need no network.
$(READY): $(REQUIREMENTS) setup.py tools/setup/setup_environment.sh tools/setup/install_detectron2.py
	@tools/setup/setup_environment.sh "$(PYTHON)" "$(VENV)" "$(REQUIREMENTS)"
	@touch $@

style: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib
	$(PY) -m mypy

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find svit_det tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
