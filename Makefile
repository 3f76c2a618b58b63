# img2mesh: `make demo` on a fresh machine, `make dev lint test` to work on it.
# Options: PYTHON=python3.12        another interpreter for the virtual environment
#          TORCH_FLAGS="..."        options of pip for torch alone, such as --index-url of the CPU builds
#          PYTEST_FLAGS="..."       options of pytest for `make test`
#          ENGINE=podman            the program that builds images

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' img2mesh/__init__.py)
IMAGES := orchestrator torch mesh objectstore
ENGINE ?= $(shell command -v docker || command -v podman || echo docker)
TORCH_FLAGS ?=
PYTEST_FLAGS ?=

.PHONY: help
help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: demo
demo: system $(VENV)/.installed ## Install everything and turn the example pictures into meshes
	$(BIN)/img2mesh submit examples/images --preset compact --assets assets --name demo
	@echo "Look at: $$(ls assets/demo/*/preview.png | tr '\n' ' ')"

.PHONY: test
test: system $(VENV)/.installed-dev ## Run all tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

.PHONY: web
web: $(VENV)/web/.installed ## Install what the browser and validator tests run, with Chromium

$(VENV)/web/.installed: $(VENV)/.created infra/web.sh tests/web/package.json
	infra/web.sh $(VENV)/web
	touch $@

.PHONY: lint
lint: $(VENV)/.installed-dev ## Check formatting, lint, types, layers, Dockerfiles and shell scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/yamllint --strict .
	$(BIN)/hadolint containers/Dockerfile.*
	$(BIN)/shellcheck .ci/run infra/*.sh

.PHONY: audit
audit: $(VENV)/.installed-dev ## Look the installed packages up in the list of known vulnerabilities
	$(BIN)/pip-audit --skip-editable --progress-spinner off

.PHONY: dev
dev: system $(VENV)/.installed-dev ## Install for development, with the commit hooks
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/pre-commit install; fi

.PHONY: images
images: $(IMAGES:%=image-%) ## Build the container images

image-%:
	$(ENGINE) build --file containers/Dockerfile.$* --tag img2mesh-$*:$(VERSION) .

.PHONY: bench
bench: system $(VENV)/.installed ## Measure the numbers that the documentation gives
	@for file in benchmarks/[a-z]*.py; do name=$$(basename "$$file" .py); echo "== $$name"; $(BIN)/python -m "benchmarks.$$name"; done

.PHONY: system
system: ## Install the system libraries of open3d, or say which are missing
	@infra/system.sh

.PHONY: clean
clean: ## Remove the virtual environment and the caches, not the assets
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# Each stamp says that what it names was installed for the pyproject.toml of that time.
$(VENV)/.created:
	"$$(infra/python.sh $(PYTHON))" -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(PIP) install $(TORCH_FLAGS) "$$(sed -n 's/^ *"\(torch==.*\)",$$/\1/p' pyproject.toml)"
	$(PIP) install --editable ".[pymeshlab]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --editable ".[pymeshlab,dev]"
	touch $@
