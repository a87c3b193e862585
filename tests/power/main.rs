//! The program that scripts/power-cuts.sh runs in a virtual machine, on an ordinary directory without a power
//! cut: what it did is there, and what is changed behind its back is found.

#[path = "../../examples/power_cut/amberfs.rs"]
mod amberfs;
#[allow(dead_code)]
#[path = "../../examples/power_cut/cells.rs"]
mod cells;
#[path = "../../examples/power_cut/host.rs"]
mod host;
#[path = "../../examples/power_cut/model.rs"]
mod model;
#[path = "../../examples/power_cut/record.rs"]
mod record;
#[path = "../../examples/power_cut/verify.rs"]
mod verify;
#[path = "../../examples/power_cut/work.rs"]
mod work;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use host::Place;
use model::{Op, State, VolumeOp};
use record::Record;
use work::{Plan, operations, verify_all, work};

/// A directory in which rounds were worked, and their records.
struct Worked {
    dir: tempfile::TempDir,
    records: PathBuf,
}

impl Worked {
    fn new(rounds: u32) -> Worked {
        let dir = tempfile::tempdir().unwrap();
        let records = dir.path().join("records");
        fs::File::create(&records).unwrap().set_len(65536).unwrap();
        let worked = Worked { dir, records };
        fs::create_dir(worked.mount()).unwrap();
        for _ in 0..rounds {
            worked.verify().unwrap();
            worked.work(300);
        }
        worked
    }

    fn mount(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn work(&self, operations: u32) {
        let (mount, records) = (&*self.mount(), &*self.records);
        let place = Place { mount, amberfs: None };
        let plan = Plan { place, records, run: 7, lie: false, snapshots: false, operations };
        work(&plan, || ()).unwrap();
    }

    fn verify(&self) -> Result<String, String> {
        verify_all(Place { mount: &self.mount(), amberfs: None }, &self.records)
    }

    /// A file of the last round with content.
    fn file(&self) -> PathBuf {
        fn find(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    find(&path, found);
                } else if path.is_file() && fs::read(&path).unwrap()[..].iter().any(|b| *b != 0) {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        find(&self.mount(), &mut found);
        found.sort();
        found.pop().unwrap()
    }

    #[track_caller]
    fn fails(&self, part: &str) {
        let error = self.verify().unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_was_done_is_there_round_after_round() {
    let worked = Worked::new(6);
    let said = worked.verify().unwrap();
    assert!(said.starts_with("4 rounds, 9"), "{said}");
    assert_eq!(worked.verify().unwrap(), "4 rounds, 0 new operations");
}

#[test]
fn a_changed_byte_is_found() {
    let worked = Worked::new(1);
    let file = fs::File::options().read(true).write(true).open(worked.file()).unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let at = bytes.iter().position(|byte| *byte != 0).unwrap();
    file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
    worked.fails("garbage");
}

#[test]
fn a_missing_name_is_found() {
    let worked = Worked::new(1);
    fs::remove_file(worked.file()).unwrap();
    worked.fails("what is there was never so");
}

#[test]
fn a_name_too_many_is_found() {
    let worked = Worked::new(1);
    fs::write(worked.file().with_file_name("more"), "").unwrap();
    worked.fails("'more' is there");
}

#[test]
fn another_mode_is_found() {
    let worked = Worked::new(1);
    fs::set_permissions(worked.file(), fs::Permissions::from_mode(0o400)).unwrap();
    worked.fails("has links, mode and attribute");
}

#[test]
fn another_files_data_is_found() {
    let worked = Worked::new(1);
    let token = cells::Token { round: 1, thread: 0, seq: 9999, at: 0 };
    let file = fs::File::options().write(true).open(worked.file()).unwrap();
    file.write_all_at(&token.bytes(), 0).unwrap();
    worked.fails("seq: 9999");
}

#[test]
fn a_fsync_that_was_not_done_is_found() {
    let worked = Worked::new(1);
    // As a power cut would leave it: the state from before, and the records of what came after.
    let before = worked.dir.path().join("before");
    let copy = std::process::Command::new("cp").arg("-a").arg(worked.mount()).arg(&before).status();
    assert!(copy.unwrap().success());
    worked.work(40);
    fs::remove_dir_all(worked.mount()).unwrap();
    fs::rename(before, worked.mount()).unwrap();
    worked.fails("missing");
}

#[test]
fn every_kind_of_operation_is_chosen() {
    const KINDS: &str = "Create Mkdir Symlink Link Unlink UnlinkOpen WriteOrphan CloseOrphan Rmdir Rename Exchange \
                         Chmod SetXattr Write Truncate Allocate Punch Zero Copy Fsync FsyncDir Syncfs Snapshot \
                         DeleteSnapshot Clone InClone Restore ForgetBefore DeleteClone";
    let record = Record { round: 1, thread: 0, run: 7, snapshots: true, done: 3000, settled: None };
    let chosen: BTreeSet<String> = operations(&record)
        .iter()
        .map(|(_, op)| match op {
            Op::OnVolume(op) => format!("{op:?}"),
            op => format!("{op:?}"),
        })
        .map(|op| op.split('(').next().unwrap_or_default().to_owned())
        .collect();
    let kinds: BTreeSet<String> = KINDS.split_whitespace().map(str::to_owned).collect();
    assert_eq!(chosen, kinds);
}

#[test]
fn what_a_restore_has_kept_is_all_there() {
    let name = |n: u32| format!("r1t0-{n}");
    let within = |op| Op::InClone(Box::new(op));
    let (file, mut state) = ("n".to_owned(), State::new(1, 0));
    let ops = [
        Op::Create(file.clone()),
        Op::OnVolume(VolumeOp::Snapshot(name(2))),
        Op::OnVolume(VolumeOp::Clone(name(2), name(3))),
        within(Op::OnVolume(VolumeOp::Snapshot(name(4)))),
        within(Op::Write(file.clone(), 0, 4, false)),
    ];
    ops.iter().zip(1..).for_each(|(op, seq)| state.apply(op, seq));
    let restore = Op::OnVolume(VolumeOp::Restore(name(4)));
    state.apply(&restore, 6);
    let least = |state: &State| state.clone.as_ref().unwrap().before[0].files[&1].least;
    assert_eq!(least(&state), 0, "it may be lost with a restore that has not returned");
    state.settle(&restore);
    assert_eq!(least(&state), 4);
}

/// Writes to a file that is open and has no name, and closes it; the last write is done, or is only noted.
fn closed_without_a_name(is_done: bool) -> std::io::Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let (mut state, mut kept) = (State::new(1, 0), host::KeptOpen::default());
    fs::create_dir_all(host::directory(dir.path(), &state)).unwrap();
    let name = || "n".to_owned();
    let before = [Op::Create(name()), Op::Write(name(), 0, 4, false), Op::UnlinkOpen(name())];
    let all = before.into_iter().chain([Op::WriteOrphan(1, 2, 3), Op::CloseOrphan(1)]);
    for (op, seq) in all.zip(1..) {
        if is_done || !matches!(op, Op::WriteOrphan(..)) {
            let place = Place { mount: dir.path(), amberfs: None };
            host::perform(place, &state, &mut kept, (seq, &op), false)?;
        }
        state.apply(&op, seq);
    }
    Ok(())
}

#[test]
fn what_an_unlinked_file_does_not_hold_is_found() {
    closed_without_a_name(true).unwrap();
    let error = closed_without_a_name(false).unwrap_err().to_string();
    assert!(error.contains("it holds"), "{error}");
}
