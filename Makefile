# The one front door: everything is done from here. `make help` lists it.
# Variables: ARGS (of run, tune), DATA (of run), PREFIX and DESTDIR (of install), BENCH,
# FUZZ_SECONDS, SHARDS (of tests).

PREFIX ?= /usr/local
DESTDIR ?=
ARGS ?=
DATA ?= data
BENCH ?=
SHARDS ?= 1,2,3,8
FUZZ_SECONDS ?= 60
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
PROFILE := ci

.DEFAULT_GOAL := help
.PHONY: help build run test test-disk test-websocket test-clients lint fmt bench bench-peer \
	bench-durable fuzz miri loom install tune uninstall clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the broker for use (target/release/ringtide)
	@scripts/ensure.sh run
	cargo build --release --locked -p ringtide

run: build ## build and start the broker on port 1883, data in ./data (ARGS="--shards 2")
	$(TARGET)/release/ringtide run --data-dir $(DATA) $(ARGS)

test: ## format, lints, all tests, real clients against the broker
	@scripts/ensure.sh test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked --profile $(PROFILE) -- -D warnings
	RINGTIDE_REQUIRE_CLIENTS=1 RINGTIDE_TEST_SHARDS=$(SHARDS) \
		cargo test --workspace --locked --profile $(PROFILE)

test-disk: ## the tests of the broker with the store on the disk in place of the tests' own
	@scripts/ensure.sh test
	RINGTIDE_TEST_STORE=disk RINGTIDE_REQUIRE_CLIENTS=1 RINGTIDE_TEST_SHARDS=$(SHARDS) \
		cargo test --locked --profile $(PROFILE) -p ringtide

test-websocket: ## the tests of the broker with every client behind a WebSocket
	@scripts/ensure.sh test
	RINGTIDE_TEST_TRANSPORT=ws RINGTIDE_TEST_SHARDS=$(SHARDS) \
		cargo test --locked --profile $(PROFILE) -p ringtide

test-clients: ## only mosquitto, paho-mqtt, gmqtt and mqtt.js against the broker
	@scripts/ensure.sh test
	RINGTIDE_REQUIRE_CLIENTS=1 RINGTIDE_TEST_SHARDS=$(SHARDS) \
		cargo test --locked --profile $(PROFILE) -p ringtide --test clients

lint: ## format check and clippy
	@scripts/ensure.sh lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

fmt: ## format the sources
	cargo fmt --all

bench: ## measure every row of the figures into perf/results/ (BENCH="--rows NAME")
	@scripts/ensure.sh bench
	cargo build --release --locked -p ringtide -p ringtide-perf
	$(TARGET)/release/ringtide-perf bench --broker $(TARGET)/release/ringtide $(BENCH)

bench-peer: ## the same rows in alternation with Debian's mosquitto
	@scripts/ensure.sh peer
	@$(MAKE) --no-print-directory bench BENCH="--against /usr/sbin/mosquitto $(BENCH)"

bench-durable: ## what durability costs, a million sessions, the disk (BENCH="--against mosquitto")
	@scripts/ensure.sh bench
	cargo build --release --locked -p ringtide -p ringtide-perf
	$(TARGET)/release/ringtide-perf durable --broker $(TARGET)/release/ringtide $(BENCH)

fuzz: ## run every fuzz target for FUZZ_SECONDS each
	@scripts/ensure.sh fuzz
	scripts/fuzz.sh $(FUZZ_SECONDS)

miri: ## the lanes' tests under miri
	@scripts/ensure.sh miri
	cargo +nightly miri test --locked -p ringtide-ring

loom: ## every interleaving of the lanes and the interest table
	@scripts/ensure.sh run
	RUSTFLAGS="--cfg loom" cargo test --release --locked -p ringtide-ring --test loom
	RUSTFLAGS="--cfg loom" cargo test --release --locked -p ringtide-topics --test loom_interest

install: ## install binary, configuration and systemd unit (PREFIX=/usr/local DESTDIR=)
	@test -x $(TARGET)/release/ringtide || { echo "run 'make build' first"; exit 1; }
	install -D -m 755 $(TARGET)/release/ringtide $(DESTDIR)$(PREFIX)/bin/ringtide
	@if [ -e $(DESTDIR)/etc/ringtide/ringtide.toml ]; then \
		echo "kept $(DESTDIR)/etc/ringtide/ringtide.toml as it is"; \
	else \
		install -D -m 644 broker/ringtide.toml $(DESTDIR)/etc/ringtide/ringtide.toml; fi
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|@PREFIX@|$(PREFIX)|' scripts/ringtide.service \
		>$(DESTDIR)$(PREFIX)/lib/systemd/system/ringtide.service

tune: ## look at this host (ARGS="apply --dry-run", "apply", "revert": sudo)
	@scripts/tune.sh $(or $(ARGS),check)

uninstall: ## remove what install put there; the configuration stays
	rm -f $(DESTDIR)$(PREFIX)/bin/ringtide
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/ringtide.service
	@echo "kept $(DESTDIR)/etc/ringtide"

clean: ## remove what was built and what was installed into the tree
	cargo clean
	rm -rf .venv broker/fuzz/target broker/tests/clients/node_modules
