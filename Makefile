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

.PHONY: help run test slow check docs notebooks format install coverage clean
.DEFAULT_GOAL := help

help:
	@echo "make run       federated training on real data, with the default settings"
	@echo "make test      the test suite"
	@echo "make slow      the tests that take longer than the everyday suite allows"
	@echo "make check     format, lint, types and the examples in docstrings"
	@echo "make docs      the documentation as a site, in .cache/site; warnings are errors"
	@echo "make notebooks runs the notebooks and writes their outputs; ARGS=\"03 07\" some of them"
	@echo "make format    rewrite the sources in the project's format"
	@echo "make coverage  the test suite with a coverage report"
	@echo "make install   the environment for development, in $(VENV)"
	@echo "make clean     remove caches and builds; keeps $(VENV) and runs"
	@echo "Variables: PYTHON=$(PYTHON) WORKERS=$(WORKERS) ARGS=..."

run: $(RUN_OK)
	$(BIN)/fedjaxlite run $(ARGS)

test: $(DEV_OK)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

slow: $(DEV_OK)
	$(BIN)/python -m pytest -m slow $(ARGS)

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
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV_OK):
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: there is no '$(PYTHON)'. Name a Python of 3.11 or newer: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: fedjaxlite needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@test -f fedjaxlite/algorithms/__init__.py || { \
	  echo "error: fedjaxlite/algorithms is not a link to algorithms/: clone again with git's core.symlinks=true." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { \
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
