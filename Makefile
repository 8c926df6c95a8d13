# Everything that is done to Latchkey by hand or by CI. `make` alone lists it.
# Tools that are no part of a Rust toolchain come from package registries into target/tools.

TOOLS := $(CURDIR)/target/tools
# Tests look for real clients (grpcurl, Python's grpcio) here and fail without them.
export LATCHKEY_TOOLS := $(TOOLS)/bin
# A Cargo.lock that does not fit Cargo.toml is an error; `make test LOCKED=` writes a new one.
LOCKED ?= --locked

.DEFAULT_GOAL := help
.PHONY: help dev tools test lint advisories bench

help: ## List what can be made
	@awk -F ': .*## ' '/^[a-z-]+: .*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: ## Run a server for trying out, with an embedded store
	cargo run --release $(LOCKED) -- dev

tools: ## Install the tools that lint and tests need, if they are missing
	@.ci/install-tools '$(TOOLS)'

test: tools ## Run all tests
	# Without what debug builds have besides; one test starts it as a container would.
	cargo build --release $(LOCKED)
	cargo test --all-features $(LOCKED)

lint: tools ## Check format, lints, dependencies and the proto files
	@cargo fmt --version >/dev/null && cargo clippy --version >/dev/null || \
		{ echo 'run: rustup component add rustfmt clippy' >&2; exit 1; }
	cargo fmt --check
	cargo clippy --all-targets --all-features $(LOCKED) -- -D warnings
	'$(LATCHKEY_TOOLS)/cargo-deny' $(LOCKED) check --hide-inclusion-graph bans licenses sources
	'$(LATCHKEY_TOOLS)/buf' lint proto

advisories: tools ## Check dependencies against the RustSec advisories (needs the network)
	'$(LATCHKEY_TOOLS)/cargo-deny' $(LOCKED) check advisories

bench: ## Run the benchmarks, as they are in the README (slow: a whole-program build)
	cargo bench --profile dist --all-features $(LOCKED)
