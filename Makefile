# `make help` lists the targets. Each installs first what it needs and does not find (scripts/setup.sh says what).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build demo test lint bench bench-growth bench-scrape bench-shield soak fuzz grade docs clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

build: ## the program: target/release/propylon
	@scripts/setup.sh build
	cargo build --release --locked

demo: ## Flask, Django and FastAPI behind one gateway; KEEP=1 leaves it running until Ctrl-C
	@scripts/setup.sh demo
	@KEEP=$(KEEP) examples/demo/demo.sh

test: ## every test, against real Gunicorn and Uvicorn
	@scripts/setup.sh test
	cargo test --locked

lint: ## formatting, clippy, licences and sources of what is built in
	@scripts/setup.sh lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo deny --locked --log-level error --config .deny.toml check --allow duplicate licenses sources bans

bench: build ## the race: nginx, HAProxy, Envoy, Traefik, Caddy and Propylon on this machine; ARGS="--help" lists the knobs
	@scripts/setup.sh bench
	python3 -B tests/bench/race.py $(ARGS)

bench-growth: build ## how a request's cost grows with connections, routes, endpoints and kept answers
	@scripts/setup.sh bench
	python3 -B tests/bench/growth.py $(ARGS)

bench-scrape: build ## how long a scrape takes with 50 upstreams of 20 endpoints
	@scripts/setup.sh bench
	python3 -B tests/bench/scrape.py $(ARGS)

bench-shield: build ## how the gateways shield a real Gunicorn: slow clients, restarts; ARGS as for bench
	@scripts/setup.sh bench
	python3 -B tests/bench/shield.py $(ARGS)

soak: ## the integration tests in the release build, with the long counts
	@scripts/setup.sh test
	PROPYLON_SOAK=1 cargo test --release --locked --test it

grade: build ## the security fields, judged by Mozilla's observatory; needs Node.js 20 or newer with npm
	@scripts/setup.sh demo
	python3 -B tests/grade/grade.py

fuzz: ## what the gateway parses itself under libFuzzer, each target for FUZZ_SECONDS=60
	@scripts/setup.sh fuzz
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz.sh $(ARGS)

docs: ## the crate's documentation: target/doc/propylon/index.html
	@scripts/setup.sh build
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

clean: ## removes what was built, .venv and .venv-bench
	cargo clean
	rm -rf .venv .venv-bench
