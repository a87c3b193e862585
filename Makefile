# The commands of the README. `make help` lists them.

CARGO  ?= cargo
PREFIX ?= /usr/local
# Where mount(8) looks for the helpers of filesystem types, whatever the prefix.
SBINDIR ?= /sbin
DESTDIR ?=
# Of `make soak`: how many random cases a property test runs, how many times more crash histories are tried
# than in `make test`, and how large the mounted runs are.
CASES ?= 2000
CRASHES ?= 20
# So many times more runs of sixteen threads, and so many times more schedules of the engine under shuttle.
STRESSES ?= 100
SCHEDULES ?= 1
# A flip of every byte of a pool, so many times more damaged ranges, and so many seconds for each fuzz body.
FLIP_EVERY ?= 1
DAMAGES ?= 20
FUZZ_SECONDS ?= 900
FILES ?= 70000
SNAPSHOTS ?= 10000
# Operations of fsx and of the exerciser together, times that the daemon is killed under load, and the size
# in GiB of the file that is copied by sharing it.
FSX ?= 10000000
KILLS ?= 200
SHARED ?= 10
# Times that the power of a virtual machine is cut under load.
CUTS ?= 500
# Of `make bench`: --quick, --only WORKLOAD,..., --on FILESYSTEM,..., --dir DIR, --rounds N, --json FILE,
# --plot FILE.svg
ARGS ?=

.PHONY: help build demo test lint schedules soak bench fuzz doc install uninstall clean setup setup-tests setup-fuzz setup-bench

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 18

setup:
	@scripts/setup.sh

setup-tests:
	@scripts/setup.sh tests

setup-fuzz:
	@scripts/setup.sh fuzz

setup-bench:
	@scripts/setup.sh bench $(ARGS)

build: setup ## the release binary, target/release/amberfs
	$(CARGO) build --release --locked

demo: setup ## a pool, files, a snapshot, a look back, step by step, in a temporary directory
	$(CARGO) build --locked
	@scripts/demo.sh target/debug/amberfs

test: setup-tests lint ## everything that has to pass before a change is in
	AMBERFS_REQUIRE_FUSE=1 $(CARGO) test --locked
	scripts/programs.sh target/debug/amberfs
	scripts/power-cuts.sh target/debug/amberfs 3
	AMBERFS_KILLS=3 scripts/old-kernel.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

schedules: ## the engine under shuttle, which tries orders in which its threads can go on; SCHEDULES times as many
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/scripts/rustc-shuttle.sh AMBERFS_SCHEDULES=$(SCHEDULES) \
		$(CARGO) test --locked --test shuttle

soak: setup-tests ## longer: many more random cases, a large tree and thousands of snapshots, real programs
	PROPTEST_CASES=$(CASES) AMBERFS_CRASH_RUNS=$(CRASHES) AMBERFS_FSX_OPERATIONS=$(FSX) AMBERFS_KILLS=$(KILLS) \
		AMBERFS_SHARED_GIB=$(SHARED) AMBERFS_FLIP_EVERY=$(FLIP_EVERY) AMBERFS_DAMAGE_RUNS=$(DAMAGES) \
		AMBERFS_FUZZ_SECONDS=$(FUZZ_SECONDS) AMBERFS_STRESS_RUNS=$(STRESSES) \
		$(CARGO) test --release --locked --lib --tests
	$(MAKE) schedules SCHEDULES=100
	$(CARGO) build --release --locked --bins --example power_cut
	scripts/soak.sh target/release/amberfs $(FILES) $(SNAPSHOTS)
	LONG=1 scripts/programs.sh target/release/amberfs
	scripts/power-cuts.sh target/release/amberfs $(CUTS)
	AMBERFS_KILLS=$(KILLS) scripts/old-kernel.sh

bench: setup-bench ## AmberFS beside the host's filesystem, btrfs, XFS, bindfs, zfs-fuse: a table (ARGS=--quick)
	$(CARGO) build --release --locked
	$(CARGO) bench --locked --bench compare -- $(ARGS)

fuzz: setup-fuzz ## the fuzz bodies under libFuzzer, for FUZZ_SECONDS each, with a nightly toolchain
	CARGO=$(CARGO) scripts/fuzz.sh $(FUZZ_SECONDS)

doc: setup ## the API's documentation and the manual pages, in target/doc and docs/man
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked
	$(CARGO) run --locked --quiet -- man docs/man

install: build ## the binary, mount helpers, manual pages and completions (PREFIX, SBINDIR, DESTDIR)
	install -D -m 755 target/release/amberfs $(DESTDIR)$(PREFIX)/bin/amberfs
	install -d $(DESTDIR)$(SBINDIR)
	ln -sf $(PREFIX)/bin/amberfs $(DESTDIR)$(SBINDIR)/mount.amberfs
	ln -sf $(PREFIX)/bin/amberfs $(DESTDIR)$(SBINDIR)/mount.fuse.amberfs
	target/release/amberfs man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	target/release/amberfs completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/amberfs
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	target/release/amberfs completions zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_amberfs

uninstall: ## what `make install` put there
	rm -f $(DESTDIR)$(PREFIX)/bin/amberfs
	rm -f $(DESTDIR)$(SBINDIR)/mount.amberfs $(DESTDIR)$(SBINDIR)/mount.fuse.amberfs
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/amberfs*.1
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/amberfs
	rm -f $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_amberfs

clean: ## what was built
	$(CARGO) clean
