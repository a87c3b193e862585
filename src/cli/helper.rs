//! `mount.amberfs` and `mount.fuse.amberfs`: what mount(8) runs for `mount -t amberfs` and fstab.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use crate::daemon::log::Verbosity;

use super::mount::{self, Mode};
use super::{Context, End, Environment};

/// Mounts an AmberFS volume for mount(8).
#[derive(Debug, Parser)]
#[command(name = "mount.amberfs", version)]
struct Helper {
    /// The volume: POOL, POOL:VOLUME, or POOL:VOLUME@SNAPSHOT.
    #[arg(value_name = "SPEC")]
    source: OsString,
    /// The mount point.
    dir: PathBuf,
    /// Mount options, separated by commas.
    #[arg(short, value_name = "OPTS")]
    options: Vec<String>,
    /// Pass over options that are not known.
    #[arg(short)]
    sloppy: bool,
    /// Check everything, but mount nothing.
    #[arg(short)]
    fake: bool,
    /// Write no mtab; there is none.
    #[arg(short)]
    no_mtab: bool,
    /// Say more.
    #[arg(short, action = clap::ArgAction::Count)]
    verbose: u8,
    /// The type, as mount(8) passes it for TYPE.SUBTYPE.
    #[arg(short = 't', value_name = "TYPE")]
    _fs_type: Option<String>,
    /// The mount namespace; mount(8) has entered it already.
    #[arg(short = 'N', value_name = "NAMESPACE")]
    _namespace: Option<String>,
}

/// Runs as a mount helper.
pub(super) fn run(environment: &Environment) -> Result<(), End> {
    let helper = Helper::try_parse_from(&environment.args).map_err(End::Clap)?;
    let verbosity = if helper.verbose > 0 { Verbosity::Verbose } else { Verbosity::Normal };
    let context = Context { log_filter: environment.log_filter.clone(), verbosity };
    let mode = Mode { sloppy: helper.sloppy, fake: helper.fake, foreground: false, create: false };
    mount::mount(&context, &helper.source, &helper.dir, &helper.options, &mode)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_mount_8_are_taken() {
        use clap::CommandFactory;
        Helper::command().debug_assert();
        let all = [
            "mount.amberfs",
            "/p:v",
            "/mnt",
            "-s",
            "-f",
            "-n",
            "-v",
            "-o",
            "rw,x-a",
            "-t",
            "amberfs",
        ];
        let helper = Helper::try_parse_from(all).unwrap();
        assert!(helper.sloppy && helper.fake && helper.no_mtab && helper.verbose == 1);
        assert_eq!(helper.options, ["rw,x-a"]);
        let helper = Helper::try_parse_from(["mount.amberfs", "/p", "/mnt", "-sfnv"]).unwrap();
        assert!(helper.sloppy && helper.fake);
    }
}
