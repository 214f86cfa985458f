# `make` alone lists what there is to do.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := $(CURDIR)/tools/bin
NPM := tools/npm/node_modules/.package-lock.json
DEV := dev/bin/bookworm-dev
CLIENT := api/client/go

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
token: dev-binary ## Print an access token: make token USER=alice (or bob, ops, sam, rita)
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

.PHONY: bench-door
bench-door: dev-binary ## Measure the gateway: what it adds, what its parts cost, what a flood does
	@exec $(DEV) bench-door

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
generate: tools $(NPM) ## Generate Go and the clients from the contracts
	$(BIN)/buf generate
	$(BIN)/buf generate --template buf.gen.clients.yaml

.PHONY: promise
promise: tools ## Record the contracts as landed; from then on make check defends them
	tools/check-breaking $(BIN)/buf
	$(BIN)/buf build api/proto --exclude-source-info -o api/landed.binpb.gz

.PHONY: format
format: tools ## Format Go
	$(BIN)/golangci-lint fmt ./...
	cd dev && $(BIN)/golangci-lint fmt --config ../.golangci.yml ./...
	cd $(CLIENT) && $(BIN)/golangci-lint fmt --config ../../../.golangci.yml ./...

.PHONY: lint
lint: tools ## Lint all modules; import rules included
	$(BIN)/golangci-lint run ./...
	cd dev && $(BIN)/golangci-lint run --config ../.golangci.yml ./...
	cd $(CLIENT) && $(BIN)/golangci-lint run --config ../../../.golangci.yml ./...

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
check-generated: tools $(NPM)
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	$(BIN)/buf generate --output "$$out" && $(BIN)/buf generate --template buf.gen.clients.yaml --output "$$out" && \
	for gen in internal/gen api/client/go/gen api/client/typescript/src/gen; do \
	diff -r "$$out/$$gen" "$$gen" || { echo "generated code is not current: run make generate" >&2; exit 1; }; done

.PHONY: check-format
check-format: tools
	$(BIN)/golangci-lint fmt --diff ./...
	cd dev && $(BIN)/golangci-lint fmt --config ../.golangci.yml --diff ./...
	cd $(CLIENT) && $(BIN)/golangci-lint fmt --config ../../../.golangci.yml --diff ./...

.PHONY: check-modules
check-modules:
	go mod tidy -diff
	go -C dev mod tidy -diff
	go -C $(CLIENT) mod tidy -diff
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
test: tools setup dev-binary ## Run all tests of all modules with the race detector
	@BOOKWORM_DEV_BINARY=$(CURDIR)/$(DEV) $(BIN)/gotestsum --format standard-quiet \
	--post-run-command "bash -c 'echo \$$((TESTS_TOTAL - TESTS_FAILED - TESTS_SKIPPED)) passed, \$$((TESTS_FAILED + TESTS_ERRORS)) failed, \$$TESTS_SKIPPED skipped'" \
	--raw-command -- tools/test-all

# Not among the tools: it takes two minutes to build, and only this needs it.
K6 := go.k6.io/k6@v1.8.1

$(BIN)/k6:
	GOBIN=$(BIN) go install $(K6)

.PHONY: test-limits
test-limits: $(BIN)/k6 dev-binary ## Ask the running shop whether its limits are what they say, with k6
	@ALICE=$$($(DEV) token alice) && BOB=$$($(DEV) token bob) && \
	GATEWAY=$$(sed -n 's/^BOOKWORM_GATEWAY_URL=//p' "$${BOOKWORM_DATA:-.bookworm}/env") && \
	$(BIN)/k6 run --no-usage-report --quiet -e ALICE="$$ALICE" -e BOB="$$BOB" -e GATEWAY="$$GATEWAY" dev/load/limits.js

KEYCLOAK_VERSION := 26.7.3
KEYCLOAK := tools/keycloak/keycloak-$(KEYCLOAK_VERSION)

.PHONY: test-keycloak
test-keycloak: $(KEYCLOAK) ## Run the identity tests against a real Keycloak (Maven fetches it; Java 17 or later)
	KEYCLOAK_HOME=$(CURDIR)/$(KEYCLOAK) go -C dev test ./identity -run 'Conformance|Keycloak' -count=1 -timeout 20m

# Unpacked beside its place first, so that what is there is whole.
$(KEYCLOAK):
	rm -rf tools/keycloak.part
	mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack \
	-Dartifact=org.keycloak:keycloak-quarkus-dist:$(KEYCLOAK_VERSION):zip -DoutputDirectory=$(CURDIR)/tools/keycloak.part
	mkdir -p tools/keycloak
	mv tools/keycloak.part/keycloak-$(KEYCLOAK_VERSION) $@

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

# The generator of TypeScript, for buf. Nothing else of the shop needs Node.js.
$(NPM): tools/npm/package-lock.json
	@command -v npm >/dev/null || { echo "generating the TypeScript client needs Node.js 20 or later with npm: install it first" >&2; exit 1; }
	npm ci --prefix tools/npm --no-audit --no-fund
	@touch $@

# The linter needs other versions of what buf needs, so it has its own module.
$(BIN)/.lint: tools/lint/go.mod tools/lint/go.sum
	cd tools/lint && GOBIN=$(BIN) go install tool
	@touch $@
