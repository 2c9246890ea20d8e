# One verb per chore. People, CI and the docs use the same ones.
.DEFAULT_GOAL := help
SHELL := /bin/bash

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/windlass
CLUSTER_SCRIPT := e2e/cluster/cluster
# Installed once into the cache, so that no clone builds it again.
DENY_VERSION := 0.20.2
DENY := $(CACHE)/tools/cargo-deny-$(DENY_VERSION)/bin/cargo-deny
FUZZ_VERSION := 0.13.2
FUZZ := $(CACHE)/tools/cargo-fuzz-$(FUZZ_VERSION)/bin/cargo-fuzz
SCRIPTS := .ci/run $(CLUSTER_SCRIPT) e2e/cluster/bare/holder.sh e2e/check deploy/up deploy/install deploy/ask \
  deploy/requirements charts/check charts/lifecycle bench/peers bench/run fuzz/run e2e/scale
BINARIES := $(or $(CARGO_TARGET_DIR),target)/debug

.PHONY: help up test down fmt style lint deny unit fuzz charts e2e scale bench images models crds advisories requirements

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14
	@echo
	@echo "make up starts a cluster, serves a small model in it and asks it a question; CLUSTER=given|kind|bare"
	@echo "and HUB=online are explained in deploy/up. make test needs no running cluster and disturbs none."

up: requirements ## a running cluster with a model in it that answers (first time: long builds)
	deploy/up

down: ## what `make up` started away again
	$(CLUSTER_SCRIPT) down --name up

test: requirements ## every check, the cluster tests included, with a summary
	e2e/check

fmt: ## format the sources
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

style: ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --test e2e --locked -- --deny warnings

lint: style ## style, and shellcheck
	shellcheck $(SCRIPTS)

deny: $(DENY) ## licences, sources, and the arrows between our crates
	$(DENY) --locked --all-features check --hide-inclusion-graph --allow unused-wrapper bans licenses sources
	$(DENY) --locked --manifest-path fuzz/Cargo.toml --config deny.toml check --hide-inclusion-graph sources

advisories: $(DENY) ## known vulnerabilities in dependencies (fetches the advisory database)
	$(DENY) check advisories

$(DENY):
	cargo install --locked --root $(CACHE)/tools/cargo-deny-$(DENY_VERSION) cargo-deny@$(DENY_VERSION)

$(FUZZ):
	cargo install --locked --root $(CACHE)/tools/cargo-fuzz-$(FUZZ_VERSION) cargo-fuzz@$(FUZZ_VERSION)

unit: models ## unit, golden and process tests; no cluster
	cargo test --locked

fuzz: requirements $(FUZZ) ## fuzz every target for FUZZ_SECONDS (300) each; their corpus is part of `make unit`
	CARGO_FUZZ=$(FUZZ) fuzz/run

charts: ## checks of the Helm charts, samples and GitOps examples; no cluster
	$(CLUSTER_SCRIPT) build
	eval "$$($(CLUSTER_SCRIPT) tools)" && charts/check
	cd e2e/kstatus && GOWORK=off go test -count=1 ./...

e2e: requirements ## cluster tests alone, in the cluster 'test'; KEEP=1 leaves it running
	e2e/check cluster

scale: requirements ## the operator with 1,000 and 5,000 objects on simulated nodes (about 45 minutes); SCALE_FLAGS: see e2e/scale
	e2e/scale

bench: ## speed of the server and its peers on this machine, in turns (long); BENCH_FLAGS, PEERS: see bench/run
	bench/run

images: ## OCI archives of all images, in target/images
	cargo build --locked --bins --tests # the same features as `cargo test`: nothing compiles twice
	model="$$(deploy/samples/fetch-model smollm2)" && \
	deploy/images/build --bin-dir $(BINARIES) operator server registry client hub \
	  --model "$$(sed -n 's|^ *source: hf://||p' deploy/samples/quickstart.yaml)=$$model"

models: ## the model files that tests use, into the cache
	deploy/samples/fetch-model smollm2
	deploy/samples/fetch-model qwen2.5-coder-0.5b
	deploy/samples/fetch-model gemma3-270m
	deploy/samples/fetch-model all-minilm-l6-v2

crds: ## regenerate the CRDs in charts/windlass-crds and the API reference in docs/reference
	cargo run --locked -p windlass-crds --bin crdgen .

requirements:
	@deploy/requirements
