# Planwright. `make help` lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# the newest Python that has everything; override with make PYTHON=...
PYTHON ?= $(shell command -v python3.12 >/dev/null && python3.12 -c 'import venv, ensurepip' 2>/dev/null && echo python3.12 || (command -v python3.11 >/dev/null && echo python3.11 || echo python3))
VENV := .venv/bin

.PHONY: help setup setup-serve demo test lint clean

help: ## say what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## install everything into .venv, .venv-server and .tritonserver
	@command -v $(PYTHON) >/dev/null || { echo "error: this machine lacks Python 3.11 or 3.12: apt-get install python3.11 python3.11-venv libpython3.11"; exit 3; }
	@$(PYTHON) deploy/setup/prepare.py

setup-serve: ## install only what compile, publish, serve and the clients need (Python 3.10 will do)
	@$(PYTHON) deploy/setup/prepare.py --serve-only

demo: setup ## build, serve, validate, load and report, from nothing to runs/<id>/report.html
	@$(VENV)/python deploy/demo.py

test: setup ## the whole CPU test suite
	@$(VENV)/python -m pytest

lint: setup ## ruff and mypy
	@$(VENV)/ruff check . && $(VENV)/mypy

clean: ## remove what was built; keeps the environments
	rm -rf build runs .planwright .pytest_cache .mypy_cache .ruff_cache model_repository/*/
