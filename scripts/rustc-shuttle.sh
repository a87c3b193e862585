#!/bin/sh
# Runs rustc on this package with `--cfg shuttle`, as RUSTC_WORKSPACE_WRAPPER. With RUSTFLAGS instead, everything
# that the package depends on would be compiled once more, for minutes.
exec "$@" --cfg shuttle
