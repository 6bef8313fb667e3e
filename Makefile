# make run and make test each work alone on a fresh clone with nothing but Python and make.

PYTHON  ?= python3
VENV    ?= .venv
# Test processes. Compilation is what takes the time and is mostly serial, so two pay off on two cores; 0 is none.
WORKERS ?= 2
# More arguments: make run ARGS="--out runs/a", make test ARGS="-k laws".
ARGS    ?=

BIN     := $(VENV)/bin
VENV_OK := $(VENV)/.created
RUN_OK  := $(VENV)/.installed-run
DEV_OK  := $(VENV)/.installed-dev
# Compilers for accelerators that are not here live apart: beside them, JAX looks for those chips whenever it starts.
AWAY    := $(VENV)-accelerators
AWAY_OK := $(AWAY)/.installed
# JAX for the GPU of this machine; CUDA=cuda12 for an older driver.
CUDA    ?= cuda
GPU     := $(VENV)-gpu
GPU_OK  := $(GPU)/.installed-$(CUDA)
# The tests of numbers: what a round, a codec, a rule, a mask or a model computes.
NUMBERS := tests/laws tests/local tests/models tests/wire tests/robust tests/attacks $(addprefix tests/privacy/,central correlated distributed local \
  masking) $(addprefix tests/execution/,test_numpy_parity.py test_noise_keys.py test_federated_sum_noise.py) \
  --ignore=tests/local/test_large_models.py

.PHONY: help run test whole slow gpu accelerators check docs notebooks format install coverage clean
.DEFAULT_GOAL := help

help:
	@echo "make run       federated training on real data, with the default settings"
	@echo "make test      the test suite"
	@echo "make whole     notebooks, tables, pages and runs in processes of their own, from top to bottom"
	@echo "make slow      the tests that take longer than the everyday suite allows"
	@echo "make gpu       the tests of numbers on the GPU of this machine, in $(GPU)"
	@echo "make accelerators  compiles everything for accelerators that are not here; ARGS=\"-m covering\" a part"
	@echo "make check     format, lint, types and the examples in docstrings"
	@echo "make docs      the documentation as a site, in .cache/site; warnings are errors"
	@echo "make notebooks runs the notebooks and writes their outputs; ARGS=\"03 07\" some of them"
	@echo "make format    rewrite the sources in the project's format"
	@echo "make coverage  the test suite with a coverage report"
	@echo "make install   the environment for development, in $(VENV)"
	@echo "make clean     remove caches and builds; keeps environments and runs"
	@echo "Variables: PYTHON=$(PYTHON) WORKERS=$(WORKERS) ARGS=..."

run: $(RUN_OK)
	$(BIN)/fedjaxlite run $(ARGS)

test: $(DEV_OK)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

whole: $(DEV_OK)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "whole and not slow" $(ARGS)

slow: $(DEV_OK)
	$(BIN)/python -m pytest -m slow $(ARGS)

# Several processes share the GPU, so none of them takes its memory whole.
gpu: $(GPU_OK)
	@JAX_PLATFORMS=cuda $(GPU)/bin/python -c 'import jax; print("on", jax.devices()[0].device_kind)' || { \
	  echo "error: JAX cannot use the GPU of this machine; the lines above say why. An older driver takes: make gpu CUDA=cuda12" >&2; exit 1; }
	JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false \
	  $(GPU)/bin/python -m pytest -n $(WORKERS) --dist loadfile $(NUMBERS) $(ARGS)

# A program for a chip that is not here cannot be read back from JAX's cache.
accelerators: $(AWAY_OK)
	JAX_PLATFORMS=cpu XLA_FLAGS= JAX_ENABLE_COMPILATION_CACHE=false $(AWAY)/bin/python -m pytest \
	  -n $(WORKERS) --dist worksteal tests/accelerators -m accelerators $(ARGS)

check: $(DEV_OK)
	VENV=$(VENV) scripts/check

docs: $(DEV_OK)
	VENV=$(VENV) scripts/docs
	@echo "the site: .cache/site/index.html"

notebooks: $(DEV_OK)
	$(BIN)/python scripts/notebooks $(ARGS)

format: $(DEV_OK)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

coverage: $(DEV_OK)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term $(ARGS)

install: $(DEV_OK)

clean:
	rm -rf build dist *.egg-info .cache .coverage .coverage.* htmlcov .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)*' -prune -exec rm -rf {} +

# An environment: the one that everything else goes into, or another one beside it.
$(VENV_OK) $(AWAY)/.created $(GPU)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: there is no '$(PYTHON)'. Name a Python of 3.11 or newer: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: fedjaxlite needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@test -f fedjaxlite/algorithms/__init__.py || { \
	  echo "error: fedjaxlite/algorithms is not a link to algorithms/: clone again with git's core.symlinks=true." >&2; exit 1; }
	$(PYTHON) -m venv $(@D) || { \
	  echo "error: no environment could be made. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	touch $@

# An editable install takes pip 21.3; every Python from 3.11 on brings a newer one, so pip is left as it is.
$(RUN_OK): pyproject.toml $(VENV_OK)
	@echo "installing fedjaxlite and what it needs into $(VENV): about 1 GB, some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(DEV_OK): pyproject.toml $(VENV_OK)
	@echo "installing fedjaxlite, what it needs and the tools for development into $(VENV): about 1.5 GB, some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,docs,privacy]"
	touch $(RUN_OK) $@

$(AWAY_OK): pyproject.toml $(AWAY)/.created
	@echo "installing fedjaxlite and compilers for GPUs and TPUs into $(AWAY): about 3 GB, some minutes"
	$(AWAY)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev,privacy,rehearse-gpu,rehearse-tpu]"
	touch $@

$(GPU_OK): pyproject.toml
	@nvidia-smi -L >/dev/null 2>&1 || { \
	  echo "error: there is no NVIDIA GPU here ('nvidia-smi -L' finds none), and make gpu runs tests on one. Without a GPU: make test, make accelerators" >&2; exit 1; }
	$(MAKE) $(GPU)/.created
	@echo "installing fedjaxlite and JAX for GPUs into $(GPU): about 7 GB, some minutes"
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev,privacy,$(CUDA)]"
	touch $@
