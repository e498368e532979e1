# `make quickstart` and `make test` on a fresh machine; the environment is .venv in this checkout.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
# Any Python from 3.10 to 3.13; `make PYTHON=/path/to/python3.12` chooses one.
PYTHON ?=
EXTRAS := serve redis tune dev
STAMP := .venv/.installed
# Spark is 400 MB and needs Java: the tests and checks have it, the quickstart does without.
SPARK_STAMP := .venv/.installed-spark

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate --no-emit-index-url

.PHONY: help docs quickstart test test-fast lint benchmark quality clean constraints

help:  ## lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

# Nothing is installed whose SHA-256 is not in requirements/; the package itself is built without fetching anything.
LOCKED := -m pip install --quiet --no-deps --require-hashes --requirement

$(STAMP): setup.cfg pyproject.toml $(wildcard requirements/*.txt)
	@.ci/venv .venv "$(PYTHON)"
	@$(BIN)/python $(LOCKED) requirements/pip.txt
	$(BIN)/python $(LOCKED) requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(SPARK_STAMP): $(STAMP) requirements/spark.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --require-hashes --requirement requirements/spark.txt
	@touch $@

quickstart: $(STAMP)  ## runs all stages on a synthetic log, in under two minutes
	$(BIN)/twotower quickstart

test: $(SPARK_STAMP)  ## runs all tests except those of `make quality`
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

test-fast: $(STAMP)  ## runs the tests that need neither TensorFlow nor Spark
	$(BIN)/python -m pytest -m "not tensorflow and not spark and not quality"

lint: $(SPARK_STAMP)  ## runs ruff, mypy --strict, codespell and the house-keeping tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest tests/test_house.py tests/test_imports.py

docs: $(STAMP)  ## rewrites the reference pages of docs/ from the code
	$(BIN)/python docs/generate.py

benchmark: $(STAMP)  ## runs every script of benchmarks/, with one JSON line per claim
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@for script in benchmarks/*.py; do [ -e "$$script" ] || { echo "no benchmarks yet"; break; }; $(BIN)/python "$$script"; done

# A figure that a test refuses is written to the table all the same.
quality: $(SPARK_STAMP)  ## runs the slow tests: quality of the shipped configurations on published data; rewrites their table
	@mkdir -p runs && rm -f runs/quality.jsonl
	@status=0; TWOTOWER_QUALITY_FIGURES=$(CURDIR)/runs/quality.jsonl $(BIN)/python -m pytest -m quality -s || status=$$?; \
	$(BIN)/python docs/quality_table.py runs/quality.jsonl; exit $$status

constraints:  ## solves constraints.txt and requirements/ again from setup.cfg
	@.ci/venv .venv "$(PYTHON)"
	@$(BIN)/python -m pip install --quiet 'uv>=0.5'
	@head -n 1 constraints.txt > constraints.new
	@$(COMPILE) --all-extras setup.cfg >> constraints.new
	@mv constraints.new constraints.txt
	@$(COMPILE) --generate-hashes --constraint constraints.txt $(addprefix --extra ,$(EXTRAS)) setup.cfg --output-file requirements/dev.txt
	@$(COMPILE) --generate-hashes --constraint constraints.txt --extra spark setup.cfg --output-file requirements/spark.txt
	@echo pip | $(COMPILE) --generate-hashes - --output-file requirements/pip.txt

clean:  ## removes the environment, caches and builds; runs, data and bundles stay
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
