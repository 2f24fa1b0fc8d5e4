# Each target first sets up what it needs in .venv. PYTHON selects the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
ACCELERATORS := .venv/accelerators
# Tests run on up to four cores. The tests of a module stay together, because they share fixtures.
# Modules start in the order of their names: sorted by size, the few with long tests would come last.
PARALLEL := -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

.PHONY: degradation test test-fast test-thorough test-jax-versions test-prepare test-nets \
  test-cluster test-wheel test-accelerators test-accelerators-all benchmark lint docs docs-serve notebooks \
  clean
.DELETE_ON_ERROR:

# The degradation experiment on the digits: eight models, figures and a table. Rerun it to resume.
degradation: .venv/run
	$(BIN)/python -m experiments.degradation --config=configs/digits.py --workdir=runs/degradation

# Linters, then the tests: ten minutes on two cores. Further tests have commands of their own.
test: lint
	$(BIN)/python -m pytest $(PARALLEL)

# All tests except the slow ones.
test-fast: .venv/dev
	$(BIN)/python -m pytest $(PARALLEL) \
	  -m "not (slow or thorough or cluster or nets or wheel or accelerators or accelerators_all)"

# The tests of further models, options and devices that `make test` leaves out.
test-thorough: .venv/dev
	$(BIN)/python -m pytest $(PARALLEL) -m thorough

# Tests on several devices and of the CPU kernels, with the oldest and the newest JAX that
# requirements.txt allows, each in an environment of its own. The newest needs Python 3.12 or newer:
# make test-jax-versions PYTHON=python3.12
DEVICE_TESTS := tests/cpu tests/parallel tests/training tests/evaluation/test_evaluator.py
# These environments lack PyTorch.
WITHOUT_TORCH := --ignore=tests/training/test_optimizer.py
test-jax-versions: .venv/jax-oldest/installed .venv/jax-newest/installed
	.venv/jax-oldest/bin/python -m pytest $(PARALLEL) $(DEVICE_TESTS) $(WITHOUT_TORCH)
	.venv/jax-newest/bin/python -m pytest $(PARALLEL) $(DEVICE_TESTS) $(WITHOUT_TORCH)

# Builds a wheel, installs it into a new environment, and trains with it away from the repository.
test-wheel: .venv/dev
	$(BIN)/python -m pytest -m wheel tests/test_installation.py

# Tests of preparing a TFDS data set, which needs TensorFlow.
test-prepare: .venv/prepare
	$(BIN)/python -m pytest tests/data/test_prepare.py

# Trains every model of the papers at full size for an epoch of the digits, and ResNet-18 on large
# images; an hour on two cores. TFDS_DATA_DIR=DIR with a prepared cifar10 adds a test.
test-nets: .venv/dev
	$(BIN)/python -m pytest -m nets

# Tests sweeps on a real Ray cluster and a real SLURM, both on this machine. SLURM and munge come from
# the system (Debian: apt install slurm-wlm munge) and need root; otherwise their tests are skipped.
test-cluster: .venv/cluster
	$(BIN)/python -m pytest -m cluster

# Compiles steps for TPUs and GPUs without having them and tests facts of the programs; two minutes
# on two cores, and one for the compilers. Two programs at a time, because each needs up to 1.3 GB.
test-accelerators: $(ACCELERATORS)/installed
	$(ACCELERATORS)/bin/python -m pytest -n 2 --dist loadgroup tests/accelerators \
	  -m "not accelerators_all"

# The same for all combinations of devices, models, dtypes and parallelism; an hour on two cores.
test-accelerators-all: $(ACCELERATORS)/installed
	$(ACCELERATORS)/bin/python -m pytest -n 2 --dist loadgroup tests/accelerators -m ""

# Compares the train step and evaluation with PyTorch's; half an hour on an idle machine.
benchmark: .venv/benchmarks
	$(BIN)/python -m benchmarks.train_step --json=runs/benchmarks/train_step.json
	$(BIN)/python -m benchmarks.evaluation --json=runs/benchmarks/evaluation.json

# Style, imports in one direction, types.
lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# The documentation site, in site/. It is built without a network once the packages are installed.
docs: .venv/docs
	$(BIN)/python -m tools.docs

# The same at http://localhost:8000.
docs-serve: .venv/docs
	$(BIN)/python -m tools.docs --serve

# Executes the notebooks in docs/notebooks in full and stores their output; six minutes.
notebooks: .venv/notebooks
	$(BIN)/python -m tools.notebooks

# Stamps of what is installed in .venv; they are renewed when the requirements change.
.venv/run: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: flaxres needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V); run make PYTHON=python3.12"; exit 1; }
	@echo "setting up .venv (once, about a minute)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	-$(BIN)/python -m flaxres.cpu
	@touch $@

# Further requirements, each in a file of its own.
.venv/prepare .venv/cluster .venv/benchmarks: .venv/dev
EXTRAS := dev docs notebooks prepare cluster benchmarks
$(EXTRAS:%=.venv/%): .venv/%: requirements-%.txt .venv/run
	$(BIN)/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

OLDEST_JAX := $(shell sed -n 's/^jax>=\([0-9.]*\).*/\1/p' requirements.txt)
.venv/jax-oldest/installed: JAX := jax==$(OLDEST_JAX)
.venv/jax-%/installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "error: the newest JAX needs Python 3.12 or newer, $(PYTHON) is $$($(PYTHON) -V); run make test-jax-versions PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(@D)
	grep -v '^torch\|^timm' requirements-dev.txt > $(@D)/requirements-dev.txt
	$(@D)/bin/pip install --quiet --disable-pip-version-check --upgrade -r requirements.txt \
	  -r $(@D)/requirements-dev.txt $(JAX)
	@touch $@

# The compilers for TPUs and GPUs are large and fix the version of JAX.
$(ACCELERATORS)/installed: requirements.txt requirements-dev.txt requirements-accelerators.txt
	@echo "setting up $(ACCELERATORS) (once, about a minute)"
	$(PYTHON) -m venv $(@D)
	grep -v '^torch\|^timm' requirements-dev.txt > $(@D)/requirements-dev.txt
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt \
	  -r $(@D)/requirements-dev.txt -r requirements-accelerators.txt
	@touch $@

clean:
	rm -rf .venv
