# Loads the build that is published beside the reference servers: a table, JSON in loadtest/results, loadtest/REPORT.md.
# One scenario: make bench SCENARIO=fanout. A try-out: make bench ARGS=--quick.

SCENARIO ?= all

.PHONY: bench
bench:
	loadtest/setup
ifneq ($(filter all metrics-cost,$(SCENARIO)),)
	cargo build --profile dist --locked --package taskflow --bin taskflow --features unmetered
	cp target/dist/taskflow target/dist/taskflow-unmetered
endif
	cargo build --profile dist --locked --package taskflow --package taskflow-loadtest
	cargo build --release --locked --manifest-path loadtest/reference/Cargo.toml --target-dir loadtest/reference/target
	# Behind the dashes it is a scenario, also where a subcommand has its name.
	cargo run --profile dist --locked --quiet --package taskflow-loadtest -- $(ARGS) -- $(SCENARIO)
