//! Listings: whole, under change, through the cache.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirEntryExt;

use crate::support::TestMount;

fn names(dir: &std::path::Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_large_directory_lists_every_name_once() {
    let mut m = TestMount::new();
    let expected: BTreeSet<String> = (0..5000).map(|n| format!("file-{n:05}")).collect();
    for name in &expected {
        fs::write(m.path(name), b"").unwrap();
    }
    for _ in 0..2 {
        let listed: Vec<_> = fs::read_dir(m.root()).unwrap().map(|e| e.unwrap()).collect();
        assert_eq!(listed.len(), 5000);
        for entry in listed.iter().step_by(97) {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(entry.metadata().unwrap().ino(), entry.ino());
        }
        drop(listed);
        assert_eq!(names(m.root()), expected);
        m.remount();
    }
}

#[test]
fn listings_follow_every_change() {
    let m = TestMount::new();
    let mut expected = BTreeSet::new();
    for round in 0..50 {
        let name = format!("n{round}");
        match round % 5 {
            0 => fs::write(m.path(&name), b"").unwrap(),
            1 => fs::create_dir(m.path(&name)).unwrap(),
            2 => std::os::unix::fs::symlink("t", m.path(&name)).unwrap(),
            3 => fs::hard_link(m.path(&format!("n{}", round - 3)), m.path(&name)).unwrap(),
            _ => {
                let old = format!("n{}", round - 1);
                fs::rename(m.path(&old), m.path(&name)).unwrap();
                expected.remove(&old);
            }
        }
        expected.insert(name);
        assert_eq!(names(m.root()), expected);
        if round % 7 == 6 {
            let gone = format!("n{}", round / 5 * 5 - 5);
            if expected.remove(&gone) {
                fs::remove_file(m.path(&gone)).unwrap();
            }
            assert_eq!(names(m.root()), expected);
        }
    }
}

#[test]
fn names_that_stay_are_listed_while_others_come_and_go() {
    let m = TestMount::new();
    for n in 0..2000 {
        fs::write(m.path(&format!("stay-{n}")), b"").unwrap();
    }
    let mut seen = BTreeSet::new();
    for (n, entry) in fs::read_dir(m.root()).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(seen.insert(name), "listed twice");
        if n % 3 == 0 {
            fs::write(m.path(&format!("come-{n}")), b"").unwrap();
        } else if n % 3 == 1 {
            fs::remove_file(m.path(&format!("come-{}", n - 1))).unwrap();
        }
    }
    assert_eq!(seen.iter().filter(|name| name.starts_with("stay-")).count(), 2000);
}
