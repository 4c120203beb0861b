# What can be done here. `make` alone says it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Where the Rust installer puts cargo; a shell that was open before does not know it yet.
export PATH := $(HOME)/.cargo/bin:$(PATH)

# Seconds that each fuzzing loop goes on: `make test FUZZ_SECONDS=5` for the impatient.
FUZZ_SECONDS ?= 60
# More arguments: `make run ARGS="--listen 127.0.0.1:9000"`, `make bench SCENARIO=creates ARGS=--quick`.
ARGS ?=

.PHONY: help
help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

.PHONY: setup
setup: ## Install what the others need, from the ordinary package managers
	@scripts/setup

.PHONY: run
run: setup ## Build and start one node on http://127.0.0.1:8080, data in ./data
	cargo run --release --quiet --bin taskflow -- serve $(ARGS)

.PHONY: cluster
cluster: setup ## Three nodes over a real Redis and a real CQL database on this machine, until Ctrl-C
	cargo build --release --quiet --bin taskflow
	scripts/cluster

.PHONY: test
test: setup ## Everything that must pass before a change lands
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p taskflow-actors --all-targets --features simulation --locked -- -D warnings
	FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --workspace --locked --no-fail-fast
	cargo test --locked -p taskflow-actors --features simulation --test simulation
	scripts/openapi-check
	scripts/chart-check
	scripts/image-check
	scripts/grafana-check
	scripts/grafana-check live

.PHONY: check
check: setup ## The quick loop: format, lints, layering, unit tests; no server
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --locked --test layering
	FUZZ_SECONDS=1 cargo test --locked -p taskflow-protocol -p taskflow-actors
	cargo test --locked --lib

# The simulation: so many schedules, from this seed.
SCHEDULES ?= 2000
SEED ?= 1
SIM := cargo run --release --quiet --locked -p taskflow-actors --features simulation --example sim --

.PHONY: sim
sim: setup ## Whole clusters in virtual time: make sim SCHEDULES=2000 SEED=1; the same seed gives the same digest
	$(SIM) $(SCHEDULES) $(SEED)

.PHONY: sim-planted
sim-planted: setup ## Plants each deliberate bug in turn; the simulation must find all of them
	$(SIM) planted $(SCHEDULES) $(SEED)

# In a network of its own, where packets can be made to vanish.
CHAOS := scripts/apart cargo test --release --locked --offline --test cluster chaos -- --nocapture

.PHONY: chaos
chaos: setup ## The real cluster under real faults, with a verdict: three database nodes, Redis with Sentinels and as a Cluster
	cargo test --release --locked --test cluster --no-run
	CHAOS_ROUNDS=2 CHAOS_USERS=64 CHAOS_FOLLOWERS=200 CHAOS_DATABASE_NODES=3 CHAOS_REDIS=sentinel $(CHAOS)
	CHAOS_ROUNDS=2 CHAOS_USERS=64 CHAOS_FOLLOWERS=200 CHAOS_DATABASE_NODES=3 CHAOS_REDIS=cluster $(CHAOS)

# The older version: a tag or a commit.
FROM ?=

.PHONY: rolling
rolling: setup ## A rolling update under load from an older version (FROM=commit) to this one and back
	scripts/rolling $(FROM)

.PHONY: verify
verify: setup ## The slow proofs that `make test` has no time for
	FUZZ_SECONDS=600 cargo test --release --locked -p taskflow-protocol --test mutations -- --nocapture
	scripts/fuzz 600
	$(SIM) 10000 $(SEED)
	$(SIM) planted 2000 $(SEED)
	scripts/image-check run
	scripts/grafana-check live cluster
	$(MAKE) rolling
	$(MAKE) bench SCENARIO=rolling ARGS="--results target/loadtest/verify"
	$(MAKE) chaos

bench: setup ## Measure: the load scenarios against a node of their own, a table and a JSON file at the end
include loadtest/bench.mk

.PHONY: deny
deny: setup ## Licences, advisories, sources and layering by cargo-deny (asks the advisory database)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check

.PHONY: docs-tables
docs-tables: setup ## Write what is generated: tables in the docs (settings, metrics, codes), dashboards, and what the chart has of them
	UPDATE_DOCS=1 cargo test --locked -p taskflow-protocol --test docs -- --ignored
	UPDATE_DOCS=1 cargo test --locked --test operations_page -- --ignored
	UPDATE_DOCS=1 cargo test --locked -p taskflow-loadtest --bin taskflow-loadtest capacity -- --ignored
	grafana/dashboards.py --write
	scripts/chart-check --write

.PHONY: golden
golden: setup ## Write the golden files of new variants; what is there stays as it is
	cargo run --locked -p taskflow-protocol --example golden
