# Every target sets up what it needs, says so, and does nothing that is done already.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BENCH_VENV := .venv-bench
BIN := $(VENV)/bin
# Not compiled: of 29,000 files most are never imported, and compiling them all was half of the time. What is imported is
# compiled once, unless this is set: each process would compile torch and all the others anew (10 s and more).
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
unexport PYTHONDONTWRITEBYTECODE
# A file stays with one process, since its tests share what took long to make.
TWO_AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder
# Two processes share two cores: one thread each, and a thread that waits sleeps instead of spinning on the other's core.
test long: export OMP_NUM_THREADS := 1
test long: export OMP_WAIT_POLICY := PASSIVE

.PHONY: help run test long faults check types-of-code types-of-tests bench-training bench-evaluation bench-memory bench-data bench-serving clean setup

help: ## Say what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: setup ## Train, evaluate and register the quickstart model, end to end (4 to 12 minutes on 2 cores; a second when done already)
	@frostline run quickstart

test: setup ## Fast tests first, then the engines, faults and deployments (an hour on 2 cores, more on a busy machine)
	@echo "[test] 1 of 2: fast tests"
	@pytest -q $(TWO_AT_ONCE) -m "not slow and not faults and not long"
	@echo "[test] 2 of 2: Ray, DeepSpeed, Prefect and MLflow together; kills; deployments (three quarters of an hour)"
	@pytest -q $(TWO_AT_ONCE) -m "slow and not faults and not long"

long: setup ## More runs from end to end: benchmarks, int8, watch, other rows, real photos, a kill in training (minutes each)
	@pytest -q $(TWO_AT_ONCE) -m "long and not faults"

faults: setup ## The whole fault programme: kills at every point, faulty S3, full disks (hours on 2 cores); make test runs a selection of it
	@pytest -q -m faults --timeout 3600

check: setup ## Format, lint, types, import rule (what CI runs before the tests)
	@ruff format --check . && ruff check . && lint-imports
	@$(MAKE) --no-print-directory --jobs=2 --output-sync types-of-code types-of-tests

types-of-code:
	@mypy --cache-dir .mypy_cache/code

types-of-tests:
	@mypy --config-file tests/mypy.ini --cache-dir .mypy_cache/tests

bench-training: setup ## Measure training against the transformers Trainer and bare loops, and print the table
	@PYTHONPATH=tests/benchmarks/shared:tests/support python tests/benchmarks/training/bench.py

bench-evaluation: setup ## Measure answering against plain generate, and a second evaluation, and print the table
	@PYTHONPATH=tests/benchmarks/shared:tests/support python tests/benchmarks/evaluation/bench.py

bench-memory: setup ## Measure the memory of trainings beside the estimate of frostline plan, and print the table
	@PYTHONPATH=tests/support python tests/benchmarks/memory/bench.py

bench-data: setup $(BENCH_VENV)/.installed ## Measure the data side against datasets and a bare loop, and print the table (20 minutes on 2 cores)
	@PYTHONPATH=tests/benchmarks/shared python tests/benchmarks/data/bench.py

bench-serving: setup ## Measure frostline serve against mlflow models serve, and print the table (5 minutes on 2 cores)
	@PYTHONPATH=tests/benchmarks/shared:tests/support python tests/benchmarks/serving/bench.py

clean: ## Remove everything the other targets made, var/ included
	rm -rf $(VENV) $(BENCH_VENV) var build *.egg-info .pytest_cache .mypy_cache .ruff_cache

setup: $(VENV)/.installed

$(VENV)/.torch:
	@echo "[setup 1/2] virtual environment and torch (about 1 minute)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; found $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) "$$(grep '^torch==' requirements.lock)"
	@touch $@

$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/.torch
	@echo "[setup 2/2] the other packages, at the versions of requirements.lock (about 2 minutes)"
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(BENCH_VENV)/.installed: requirements.lock
	@echo "[setup] Hugging Face datasets in an environment of its own, for comparison (about 1 minute)"
	@test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install -qq --disable-pip-version-check -c requirements.lock datasets==5.2.0 pillow imagehash numpy
	@touch $@
