# Every target runs through uv; where uv is missing, it is installed into .uv/ first.
.DEFAULT_GOAL := help
.NOTPARALLEL: # make -j check test: in this order, whatever -j says
.PHONY: help demo test test-services test-all check bench release

# Compiled Python is kept where it is first used: imports are several times slower without.
unexport PYTHONDONTWRITEBYTECODE
# The interpreter that is there, never one from the web behind your back.
export UV_PYTHON_DOWNLOADS ?= never
export PATH := $(PATH):$(CURDIR)/.uv/bin

# Asking for its version, because a shim may stand on PATH with no uv behind it.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
READY := $(filter .uv/bin/uv,$(UV))

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: | $(READY) ## From nothing to a served prediction, in demo/
	@$(UV) run python benchmarks/demo.py

# More workers than the two cores of CI: many tests wait for processes.
PYTEST = $(UV) run pytest --numprocesses 3 --no-loadscope-reorder

test: | $(READY) ## Run the tests that need only Python, git and make
	@$(PYTEST) tests

test-services: | $(READY) ## Run the tests that need servers, containers, clusters or minutes; .ci/run installs their tools
	@$(PYTEST) tests/services

test-all: test test-services ## Run all tests

check: | $(READY) ## Format, lint and type-check every file
	@$(UV) run pre-commit run --all-files

bench: | $(READY) ## Measure; prints a Markdown table
	@$(UV) run python -m benchmarks

release: | $(READY) ## May this commit be a release? Tests it, and prints the command that tags it
	@$(UV) run python -m hooks.release > /dev/null
	@$(MAKE) --no-print-directory check test-all
	@$(UV) run python -m hooks.release

.uv/bin/uv:
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo >&2 'Python 3.11 or newer is needed as python3. Install it, then run make again.'; exit 1; }
	@python3 -m venv .uv || { rm -rf .uv; \
	  echo >&2 'python3 cannot make virtual environments. Install its venv and pip modules'; \
	  echo >&2 '(Debian, Ubuntu: apt-get install python3-venv python3-pip), then run make again.'; exit 1; }
	@echo 'uv is not on PATH: installing it into .uv/'
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8' || { \
	  echo >&2 'pip could not install uv. Check the network, or install uv yourself, then run make again.'; exit 1; }
