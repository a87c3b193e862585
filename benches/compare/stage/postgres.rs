//! PostgreSQL: a cluster for pgbench, and a server that ends with its guard. It refuses to run as root, so
//! that it runs as the user whom the distribution made for it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::programs::{measured, run};

/// The port; the server listens on a socket in the run's own directory only.
const PORT: &str = "5499";

/// Returns the directory of the server's programs, of the newest version.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.flatten().map(|entry| entry.path()).max_by_key(number)?;
    Some(newest.join("bin")).filter(|bin| bin.join("initdb").is_file())
}

/// Returns the numbers of the server's user and its group.
fn user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Makes the command `program` of PostgreSQL, run by its user.
fn postgres(program: &str) -> Result<Command> {
    let absent = || Failure::Absent("PostgreSQL is not installed".into());
    let (bin, (uid, gid)) = programs().zip(user()).ok_or_else(absent)?;
    let mut command = Command::new(bin.join(program));
    command.uid(uid).gid(gid).current_dir("/").env("LC_ALL", "C");
    Ok(command)
}

/// Makes a cluster below `base`, with the tables of pgbench at the given scale.
pub(crate) fn make_cluster(base: &Path, scale: u64) -> Result<PathBuf> {
    postgres("initdb")?;
    let home = base.join("postgres");
    fs::create_dir(&home).map_err(Failure::io("make the directory", &home))?;
    std::os::unix::fs::chown(&home, user().map(|user| user.0), None)
        .map_err(Failure::io("give away", &home))?;
    let data = home.join("cluster");
    let options = ["--no-sync", "--locale=C", "-E", "UTF8", "-A", "trust", "-U", "postgres", "-D"];
    run(postgres("initdb")?.args(options).arg(&data))?;
    let file = data.join("postgresql.conf");
    let mut settings = fs::read_to_string(&file).map_err(Failure::io("read", &file))?;
    settings += "listen_addresses = ''\nshared_buffers = 64MB\nautovacuum = off\n";
    fs::write(&file, settings).map_err(Failure::io("write", &file))?;
    let server = Server::start(base, &data)?;
    server.measured(&["-i", "-q", "-s", &scale.to_string()])?;
    server.stop()?;
    Ok(data)
}

/// A running server, stopped in `drop`.
pub(crate) struct Server {
    data: PathBuf,
    socket: PathBuf,
}

impl Server {
    /// Starts a server on the cluster `data`; its socket and log are below `base`.
    pub(crate) fn start(base: &Path, data: &Path) -> Result<Server> {
        let home = base.join("postgres");
        let server = Server { data: data.to_owned(), socket: home.clone() };
        let options = format!("-p {PORT} -k {}", home.display());
        let mut start = server.control()?;
        start.args(["-s", "-w", "-t", "60", "-o", &options, "-l"]).arg(home.join("log"));
        run(start.arg("start"))?;
        Ok(server)
    }

    /// Runs pgbench against it.
    pub(crate) fn measured(&self, args: &[&str]) -> Result<String> {
        let mut command = postgres("pgbench")?;
        command.args(["-p", PORT, "-U", "postgres", "-h"]).arg(&self.socket);
        measured(command.args(args).arg("postgres"), &[0])
    }

    /// Stops it in an orderly way.
    pub(crate) fn stop(self) -> Result<()> {
        run(self.control()?.args(["-s", "-w", "-m", "fast", "stop"])).map(drop)
    }

    fn control(&self) -> Result<Command> {
        let mut command = postgres("pg_ctl")?;
        command.arg("-D").arg(&self.data);
        Ok(command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            let stop =
                |mut control: Command| run(control.args(["-s", "-w", "-m", "immediate", "stop"]));
            let _ = self.control().and_then(stop);
        }
    }
}
