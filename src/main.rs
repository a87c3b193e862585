//! The `amberfs` command: see [`amberfs::cli`].

use std::process::ExitCode;

use amberfs::cli::{Environment, run};

fn main() -> ExitCode {
    let args = std::env::args_os().collect();
    let log_filter = std::env::var("AMBERFS_LOG").ok();
    ExitCode::from(run(&Environment { args, log_filter }))
}
