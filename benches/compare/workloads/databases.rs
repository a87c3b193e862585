//! Databases: transactions of SQLite, by its shell, and of PostgreSQL, by pgbench.

use std::fs;

use super::{Rounds, Workload};
use crate::failure::{Failure, Result};
use crate::ground::Ground;
use crate::programs::{command, installed, measured, run};
use crate::stage::postgres::Server;

/// Single inserts, each a transaction that is durable when it returns.
pub(super) const SQLITE: Workload = Workload {
    name: "sqlite",
    rounds: Rounds::ThreeForOne,
    needs_snapshots: false,
    steps: &[
        |ground| insert(ground, "sqlite-wal", "WAL"),
        |ground| insert(ground, "sqlite-delete", "DELETE"),
    ],
};

fn insert(ground: &mut Ground<'_>, name: &'static str, mode: &str) -> Result<()> {
    if !installed("sqlite3") {
        return Err(Failure::Absent("sqlite3 is not installed".into()));
    }
    let database = ground.path(name);
    let mut create = command("sqlite3", &["-batch"]);
    let table = format!(
        "PRAGMA journal_mode={mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, content TEXT);"
    );
    run(create.arg(&database).arg(table))?;
    let count = ground.scale.transactions;
    let mut script = "PRAGMA synchronous=FULL;\n".to_owned();
    for number in 0..count {
        script += &format!("INSERT INTO t (content) VALUES ('{number}{}');\n", "x".repeat(100));
    }
    let file = ground.stage.base().join("inserts.sql");
    fs::write(&file, script).map_err(Failure::io("write", &file))?;
    let mut shell = command("sqlite3", &["-batch", "-bail", "-init"]);
    shell.arg(&file).arg(&database).arg("SELECT count(*) FROM t;");
    let mut said = String::new();
    ground.rate(name, count, |_| {
        said = measured(&mut shell, &[0])?;
        Ok(())
    })?;
    assert!(said.trim().ends_with(&count.to_string()), "SQLite has inserted {said}");
    Ok(())
}

/// The default mix of pgbench with two clients, on a cluster that was made once and is copied here.
pub(super) const POSTGRES: Workload = Workload {
    name: "pgbench",
    rounds: Rounds::AtMostTwo,
    needs_snapshots: false,
    steps: &[|ground| {
        let template = ground.stage.cluster(ground.scale)?;
        let data = ground.path("cluster");
        run(command("cp", &["-a"]).arg(template).arg(&data))?;
        ground.settle();
        let server = Server::start(ground.stage.base(), &data)?;
        let seconds = ground.scale.pgbench_seconds.to_string();
        let said = server.measured(&["-n", "-c", "2", "-j", "2", "-T", &seconds])?;
        let figure = said
            .lines()
            .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse::<f64>().ok());
        let figure = figure.ok_or_else(|| Failure::Absent("pgbench says no figure".into()))?;
        ground.figures.push(("pgbench", figure));
        server.stop()
    }],
};
