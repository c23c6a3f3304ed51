# What this Makefile may do: install what is missing by package name, build, call the programs it built.
# What it may not: hold logic that a program should have, need root for anything but installing packages.

TARGET := x86_64-unknown-linux-gnu
NODE := target/$(TARGET)/node
QUORATE := target/debug/quorate
CLUSTER ?= examples/stacked.toml
# The tests in VMs. A library is built with the features that all packages want which are built together: with another choice
# of packages than `check` has, a third of the libraries would be built once more.
CLAIMS := QUORATE_BIN=$(abspath target) cargo test --quiet --workspace --test claims --
test soak: BESIDE := --workspace --test claims

.DEFAULT_GOAL := help
.PHONY: help up down check test soak bench bench-kubeadm build image deps fuzz clean

help:
	@sed -n 's/^## //p' Makefile

## make up      build the images, boot a cluster of VMs with them, end with the cluster's own word
up: image
	$(QUORATE) cluster up $(CLUSTER)

## make down    end those VMs (WIPE=1: and forget their disks)
down: build
	$(QUORATE) cluster down $(CLUSTER) $(if $(WIPE),--wipe)

## make check   format, lints, unit tests: fast
check: deps
	cargo fmt --check
	cargo clippy --workspace --lib --bins --tests --benches --test claims -- -D warnings
	CI=$(CI) cargo test --quiet --workspace

## make test    everything CI runs: check, and the tests in VMs and in a PID namespace
#               Each test waits for the cores it needs (qemu-tests/src/cores.rs), so all of them may begin.
test: check image
	$(CLAIMS) --test-threads=64

## make soak    the same claims for hours: thirty cold starts, minutes of bad network, a member minutes late, six to eight nodes of Kubernetes, the fault table
soak: check image
	cargo test --quiet --workspace membership::model -- --nocapture --include-ignored
	QUORATE_COLD_BOOTS=30 QUORATE_LATE_SECONDS=120 QUORATE_LOSS_SECONDS=60 \
	  $(CLAIMS) --test-threads=1 --nocapture --include-ignored first_boot:: faults:: stacked:: topologies:: apply:: kubernetes:: lb_masters:: cli::
	$(QUORATE) chaos examples/stacked.toml --again --minutes 30
	$(QUORATE) chaos examples/external.toml --again
	$(QUORATE) chaos examples/compact.toml --again

## make bench   figures, next to a peer or a floor in the same run
bench: image
	$(QUORATE) image build qemu-tests/standin/guide.toml --init target/debug/quorate-standin --out out/test/guide --update-vanished
	QUORATE_BIN=$(abspath target) cargo bench -p qemu-tests --bench figures --bench cluster --bench kubernetes --bench lb

## make bench-kubeadm  a whole cluster next to one as kubeadm's guides make it: 1.5 hours, root, mmdebstrap
bench-kubeadm: image
	QUORATE_BIN=$(abspath target) cargo bench -p qemu-tests --bench kubeadm

## make fuzz    a minute for each parser of foreign bytes (needs a nightly toolchain and cargo-fuzz)
fuzz:
	cd metadata && for t in $$(cargo +nightly fuzz list); do cargo +nightly fuzz run $$t -- -max_total_time=60 || exit 1; done

# The programs of a node: static, small, and built the same wherever the tree lies.
# RUSTFLAGS replaces what configuration files say, so it is set in this one rule. Functions that came out
# alike are kept once, and relocations packed (glibc's static startup reads these since 2.36; .ci/deps looks).
build: deps
	RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,--icf=all,-z,pack-relative-relocs --remap-path-prefix=$(CURDIR)=. --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=cargo" \
	  cargo build --quiet --profile node --target $(TARGET) -p init -p agent -p standin
	cargo build --quiet $(or $(BESIDE),-p builder) --bin quorate
	@install -C -m 755 $(NODE)/quorate-init $(NODE)/quorate-agent $(NODE)/quorate-standin target/debug/
	$(CC) -static -Os -s -Wall -Wextra -Werror qemu-tests/box/box.c -o target/debug/quorate-box

image: build
	$(QUORATE) image build etcd --update-vanished
	$(QUORATE) image build lb --update-vanished
	$(QUORATE) image build master-etcd --update-vanished
	$(QUORATE) image build master --update-vanished
	$(QUORATE) image build universal --update-vanished
	$(QUORATE) image build worker --update-vanished
	$(QUORATE) image build qemu-tests/standin/standin.toml --init target/debug/quorate-standin --out out/test/standin --update-vanished

deps:
	@sh .ci/deps

clean:
	cargo clean
