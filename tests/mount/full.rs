//! A full volume: the call that there is no space for says so, and what was acknowledged is there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;

use crate::direct::Aligned;
use crate::random::Random;
use crate::support::TestMount;

fn errno(error: &io::Error) -> Option<i32> {
    error.raw_os_error()
}

/// Writes in steps of `step` bytes until a call fails; returns what was acknowledged, and the error.
fn fill(file: &mut File, step: usize) -> (u64, io::Error) {
    let bytes = vec![7; step];
    let mut done = 0;
    loop {
        match file.write(&bytes) {
            Ok(len) => done += len as u64,
            Err(error) => return (done, error),
        }
    }
}

#[test]
fn a_write_that_does_not_fit_fails_itself_and_all_before_it_are_there() {
    // With little room from the beginning, and with room that the kernel could fill many times before anything comes.
    for (size, step) in [(48, 100_000), (48, 4096), (48, 1 << 20), (400, 1 << 20), (200, 4096)] {
        let size = size << 20;
        let m = TestMount::of_size(size);
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).open(m.path("f")).unwrap();
        let (done, error) = fill(&mut file, step);
        assert_eq!(errno(&error), Some(libc::ENOSPC));
        assert!(done > size / 2 - (4 << 20) && done < size, "{done} bytes of {size}");
        file.sync_all().expect("what was acknowledged can be made durable");
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut bytes = Vec::new();
        // Behind the end, too, through a handle that writes: reading is not refused.
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, done);
        assert!(bytes.iter().all(|byte| *byte == 7));
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), done);
        assert_eq!(fs::metadata(m.path("f")).unwrap().len(), done);
        drop(file);
        fs::remove_file(m.path("f")).unwrap();
        let mut again = File::create(m.path("g")).unwrap();
        again.write_all(&vec![8; 10 << 20]).unwrap();
        again.sync_all().unwrap();
        drop(again);
        m.check();
    }
}

/// Overwriting needs room, too, and the kernel holds pages from all over the file.
#[test]
fn what_was_overwritten_at_random_until_it_did_not_fit_is_there() {
    const BLOCK: usize = 4096;
    let size: u64 = 300 << 20;
    let m = TestMount::of_size(size);
    let file = File::create_new(m.path("f")).unwrap();
    let blocks = size as usize / 2 / BLOCK;
    file.write_all_at(&vec![0; blocks * BLOCK], 0).unwrap();
    file.sync_all().unwrap();
    // Each snapshot keeps what is overwritten.
    let mut expected = vec![0u64; blocks];
    let mut random = Random::new(7);
    let mut failed = false;
    for round in 1.. {
        match fs::create_dir(m.path(&format!(".snapshots/s{round}"))) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(errno(&error), Some(libc::ENOSPC));
                failed = true;
            }
        }
        for _ in 0..if failed { 0 } else { blocks / 8 } {
            let block = random.below(blocks);
            let stamp = expected[block] + 1;
            match file.write_at(&[stamp as u8; BLOCK], (block * BLOCK) as u64) {
                Ok(_) => expected[block] = stamp,
                Err(error) => {
                    assert_eq!(errno(&error), Some(libc::ENOSPC));
                    failed = true;
                    break;
                }
            }
        }
        if failed {
            assert!(round > 2, "full after {round} snapshots");
            break;
        }
    }
    file.sync_all().expect("what was acknowledged can be made durable");
    let bytes = fs::read(m.path("f")).unwrap();
    for (block, stamp) in bytes.chunks(BLOCK).zip(expected) {
        assert!(block.iter().all(|byte| *byte == stamp as u8));
    }
    drop(file);
    m.check();
}

#[test]
fn two_writers_share_what_is_left() {
    let m = TestMount::of_size(48 << 20);
    let mut files = ["a", "b"].map(|name| File::create(m.path(name)).unwrap());
    let (mut done, mut failed) = ([0u64; 2], [false; 2]);
    while failed != [true; 2] {
        for n in 0..2 {
            match files[n].write(&vec![n as u8 + 1; 300_000]) {
                Ok(len) if !failed[n] => done[n] += len as u64,
                Ok(len) => panic!("{len} bytes more after an error"),
                Err(error) => {
                    assert_eq!(errno(&error), Some(libc::ENOSPC));
                    failed[n] = true;
                }
            }
        }
    }
    for (n, name) in ["a", "b"].into_iter().enumerate() {
        files[n].sync_all().unwrap();
        let bytes = fs::read(m.path(name)).unwrap();
        assert!(bytes.len() as u64 == done[n] && bytes.iter().all(|byte| *byte == n as u8 + 1));
    }
}

#[test]
fn a_shells_redirect_says_so() {
    let m = TestMount::of_size(48 << 20);
    fs::write(m.path("there"), "x").unwrap();
    let (_, error) = fill(&mut File::create(m.path("f")).unwrap(), 1 << 20);
    assert_eq!(errno(&error), Some(libc::ENOSPC));
    let script = "head -c 3000000 /dev/zero >> there";
    let said = Command::new("bash").arg("-c").arg(script).current_dir(m.root()).output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && text.contains("No space left on device"), "{text}");
    assert_eq!(fs::read_to_string(m.path("there")).unwrap().trim_end_matches('\0'), "x");
}

#[test]
fn a_quota_is_told_as_such() {
    let m = TestMount::of_size(1 << 30);
    m.set_quota(8 << 20);
    let mut file = File::create(m.path("f")).unwrap();
    let (done, error) = fill(&mut file, 65536);
    assert_eq!(errno(&error), Some(libc::EDQUOT));
    assert!(done > 6 << 20 && done <= 8 << 20, "{done}");
    file.sync_all().unwrap();
    m.set_quota(64 << 20);
    file.write_all(&vec![1; 4 << 20]).unwrap();
    file.sync_all().unwrap();
}

/// Callers that hold a file's lock while they wait, and more writers than there are threads for them.
#[test]
fn many_writers_of_a_full_volume_do_not_stop_those_who_seek_and_allocate() {
    const WRITERS: usize = 24;
    let m = TestMount::of_size(48 << 20);
    let (tell, told) = std::sync::mpsc::channel();
    for number in 0..WRITERS {
        let (tell, path) = (tell.clone(), m.path(&format!("f{number}")));
        // Not scoped: what hangs is to be reported, not waited for.
        std::thread::spawn(move || {
            let file = File::create_new(path).unwrap();
            let bytes = vec![number as u8 + 1; 30_000];
            let mut full = 0;
            for at in (0..).step_by(bytes.len()) {
                full += u32::from(file.write_all_at(&bytes, at).is_err());
                rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).unwrap();
                let keep = rustix::fs::FallocateFlags::KEEP_SIZE;
                let _ = rustix::fs::fallocate(&file, keep, at, 4096);
                if full == 5 {
                    break;
                }
            }
            file.sync_all().expect("what was acknowledged can be made durable");
            tell.send(()).unwrap();
        });
    }
    for done in 0..WRITERS {
        let limit = std::time::Duration::from_secs(60);
        if told.recv_timeout(limit).is_err() {
            // Whoever hangs gets an error.
            let _ = Command::new("umount").arg("-f").arg(m.root()).status();
            panic!("only {done} of {WRITERS} writers came back");
        }
    }
    m.check();
}

#[test]
fn a_file_on_a_full_volume_can_be_cut_within_a_block() {
    let m = TestMount::of_size(48 << 20);
    let path = m.path("f");
    let mut file = File::create(&path).unwrap();
    let (done, _) = fill(&mut file, 1 << 20);
    file.sync_all().unwrap();
    let rest = File::create(m.path("rest")).unwrap();
    let keep = rustix::fs::FallocateFlags::KEEP_SIZE;
    let full = (0..10_000).find(|n| rustix::fs::fallocate(&rest, keep, n * 4096, 4096).is_err());
    assert!(full.is_some());
    for cut in 1..100 {
        file.set_len(done - cut * 10_000 - 1).unwrap();
    }
    drop((file, rest));
    m.check();
}

/// Takes room by one way, with a number that makes names differ.
type Taker = fn(&TestMount, usize) -> io::Result<()>;

fn takes_by_preallocating(m: &TestMount, number: usize) -> io::Result<()> {
    let file = File::create(m.path(&format!("preallocated{number}")))?;
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 8192)?)
}

fn takes_by_links(m: &TestMount, number: usize) -> io::Result<()> {
    std::os::unix::fs::symlink("x".repeat(4000), m.path(&format!("link{number}")))
}

fn takes_by_attributes(m: &TestMount, number: usize) -> io::Result<()> {
    let path = m.path(&format!("attributes{number}"));
    File::create(&path)?;
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::setxattr(path, "user.x", &[1; 16_000], flags)?)
}

fn takes_by_direct_writes(m: &TestMount, number: usize) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).custom_flags(libc::O_DIRECT);
    let file = options.open(m.path(&format!("direct{number}")))?;
    file.write_all_at(Aligned::new(16384).bytes(16384), 0)
}

fn takes_by_copying(m: &TestMount, number: usize) -> io::Result<()> {
    // Parts of blocks can't be shared.
    let from = File::open(m.path("small"))?;
    let to = File::create(m.path(&format!("copied{number}")))?;
    rustix::fs::copy_file_range(from, Some(&mut 1), to, Some(&mut 3), 9000)?;
    Ok(())
}

fn takes_by_punching(m: &TestMount, number: usize) -> io::Result<()> {
    // A snapshot has the blocks: a part of one can't be punched out of it.
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    let file = OpenOptions::new().write(true).open(m.path("most"))?;
    let at = number as u64 * 4096;
    if at == file.metadata()?.len() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(rustix::fs::fallocate(file, flags, at + 10, 100)?)
}

/// A write that was acknowledged has its room, whatever takes room before the kernel passes it on.
#[test]
fn what_was_acknowledged_keeps_its_room_whoever_else_takes_some() {
    let takers: [(&str, Taker); 6] = [
        ("preallocating", takes_by_preallocating),
        ("links", takes_by_links),
        ("attributes", takes_by_attributes),
        ("direct writes", takes_by_direct_writes),
        ("copying", takes_by_copying),
        ("punching", takes_by_punching),
    ];
    let mut lost = Vec::new();
    for (name, take) in takers {
        let m = TestMount::of_size(48 << 20);
        fs::write(m.path("small"), [2; 20_000]).unwrap();
        let most = File::create(m.path("most")).unwrap();
        most.write_all_at(&vec![1; 38 << 20], 0).unwrap();
        most.sync_all().unwrap();
        fs::create_dir(m.path(".snapshots/s")).unwrap();
        let promised = File::create(m.path("promised")).unwrap();
        promised.write_all_at(&[3; 1 << 20], 0).unwrap();
        let mut taken = 0;
        let error = loop {
            match take(&m, taken) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{name}");
        assert!(taken > 0, "{name} takes nothing");
        let synced = promised.sync_all();
        let bytes = fs::read(m.path("promised")).unwrap();
        if synced.is_err() || bytes != [3; 1 << 20] {
            lost.push((name, taken, synced));
        }
        drop((most, promised));
        m.check();
    }
    assert!(lost.is_empty(), "{lost:?}");
}

/// It is asked for like any other, and does not wait in the kernel's cache.
#[test]
fn a_direct_write_gets_the_room_that_it_was_promised() {
    let m = TestMount::of_size(48 << 20);
    fs::write(m.path("some"), vec![1; 4 << 20]).unwrap();
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).custom_flags(libc::O_DIRECT);
    let file = options.open(m.path("direct")).unwrap();
    let free = rustix::fs::statvfs(m.root()).unwrap().f_bfree * 4096;
    let bytes = free as usize / 10 * 8 / 4096 * 4096;
    let mut memory = Aligned::new(bytes);
    file.write_all_at(memory.bytes(bytes), 0).unwrap();
    // What it did not need is not kept from others.
    let mut rest = File::create(m.path("rest")).unwrap();
    let (done, _) = fill(&mut rest, 1 << 20);
    assert!(done >= free / 10, "{done} of {free} bytes");
    rest.sync_all().unwrap();
    drop((file, rest));
    m.check();
}

/// With more room than that each write is asked for.
#[test]
fn one_call_that_takes_nearly_everything_leaves_what_is_dirty() {
    let m = TestMount::of_size(400 << 20);
    let promised = File::create(m.path("promised")).unwrap();
    let taker = File::create(m.path("taker")).unwrap();
    promised.write_all_at(&[3; 12 << 20], 0).unwrap();
    let keep = rustix::fs::FallocateFlags::KEEP_SIZE;
    let free = rustix::fs::statvfs(m.root()).unwrap().f_bfree * 4096;
    let taken = (1..100)
        .find(|part| {
            let bytes = free / 100 * (100 - part);
            rustix::fs::fallocate(&taker, keep, 0, bytes).is_ok()
        })
        .unwrap();
    assert!(taken < 10, "no more than that is dirty");
    // Whoever goes on writing is told.
    let more = promised.write_all_at(&[4; 40 << 20], 12 << 20);
    assert_eq!(more.unwrap_err().kind(), io::ErrorKind::StorageFull);
    promised.sync_all().expect("what was acknowledged can be made durable");
    let bytes = fs::read(m.path("promised")).unwrap();
    assert!(bytes[..12 << 20].iter().all(|byte| *byte == 3));
    drop((promised, taker));
    m.check();
}
