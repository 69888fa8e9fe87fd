# SPDX-License-Identifier: GPL-2.0-or-later
# Set-up in two commands: `make demo` and `make test`. Both work as root on a fresh Debian 12.

PYTHON := .venv/bin/python
VINCI := .venv/bin/vinci
# where the images are, and the state: as this machine's settings say (docs/reference/commands.md)
WITH_IMAGES = VINCI_IMAGES="$$($(PYTHON) -m vinci.settings images)"
SYSTEM_TESTS ?= tests/system
# two at a time; a file's tests stay together, for they share what is costly to make
UNIT_TESTS := $(PYTHON) -m pytest -n 2 --dist loadfile tests/unit

.PHONY: help demo test unit lint system system-daemon install install-dev packages images man clean-state

help:
	@echo 'make demo         install what is missing, build the guest images, bring the hospital up and verify it'
	@echo 'make test         all tests: lint, types, unit tests, system tests on real VMs'
	@echo 'make unit         lint, types and unit tests only (no root, no VM)'
	@echo 'make install      packages and .venv/bin/vinci only'
	@echo 'make images       build the guest images when they are out of date'
	@echo 'make man          write the manual page build/vinci.1'
	@echo 'make clean-state  stop everything and forget all state'

demo: install images
	$(VINCI) up examples/hospital.yaml
	$(VINCI) verify
	@scripts/what-next

test: install-dev lint
	$(UNIT_TESTS)
	$(MAKE) --no-print-directory system

unit: .venv/.dev lint
	$(UNIT_TESTS)

lint:
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

system: images
	$(WITH_IMAGES) $(PYTHON) -m pytest -n 2 -m 'system and not daemon' $(SYSTEM_TESTS)

system-daemon: images
	$(WITH_IMAGES) $(PYTHON) -m pytest -m daemon tests/system

packages:
	scripts/install-packages

install: packages
	@$(MAKE) --no-print-directory .venv/.run

install-dev: packages
	@$(MAKE) --no-print-directory .venv/.dev

.venv/.run: requirements.lock pyproject.toml scripts/make-venv
	[ -e .venv/.dev ] || scripts/make-venv requirements.lock
	touch $@

.venv/.dev: requirements-dev.lock pyproject.toml scripts/make-venv
	scripts/make-venv requirements-dev.lock
	touch $@ .venv/.run

images: packages
	$(PYTHON) -m vinci.images
	$(WITH_IMAGES) $(PYTHON) -m vinci.introspect

man: .venv/.run
	mkdir -p build
	$(PYTHON) -m vinci.cli.man > build/vinci.1

clean-state:
	if [ -x $(VINCI) ]; then \
		state="$$($(PYTHON) -m vinci.settings state)" && \
		for node in "$$state"/*/node.db; do \
			[ ! -e "$$node" ] || $(VINCI) down --node "$$(basename "$$(dirname "$$node")")" || exit; \
		done && rm -rf "$$state"; \
	fi
