# The one front door: everything is done from here. `make help` lists it.
# Variables: ARGS (of run, tune), DATA (of run), PREFIX and DESTDIR (of install), BENCH,
# SCENARIO (of bench-run), A and B (of bench-compare), FUZZ_SECONDS, SHARDS (of tests).

PREFIX ?= /usr/local
DESTDIR ?=
ARGS ?=
DATA ?= data
BENCH ?=
SCENARIO ?= e-4
A ?=
B ?=
SHARDS ?= 1,2,3,8
FUZZ_SECONDS ?= 60
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
PROFILE := ci

.DEFAULT_GOAL := help
.PHONY: help build run test test-disk test-epoll test-websocket test-clients lint fmt bench bench-peer \
	bench-peers bench-run bench-compare bench-durable bench-transports instructions fuzz miri loom install uninstall \
	deb static tarball tune clean

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
	RINGTIDE_TEST_DRIVER=epoll RINGTIDE_TEST_SHARDS=3 \
		cargo test --locked --profile $(PROFILE) -p ringtide --test cross_shard \
		--test full_disk --test hard_cases_flow --test hard_cases_qos --test tls --test waiting

test-epoll: ## the tests of the broker with epoll in place of io_uring
	@scripts/ensure.sh test
	RINGTIDE_TEST_DRIVER=epoll RINGTIDE_REQUIRE_CLIENTS=1 RINGTIDE_TEST_SHARDS=$(SHARDS) \
		cargo test --locked --profile $(PROFILE) -p ringtide

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

bench-peers: ## the same with every peer that can be installed: mosquitto, nats-server, rumqttd
	@scripts/ensure.sh peers
	cargo build --release --locked -p ringtide -p ringtide-perf
	scripts/peers.sh $(TARGET)/release $(BENCH)

bench-run: ## run a scenario of the published tests (SCENARIO=e-4 BENCH="--scale 0.005")
	@scripts/ensure.sh bench
	cargo build --release --locked -p ringtide -p ringtide-perf
	$(TARGET)/release/ringtide-perf run $(SCENARIO) \
		--broker $(TARGET)/release/ringtide $(BENCH)

bench-compare: ## differences of two results files, and which are noise (A=FILE B=FILE)
	@test -n "$(A)" -a -n "$(B)" || { echo "usage: make bench-compare A=FILE B=FILE"; exit 2; }
	@scripts/ensure.sh bench
	cargo run -q --release --locked -p ringtide-perf -- compare $(A) $(B)

bench-durable: ## what durability costs, a million sessions, the disk (BENCH="--against mosquitto")
	@scripts/ensure.sh bench
	cargo build --release --locked -p ringtide -p ringtide-perf
	$(TARGET)/release/ringtide-perf durable --broker $(TARGET)/release/ringtide $(BENCH)

bench-transports: ## WebSocket, TLS and epoll beside TCP, a relay and io_uring (BENCH="--rows NAME")
	@scripts/ensure.sh bench
	cargo build --release --locked -p ringtide -p ringtide-perf
	$(TARGET)/release/ringtide-perf transports --broker $(TARGET)/release/ringtide $(BENCH)

instructions: ## instructions of the shard's work against the recorded ones (needs no quiet machine)
	@scripts/ensure.sh instructions
	scripts/instructions.sh check

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

install: ## install program, configuration, unit and user (PREFIX=/usr/local DESTDIR=)
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) scripts/install.sh install \
		$(TARGET)/release/ringtide broker/ringtide.toml packaging/ringtide.service

uninstall: ## remove what install put there; configuration, data and user stay
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) scripts/install.sh uninstall

deb: ## make the Debian package (target/debian/)
	@scripts/ensure.sh deb
	cargo deb --locked -p ringtide --strip -q
	@ls $(TARGET)/debian/ringtide_*.deb

static: ## build a program that needs no library of the system (target/static/ringtide)
	@scripts/ensure.sh run
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked -p ringtide \
		--target $(HOST)
	install -D -m 755 $(TARGET)/$(HOST)/release/ringtide $(TARGET)/static/ringtide

tarball: static ## pack it with all that an installation needs (target/ringtide-VERSION-MACHINE.tar.gz)
	scripts/tarball.sh $(TARGET)

tune: ## look at this host (ARGS="apply --dry-run", "apply", "revert": sudo)
	@scripts/tune.sh $(or $(ARGS),check)

clean: ## remove what was built and what was installed into the tree
	cargo clean
	rm -rf .venv broker/fuzz/target broker/tests/clients/node_modules
