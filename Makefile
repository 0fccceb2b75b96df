# Two commands for a newcomer: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo

# One CPU baseline, so that the same experiment gives the same bytes on any x86-64 machine of the
# last ten years: without it numba and numpy use whatever the host has, and exp differs in the last bit.
ifeq ($(shell uname -m),x86_64)
export NUMBA_CPU_NAME := x86-64-v3
export NUMBA_CPU_FEATURES :=
export NPY_DISABLE_CPU_FEATURES := X86_V4 AVX512_ICL AVX512_SPR
endif

# What is imported has its bytecode written, or each of the many processes of a run compiles it again. pip
# would compile all that it installs, for a minute (--no-compile).
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-long test-cluster image lock lint clean help

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "darkhaloscope needs Python 3.11 or newer; $(PYTHON) is older. Use: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run: pyproject.toml | $(VENV)/python
	$(BIN)/python -m pip install --quiet --no-compile --editable .
	@touch $@

$(VENV)/test: pyproject.toml requirements/test.txt | $(VENV)/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[test,detect]' --constraint requirements/test.txt
	@touch $@ $(VENV)/run

demo: $(VENV)/run  ## synthetic sky, injection, audit, report: a few minutes
	$(BIN)/dhs demo --out $(OUT)

test: $(VENV)/test lint  ## unit, property and end-to-end tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long and not cluster"

test-long: $(VENV)/test  ## what takes minutes: bricks of full size and the like
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long

lint: $(VENV)/test  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile tests/cluster/Dockerfile

test-cluster: $(VENV)/test  ## the image and the chart on a Kubernetes cluster
	PATH="$(abspath $(BIN)):$$PATH" PYTHON=$(abspath $(BIN))/python tests/cluster/run || [ $$? = 77 ]

image:  ## the image of driver, scheduler, workers and notebooks
	docker build -t darkhaloscope:dev .

lock:  ## the image's requirements again, with uv
	uv pip compile pyproject.toml --extra kubernetes --extra notebook --python-version 3.13 \
	  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --no-annotate -o requirements/image.txt
	echo 'hatchling>=1.25' | uv pip compile - --python-version 3.13 --generate-hashes \
	  --no-header --no-annotate -o requirements/build.txt

clean:  ## remove the environment and what runs left
	rm -rf $(VENV) demo runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
