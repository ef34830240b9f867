# onecard: `make` says what there is. Every target sets up what it needs in .venv on first use.
PROFILE ?= auto
MODEL   ?=
HOST    ?= 127.0.0.1
PORT    ?= 8000
ARGS    ?=
PYTHON  ?= python3

BIN   := .venv/bin
SETUP := $(PYTHON) -m serving.bootstrap --profile "$(PROFILE)"
# Tests marked `gpu` run where there is a GPU; elsewhere they are left out, and `make test` says so.
GPU   := $(wildcard /dev/nvidiactl /dev/dxg)
SUITE := $(if $(GPU),,not gpu and )

# Packages from outside (ROS, Conda, a colleague's .bashrc) must not mix with those of .venv.
unexport PYTHONPATH PYTHONHOME

.PHONY: help serve setup test test-long bench lint format
.DEFAULT_GOAL := help

help:
	@echo "make serve        serve a vision-language model on http://$(HOST):$(PORT)/v1 (sets itself up on first use)"
	@echo "                    PROFILE=auto      auto (the GPU found, else the CPU), cpu, or a name of configs/profiles/"
	@echo "                    MODEL=            a name of configs/models/, a Hub id, or a folder; else the profile's own"
	@echo "                    PORT=8000 HOST=127.0.0.1"
	@echo "                    ARGS=             more arguments for vLLM, such as ARGS='--max-model-len 8192'"
	@echo "make test         lint, then every test that this machine can run in 15 minutes, with a real vLLM"
	@echo "make test-long    the long suite: kill loop, soak, fuzzing, thousands of pictures"
	@echo "make bench        the benchmark that this machine can run"
	@echo "make setup        only the environment"
	@echo "make lint, make format"

setup:
	@$(SETUP)

serve:
	@$(SETUP)
	@exec $(BIN)/onecard serve --profile "$(PROFILE)" $(if $(MODEL),--model "$(MODEL)") --host "$(HOST)" --port "$(PORT)" \
	  $(if $(ARGS),-- $(ARGS))

test: lint
	$(if $(GPU),,@echo "No NVIDIA GPU here: the tests marked gpu are left out.")
	@# worksteal: neighbours, which share what a module has set up, stay in one process.
	$(BIN)/python -m pytest tests/unit --numprocesses logical --dist worksteal -m "$(SUITE)not long"
	$(BIN)/python -m pytest tests --ignore tests/unit -m "$(SUITE)not long"

test-long: dev
	$(BIN)/python -m pytest tests -m "$(SUITE)long"

bench: dev
	@exec $(BIN)/python -m benchmarks --profile "$(PROFILE)" $(if $(MODEL),--model "$(MODEL)")

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --cache-dir .cache/imports

format: dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: dev
dev:
	@$(SETUP) --dev
