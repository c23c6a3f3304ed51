# What this Makefile may do: install what is missing by package name, build, call the programs it built.
# What it may not: hold logic that a program should have, need root for anything but installing packages.

TARGET := x86_64-unknown-linux-gnu
NODE := target/$(TARGET)/node
QUORATE := target/debug/quorate
CLUSTER ?= examples/etcd.toml

.DEFAULT_GOAL := help
.PHONY: help up down check test bench build image deps fuzz clean

help:
	@sed -n 's/^## //p' Makefile

## make up      build the etcd image, boot one VM with it, end with etcd's own status
up: image
	$(QUORATE) cluster up $(CLUSTER)

## make down    end that VM (WIPE=1: and forget its disk)
down: build
	$(QUORATE) cluster down $(CLUSTER) $(if $(WIPE),--wipe)

## make check   format, lints, unit tests: fast
check: deps
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	CI=$(CI) cargo test --quiet --workspace --exclude qemu-tests

## make test    everything CI runs: check, and the tests in VMs and in a PID namespace
test: check image
	QUORATE_BIN=$(abspath target) cargo test --quiet -p qemu-tests -- --test-threads=2

## make bench   figures, next to a peer or a floor in the same run
bench: image
	QUORATE_BIN=$(abspath target) cargo bench -p qemu-tests

## make fuzz    a minute for each parser of foreign bytes (needs a nightly toolchain and cargo-fuzz)
fuzz:
	cd metadata && for t in $$(cargo +nightly fuzz list); do cargo +nightly fuzz run $$t -- -max_total_time=60 || exit 1; done

# The programs of a node: static, small, and built the same wherever the tree lies.
# RUSTFLAGS replaces what configuration files say, so it is set in this one rule.
build: deps
	RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=. --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=cargo" \
	  cargo build --quiet --profile node --target $(TARGET) -p init -p agent
	cargo build --quiet -p builder
	@install -C -m 755 $(NODE)/quorate-init $(NODE)/quorate-agent target/debug/

image: build
	$(QUORATE) image build etcd --update-vanished

deps:
	@sh .ci/deps

clean:
	cargo clean
