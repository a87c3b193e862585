//! Works on a volume until the power is cut, and verifies afterwards that all that was promised is there.
//! scripts/power-cuts.sh runs it in a virtual machine.
//!
//!     power_cut work MOUNT RECORDS AMBERFS POOL SEED [lie]
//!     power_cut verify MOUNT RECORDS AMBERFS POOL
//!     power_cut list SEED ROUND THREAD COUNT
//!
//! RECORDS is a device that the power cut does not concern: on it each thread notes that an operation has
//! returned. `work` verifies what earlier rounds left, and then begins another. A liar notes fsyncs that it
//! has left out, so that one can see the verification fail. `list` shows what a thread did.
//! AMBERFS is the program, which makes clones of the volume `main` of POOL, and restores them.

mod amberfs;
mod cells;
mod host;
mod model;
mod record;
mod verify;
mod work;

use std::path::Path;
use std::process::ExitCode;

use amberfs::Amberfs;
use host::Place;
use record::Record;
use work::{Plan, operations, verify_all, work};

const USAGE: &str = "usage: power_cut work MOUNT RECORDS AMBERFS POOL SEED [lie] \
                     | verify MOUNT RECORDS AMBERFS POOL | list SEED ROUND THREAD COUNT";

fn run(args: &[String]) -> Result<(), String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["work", mount, records, program, pool, seed, ref rest @ ..] => {
            let run = seed.parse().map_err(|error| format!("{seed}: {error}"))?;
            let amberfs = Amberfs { program: program.into(), pool: pool.into() };
            let place = Place { mount: Path::new(mount), amberfs: Some(&amberfs) };
            let records = Path::new(records);
            println!("power_cut: verified {}", verify_all(place, records)?);
            let lie = rest == ["lie"];
            // Snapshots would make durable what a liar leaves.
            let (snapshots, operations) = (!lie, u32::MAX - 1);
            let plan = Plan { place, records, run, lie, snapshots, operations };
            work(&plan, || println!("power_cut: working"))
        }
        ["list", seed, round, thread, count] => {
            let number =
                |text: &str| text.parse::<u32>().map_err(|error| format!("{text}: {error}"));
            let record = Record {
                round: number(round)?,
                thread: number(thread)?,
                run: number(seed)?.into(),
                snapshots: true,
                done: number(count)?,
                settled: None,
            };
            for (seq, op) in operations(&record) {
                println!("{seq} {op:?}");
            }
            Ok(())
        }
        ["verify", mount, records, program, pool] => {
            let amberfs = Amberfs { program: program.into(), pool: pool.into() };
            let place = Place { mount: Path::new(mount), amberfs: Some(&amberfs) };
            println!("power_cut: verified {}", verify_all(place, Path::new(records))?);
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("power_cut: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
