# Loads the release build beside the reference servers: a table, JSON in loadtest/results, loadtest/REPORT.md.
# One scenario: make bench SCENARIO=fanout. A try-out: make bench ARGS=--quick.

SCENARIO ?= all

.PHONY: bench
bench:
	loadtest/setup
	cargo build --release --locked --package taskflow --package taskflow-loadtest
	cargo build --release --locked --manifest-path loadtest/reference/Cargo.toml --target-dir loadtest/reference/target
	cargo run --release --locked --quiet --package taskflow-loadtest -- $(SCENARIO) $(ARGS)
