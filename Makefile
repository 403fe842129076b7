# What a user or a contributor runs. Each target may be run again at any time.
.DEFAULT_GOAL := help
.PHONY: help demo setup test unit lint bench forms clean
python := .venv/bin/python

help:  ## show these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo:  ## set up everything, bring up examples/edge and send requests through it (sudo)
	@scripts/setup.sh run
	@$(python) -m scripts.demo

setup:  ## install the Debian packages and isoform with its development tools into .venv (sudo)
	@scripts/setup.sh dev

test: setup  ## linters and the whole test suite, on the real kernel, runtime and QEMU (sudo)
	@$(python) scripts/test.py

unit: setup  ## the tests that need no root, in seconds
	@$(python) scripts/test.py unit

lint: setup  ## ruff and mypy
	@$(python) scripts/test.py lint

bench: setup  ## measure against the bare recipes and podman, as JSON lines (sudo)
	@$(python) bench/containers.py
	@$(python) bench/machines.py

forms: setup  ## run examples/edge in all 27 assignments of forms to functions (sudo)
	@$(python) -m bench.forms27

clean:  ## remove .venv and what tools have cached here; services and images stay
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
