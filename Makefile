# `make` prints the tasks. Needs python3 (3.11 or newer), git and make; everything else comes from PyPI and npm.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
STAGE ?= dev
UV := .tools/bin/uv
RUN := .venv/bin/
# A second interpreter, of the functions' runtime, where there is one: the suites that need no cloud run on it too.
PY313 := $(shell for p in "$$(command -v python3.13)" "$$(pyenv root 2>/dev/null)"/versions/3.13*/bin/python3.13; do \
	"$$p" -c "" 2>/dev/null && { echo "$$p"; break; }; done)
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/node_modules/.bin:$(PATH)

help: ## print the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

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

RUNTIME_TESTS := .venv-3.13/bin/pytest -q -p no:cacheprovider tests/unit tests/contracts tests/crash

test: install $(if $(PY313),.venv-3.13/.installed) ## every test, the end-to-end ones included
	@mkdir -p build
	@$(if $(PY313),$(RUNTIME_TESTS) > build/test-runtime.log 2>&1 & runtime=$$!; trap "kill $$runtime 2>/dev/null || :" EXIT;) \
	failed=0; $(RUN)pytest || failed=1; \
	$(if $(PY313),wait $$runtime || { failed=1; tail -n 200 build/test-runtime.log; }; tail -n 1 build/test-runtime.log;) \
	exit $$failed

.venv-3.13/.installed: .venv/.installed
	@echo "installing the Python packages of uv.lock for $$($(PY313) --version)"
	@UV_PROJECT_ENVIRONMENT=.venv-3.13 $(UV) sync --frozen --quiet --no-group infrastructure --python $(PY313)
	@touch $@

test-runtime: .venv-3.13/.installed ## the suites that need no cloud, on Python 3.13; `make test` runs them alongside
	@$(RUNTIME_TESTS)

check: lint test ## what CI runs

synth: install ## write the CloudFormation templates of STAGE (dev, prod, local) to cdk.out.STAGE
	@$(RUN)python app.py --stage $(STAGE)

lock-contracts: install ## write the tools' contracts to support_desk/contracts.lock.json, and print what changes
	@$(RUN)python -m support_desk.lock_contracts

new-tool: install ## add a tool that works, with tests and policy: NAME=lookup_parcel EFFECT=read|write|destructive|external
	@$(RUN)python -m local.new_tool "$(NAME)" "$(EFFECT)"

lock-mcp: install ## ask servers outside what they offer, and write support_desk/mcp.lock.json
	@$(RUN)python -m support_desk.lock_mcp

policy: install ## print who may do what; ARGS=write renews policies/matrix.txt, ARGS="explain …" says why
	@$(RUN)python -m support_desk.policy_matrix $(ARGS)

deploy: install ## deploy STAGE to the AWS account of the current credentials, and note it in the audit
	@cdk deploy --all --app "python app.py --stage $(STAGE)"
	@$(RUN)python -m ops --stage $(STAGE) note-deployment

ops: install ## the platform operator's command: make ops ARGS="--stage prod limits show"
	@$(RUN)python -m ops $(ARGS)

bench: install ## measure start-up, bundles, the cost of a run, many runs at once, and waiting
	@$(RUN)python -m bench

.PHONY: help install run lint format test test-runtime check synth lock-contracts new-tool lock-mcp policy ops bench
