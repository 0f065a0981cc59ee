# `make` prints the tasks. Needs python3 (3.11 or newer), git and make; everything else comes from PyPI and npm.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
STAGE ?= dev
UV := .tools/bin/uv
RUN := .venv/bin/
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/node_modules/.bin:$(PATH)

help: ## print the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(UV):
	@echo "installing uv"
	@python3 -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.8

.venv/.installed: $(UV) pyproject.toml uv.lock
	@echo "installing the Python packages of uv.lock"
	@$(UV) sync --frozen --quiet
	@touch $@

node_modules/.installed: .venv/.installed package.json package-lock.json
	@echo "installing the Node packages of package-lock.json"
	@$(RUN)npm ci --silent --no-fund --no-audit
	@touch $@

install: node_modules/.installed ## install everything the project needs

run: install ## start the cloud on a laptop and serve it until Ctrl-C (PORT=)
	@$(RUN)python -m local.run

lint: install ## format and lint rules, types, imports
	@$(RUN)ruff format --check .
	@$(RUN)ruff check .
	@$(RUN)mypy .
	@$(RUN)lint-imports

format: install ## format the code and mend what the linter can
	@$(RUN)ruff format .
	@$(RUN)ruff check --fix .

test: install ## every test, the end-to-end ones included
	@$(RUN)pytest

check: lint test ## what CI runs

synth: install ## write the CloudFormation templates of STAGE (dev, prod, local) to cdk.out.STAGE
	@$(RUN)python app.py --stage $(STAGE)

bench: install ## measure start-up, memory, bundle size and the cost of a run
	@$(RUN)python -m bench

.PHONY: help install run lint format test check synth bench
