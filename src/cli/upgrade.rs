//! `amberfs upgrade`.

use std::path::PathBuf;

use crate::daemon;

use super::locate::absolute_pool;
use super::{Context, Failure};

/// Have this program serve a mounted pool in place of the one that does; the mounts stay.
///
/// Programs on the mounts see a pause. What they had under way is carried out once.
#[derive(Debug, clap::Args)]
pub(super) struct Upgrade {
    /// The pool.
    pool: PathBuf,
    /// Another program than this one.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Upgrade {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let pool = absolute_pool(&self.pool);
        let attempt = format!("upgrade the daemon of {}", pool.display());
        let program = match &self.program {
            Some(program) => program.canonicalize(),
            None => std::env::current_exe(),
        };
        let program =
            program.map_err(|error| Failure::new(&attempt, format!("the program: {error}")))?;
        match daemon::upgrade(&pool, &program) {
            Ok(Some(row)) => {
                context
                    .note(&format!("process {}, amberfs {}, serves it now", row.pid, row.version));
                Ok(())
            }
            Ok(None) => Err(Failure::new(attempt, "it is not mounted").hint(
                "A pool that is not mounted needs nothing: the next mount uses the new program.",
            )),
            Err(error) => Err(Failure::from_daemon(attempt, error)),
        }
    }
}
