# Each target sets up what it needs in .venv; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
# Test modules on up to four cores; a module's tests stay together, as they share fixtures.
PARALLEL := -n auto --maxprocesses 4 --dist loadscope

.PHONY: degradation test test-fast test-prepare test-nets test-cluster benchmark lint clean
.DELETE_ON_ERROR:

# The digits experiment: eight nets, figures and a table. Goes on where it was when stopped.
degradation: .venv/run
	$(BIN)/python -m experiments.degradation --config=configs/digits.py --workdir=runs/degradation

# Lint and all tests, the slow ones too.
test: lint
	$(BIN)/python -m pytest $(PARALLEL)

# Without the tests that are marked slow.
test-fast: .venv/dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not cluster and not nets"

# Preparing a TFDS set, with TensorFlow, which nothing else needs.
test-prepare: .venv/prepare
	$(BIN)/python -m pytest tests/data/test_prepare.py

# An epoch of the digits with every net of the papers in its full size, and ResNet-18 on large images;
# an hour on two cores. TFDS_DATA_DIR=DIR with a prepared cifar10 adds a test.
test-nets: .venv/dev
	$(BIN)/python -m pytest -m nets

# Sweeps on a real Ray cluster and a real SLURM, both on this machine. SLURM and munge are the
# system's (Debian: apt install slurm-wlm munge) and need root; without them its tests are skipped.
test-cluster: .venv/cluster
	$(BIN)/python -m pytest -m cluster

# flaxres's train step against PyTorch's on this machine; half an hour, on an idle one.
benchmark: .venv/benchmarks
	$(BIN)/python -m benchmarks.train_step --json=runs/benchmarks/train_step.json

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# Stamps: what is installed in .venv, made anew when the requirements change.
.venv/run: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: flaxres needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V); run make PYTHON=python3.12"; exit 1; }
	@echo "setting up .venv (once, about a minute)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	-$(BIN)/python -m flaxres.cpu
	@touch $@

.venv/dev: .venv/run requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv/prepare: .venv/dev requirements-prepare.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-prepare.txt
	@touch $@

.venv/cluster: .venv/dev requirements-cluster.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-cluster.txt
	@touch $@

.venv/benchmarks: .venv/dev requirements-benchmarks.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-benchmarks.txt
	@touch $@

clean:
	rm -rf .venv
