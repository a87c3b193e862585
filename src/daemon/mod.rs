//! One process for each pool: mounts, control socket, background work.
