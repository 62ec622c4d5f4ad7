# What there is to do here. `make` alone prints this list; docs/testing.md says what each part takes.

SHELL := /bin/bash
PYTEST := cd conformance && .venv/bin/pytest
# One build serves the tests: fail points are compiled in and sleep unless a variable arms one.
TEST_FEATURES := --features failpoints
export RELAYPACS_BIN ?= $(CURDIR)/target/debug/relaypacs

.DEFAULT_GOAL := help
.PHONY: help run release test check unit conformance conformance-orthanc conformance-postgres crash soak \
        fuzz fuzz-planted fuzz-keep bench bench-spool openapi tools test-build

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## install what is missing, build, and run a node on the embedded default (data in ./data)
	@scripts/run.sh

release: ## build the release binary and prove that it has no fail points
	@scripts/install-build-tools.sh
	cargo build --release --locked
	@scripts/check-no-failpoints.sh target/release/relaypacs

test: ## everything that must pass, with a summary; installs what it needs
	@scripts/test.sh

check: ## formatting and lints
	cargo fmt --check
	cargo clippy --locked --all-targets $(TEST_FEATURES) -- -D warnings
	cargo clippy --locked --lib --bins -- -D warnings

unit: ## unit and integration tests
	@scripts/unit.sh $(TEST_FEATURES)

conformance: tools test-build ## black-box suites against the node, on SQLite
	$(PYTEST)

conformance-postgres: tools test-build ## those that ask the index, on PostgreSQL
	$(PYTEST) -m sql --database postgres

conformance-orthanc: tools ## the same tests against Orthanc: what a known PACS makes of them
	export SUBJECT=orthanc; $(PYTEST) dimse dicomweb

crash: tools test-build ## the durability campaigns, resumable, into docs/durability.md; PART=kill for one
	cd conformance && .venv/bin/python -m crash $(PART)

soak: tools test-build ## an hour of mixed traffic, into docs/durability.md; MINUTES=60
	cd conformance && .venv/bin/python -m crash soak

fuzz: ## each target finds the bug planted in it, then is fuzzed for SECONDS_EACH (60); docs/fuzzing.md
	@scripts/fuzz.sh run

fuzz-planted: ## the first half of it
	@scripts/fuzz.sh planted

fuzz-keep: ## what fuzzing found worth keeping into fuzz/corpus, minimised; make test replays it
	@scripts/fuzz.sh keep

bench: release tools ## the node beside Orthanc, storescp and a server that only appends and syncs, into docs/performance.md
	cd bench/load && cargo build --release --locked
	python3 -m bench $(PART)

bench-spool: ## the spool alone, beside a bare append and sync
	cargo bench --locked --bench spool

openapi: test-build ## docs/openapi.json, from the binary
	"$(RELAYPACS_BIN)" openapi > docs/openapi.json

tools: ## install the peers and the Python environment that the suites need
	@scripts/install-test-tools.sh

test-build: ## the binary that the suites run
	cargo build --locked $(TEST_FEATURES)
