//! `amberfs completions` and `amberfs man`: files made of the definitions of the command line.

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::output::print;
use super::{Cli, Failure};

/// Print a completion script.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "amberfs", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}

/// Write the manual pages of section 1 into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// The directory; it is made if it is not there.
    dir: PathBuf,
}

impl Man {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let attempt = format!("write the manual pages to {}", self.dir.display());
        fs::create_dir_all(&self.dir)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &self.dir))
            .map_err(|error| Failure::new(attempt, error))
    }
}
