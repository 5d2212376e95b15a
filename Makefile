# Planwright. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# a make inside another does not print its folder
MAKEFLAGS += --no-print-directory
# the Python to set up with; found automatically if not given
PYTHON ?=
VENV := .venv/bin
# any Python 3 can run the scripts that find the right one
PYTHON3 := $(firstword $(foreach name,$(PYTHON) python3 python3.12 python3.11,$(shell command -v $(name) 2>/dev/null)))
PREPARE = $(if $(PYTHON3),$(PYTHON3) deploy/setup/prepare.py $(if $(PYTHON),--python $(PYTHON)),sh deploy/setup/no_python.sh)

.PHONY: help setup setup-serve setup-tensorrt check demo quick test lint clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | while IFS= read -r line; do printf '  make %-14s %s\n' "$${line%%:*}" "$${line##*## }"; done

setup: ## install everything into .venv, .venv-server and .tritonserver
	@$(PREPARE)

setup-serve: ## install only what compile, publish, serve and the clients need (Python 3.10 is enough)
	@$(PREPARE) --serve-only

setup-tensorrt: ## add TensorRT, on a machine with a GPU (TENSORRT=10.16.1.11 chooses the version)
	@$(if $(PYTHON3),$(PYTHON3) deploy/setup/add_tensorrt.py $(if $(TENSORRT),--version '$(TENSORRT)') $(if $(FORCE),--force),sh deploy/setup/no_python.sh)

check: ## check whether this machine is ready for make setup
	@$(PREPARE) --check

demo: setup ## build, serve, validate, load and report, from nothing to runs/<id>/report.html
	@$(VENV)/python deploy/demo.py

quick: setup ## lint, types and unit tests, in under a minute
	@$(VENV)/python -m tests.quick

test: setup ## the whole CPU test suite
	@$(VENV)/python -m pytest

lint: setup ## ruff and mypy
	@$(VENV)/python -m tests.quick lint

clean: ## remove what was built; keeps the environments
	rm -rf build dist runs .planwright .pytest_cache .mypy_cache .ruff_cache .hypothesis model_repository/*/
