# The way in. `make up` tries the whole lifecycle without any cloud account; `make test` checks everything.
PYTHON ?= python3
STACK ?= dev
BIN := .venv/bin
BUILT := $(CURDIR)/.jewelhouse/built

.DEFAULT_GOAL := help
.PHONY: help set-up up down preview test lint format bench tools dmverity images oracle docs clean

help: ## List what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/' | expand -t 18

set-up: ## Make .venv, get the Pulumi CLI, prepare the sandbox (up and test do it by themselves)
	@$(PYTHON) tools/set_up.py
	@$(BIN)/jewelhouse sandbox prepare

up: set-up ## Bring a stack up in the sandbox (STACK=dev)
	@$(BIN)/jewelhouse sandbox up --stack $(STACK)

preview: set-up ## Show what up would change (STACK=dev)
	@$(BIN)/jewelhouse sandbox preview --stack $(STACK)

down: set-up ## Take a stack down in the sandbox (STACK=dev)
	@$(BIN)/jewelhouse sandbox destroy --stack $(STACK)

test: set-up ## Run every test
	@$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder

lint: set-up ## Ruff and the type checker
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright

format: set-up ## Let Ruff format and fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: set-up ## Measure; prints `name value bound` for each, and fails over a bound
	@$(BIN)/python -m benchmarks

tools: ## Install what images are built, booted and compared with (Debian, Ubuntu)
	@$(PYTHON) tools/install_tools.py

dmverity: ## Build Microsoft's hasher of container layers, for Azure's container policies (needs Go)
	@mkdir -p $(BUILT) && cd tools/dmverity && CGO_ENABLED=0 go build -trimpath -buildvcs=false \
	  -o $(BUILT)/dmverity-vhd github.com/Microsoft/hcsshim/cmd/dmverity-vhd

images: set-up tools dmverity ## Build every image of templates/images
	@$(BIN)/jewelhouse image build

oracle: ## Build AWS's enclave image builder (cargo) and Microsoft's policy enforcer (Go), to compare with
	@cd tools/eif-oracle && cargo build --release --locked
	@mkdir -p $(BUILT) && cd tools/policy-oracle && CGO_ENABLED=0 go build -tags rego -trimpath -buildvcs=false \
	  -o $(BUILT)/policy-oracle .

docs: set-up ## Write the generated parts of the documentation
	@$(BIN)/python tools/generate_docs.py

clean: ## Remove the sandbox and everything that set-up made
	rm -rf .jewelhouse .venv
