//! The programs in examples/ run and say what they should.

use std::path::Path;

#[allow(dead_code)]
#[path = "../../examples/first_pool.rs"]
mod first_pool;
#[allow(dead_code)]
#[path = "../../examples/superblock.rs"]
mod superblock;

#[test]
fn a_first_pool_shows_what_was_and_what_is() {
    let mut out = Vec::new();
    first_pool::run(&mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    let lines: Vec<_> = out.lines().skip(1).collect();
    assert_eq!(lines, ["monday: good morning", "now: good evening"]);
}

#[test]
fn the_superblock_of_a_pool_is_printed() {
    use amberfs::device::PoolDir;
    use amberfs::format::Timestamp;
    use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

    struct Noon;
    impl Clock for Noon {
        fn now(&self) -> Timestamp {
            Timestamp { sec: 43200, nsec: 0 }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    let create = CreateOptions {
        size_bytes: Some(64 << 20),
        journal_bytes: 1 << 16,
        uuid: [0xab; 16],
        seed: [2; 32],
    };
    let storage = PoolDir::create(&path).unwrap().storage();
    let open = OpenOptions::new(std::sync::Arc::new(Noon));
    Pool::create(storage, &create, open).unwrap().close().unwrap();
    let print = |path: &Path| {
        let mut out = Vec::new();
        superblock::run(path, &mut out).map(|()| String::from_utf8(out).unwrap())
    };
    let out = print(&path).unwrap();
    let line = |line: &str| out.lines().filter(|found| found.trim() == line).count();
    assert_eq!(line(&format!("pool          {}", "ab".repeat(16))), 2, "{out}");
    assert_eq!(line("journal       65536 bytes"), 2, "{out}");
    assert_eq!(line("created       43200 s since 1970"), 2, "{out}");
    std::fs::write(path.join("superblock"), vec![0; 128 << 10]).unwrap();
    assert_eq!(
        print(&path).unwrap(),
        "slot 0: it is not an AmberFS superblock\nslot 1: it is not an AmberFS superblock\n"
    );
    assert!(print(dir.path()).unwrap_err().to_string().contains("superblock"));
}
