# Planwright. `make help` lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# one make inside another says nothing of folders
MAKEFLAGS += --no-print-directory
# the Python to set up with; found by itself where none is given
PYTHON ?=
VENV := .venv/bin
# any Python 3 can look for the right one
LOOKER := $(firstword $(foreach name,$(PYTHON) python3 python3.12 python3.11,$(shell command -v $(name) 2>/dev/null)))
PREPARE = $(if $(LOOKER),$(LOOKER) deploy/setup/prepare.py $(if $(PYTHON),--python $(PYTHON)),sh deploy/setup/no_python.sh)

.PHONY: help setup setup-serve setup-tensorrt check demo test lint clean

help: ## say what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | while IFS= read -r line; do printf '  make %-14s %s\n' "$${line%%:*}" "$${line##*## }"; done

setup: ## install everything into .venv, .venv-server and .tritonserver
	@$(PREPARE)

setup-serve: ## install only what compile, publish, serve and the clients need (Python 3.10 will do)
	@$(PREPARE) --serve-only

setup-tensorrt: ## add TensorRT to what is set up, on a machine with a GPU (TENSORRT=10.16.1.11 names the version)
	@$(if $(LOOKER),$(LOOKER) deploy/setup/add_tensorrt.py $(if $(TENSORRT),--version '$(TENSORRT)') $(if $(FORCE),--force),sh deploy/setup/no_python.sh)

check: ## say whether this machine is ready for make setup
	@$(PREPARE) --check

demo: setup ## build, serve, validate, load and report, from nothing to runs/<id>/report.html
	@$(VENV)/python deploy/demo.py

test: setup ## the whole CPU test suite
	@$(VENV)/python -m pytest

lint: setup ## ruff and mypy
	@$(VENV)/ruff check . && $(VENV)/ruff format --check . && $(VENV)/mypy

clean: ## remove what was built; keeps the environments
	rm -rf build dist runs .planwright .pytest_cache .mypy_cache .ruff_cache .hypothesis model_repository/*/
