# `make` alone lists what there is to do.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := $(CURDIR)/tools/bin
DEV := dev/bin/bookworm-dev

# The person a token is for. A USER of the environment is whoever sits at the
# machine, not somebody of the shop.
PERSON := $(if $(filter command line,$(origin USER)),$(USER),alice)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##
## Use it
##

.PHONY: run
run: postgres dev-binary ## Start the whole shop on this machine, until Ctrl-C
	@exec $(DEV) run

.PHONY: token
token: dev-binary ## Print an access token: make token USER=alice (or bob, ops)
	@exec $(DEV) token $(PERSON)

.PHONY: demo
demo: dev-binary ## Buy two books through the public API of the running shop
	@exec $(DEV) demo

.PHONY: demo-chat
demo-chat: dev-binary ## Talk with the bookseller of the running shop, and see the sources
	@exec $(DEV) demo-chat

.PHONY: bench
bench: dev-binary ## Measure placing and confirming orders, and the writes they cost
	@exec $(DEV) bench

.PHONY: bench-chat
bench-chat: dev-binary ## Measure the bookseller: first words, delivery, memory
	@exec $(DEV) bench-chat

.PHONY: eval
eval: postgres dev-binary ## Evaluate search and answers, write docs/evaluation.md, and fail below the gates
	@exec $(DEV) eval

.PHONY: build
build: ## Build the production binary, bin/bookworm
	go build -trimpath -o bin/bookworm ./cmd/bookworm

# The embedded Temporal server takes minutes to build the first time. Go's build
# cache knows what is stale, so the target is always tried.
.PHONY: dev-binary
dev-binary:
	@[ -x $(DEV) ] || echo "building the shop; the first time takes some minutes" >&2
	@go build -C dev -o bin/bookworm-dev ./cmd/bookworm-dev

##
## Change it
##

.PHONY: generate
generate: tools ## Generate Go from the contracts
	$(BIN)/buf generate

.PHONY: promise
promise: tools ## Record the contracts as landed; from then on make check defends them
	tools/check-breaking $(BIN)/buf
	$(BIN)/buf build api/proto --exclude-source-info -o api/landed.binpb.gz

.PHONY: format
format: tools ## Format Go
	$(BIN)/golangci-lint fmt ./...
	cd dev && $(BIN)/golangci-lint fmt --config ../.golangci.yml ./...

.PHONY: lint
lint: tools ## Lint both modules; import rules included
	$(BIN)/golangci-lint run ./...
	cd dev && $(BIN)/golangci-lint run --config ../.golangci.yml ./...

.PHONY: lint-test
lint-test: tools ## Prove that the import rules bite
	tools/lint/prove-import-rules

.PHONY: check
check: check-contracts check-generated check-format check-modules lint lint-test check-workflows ## All checks that run no tests

.PHONY: check-contracts
check-contracts: tools
	$(BIN)/buf lint
	tools/check-breaking $(BIN)/buf

.PHONY: check-generated
check-generated: tools
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && $(BIN)/buf generate --output "$$out" && \
	diff -r "$$out/internal/gen" internal/gen || { echo "generated code is not current: run make generate" >&2; exit 1; }

.PHONY: check-format
check-format: tools
	$(BIN)/golangci-lint fmt --diff ./...
	cd dev && $(BIN)/golangci-lint fmt --config ../.golangci.yml --diff ./...

.PHONY: check-modules
check-modules:
	go mod tidy -diff
	go -C dev mod tidy -diff
	go -C tools mod tidy -diff
	go -C tools/lint mod tidy -diff

.PHONY: check-workflows
check-workflows: tools
	$(BIN)/workflowcheck ./workflows/...

.PHONY: postgres
postgres:
	@dev/setup.sh

.PHONY: setup
setup: ## Install what the tests run on, where it is missing: PostgreSQL, Redis
	@dev/setup.sh --redis

.PHONY: test
test: tools setup dev-binary ## Run all tests of both modules with the race detector
	@BOOKWORM_DEV_BINARY=$(CURDIR)/$(DEV) $(BIN)/gotestsum --format standard-quiet \
	--post-run-command "bash -c 'echo \$$((TESTS_TOTAL - TESTS_FAILED - TESTS_SKIPPED)) passed, \$$((TESTS_FAILED + TESTS_ERRORS)) failed, \$$TESTS_SKIPPED skipped'" \
	--raw-command -- tools/test-all

.PHONY: test-openapi
test-openapi: postgres dev-binary ## Check the OpenAPI document and a shop against it, with tools of others
	@tools/test-openapi/run

.PHONY: update-docs
update-docs: ## Write what is made from code: tables of docs/, the OpenAPI document
	go test ./docs -update
	go test ./api/gateway -run TestOpenAPIDocumentIsCurrent -update

.PHONY: clean
clean: ## Remove what was built; the shop's data in .bookworm/ stays
	rm -rf bin dev/bin tools/bin

##
## Tools, pinned in modules of their own
##

.PHONY: tools
tools: $(BIN)/.tools $(BIN)/.lint ## Install the pinned tools into tools/bin

$(BIN)/.tools: tools/go.mod tools/go.sum
	cd tools && GOBIN=$(BIN) go install tool
	@touch $@

# The linter needs other versions of what buf needs, so it has its own module.
$(BIN)/.lint: tools/lint/go.mod tools/lint/go.sum
	cd tools/lint && GOBIN=$(BIN) go install tool
	@touch $@
