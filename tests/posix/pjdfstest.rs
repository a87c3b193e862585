//! pjdfstest on AmberFS and on ext4 in one run: what passes on ext4 passes here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::support::{Place, can_mount};

/// How a test of the suite ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

type Verdicts = BTreeMap<String, Verdict>;

/// Mounts both filesystems in a mount namespace of their own, in which `mount -o remount` finds the
/// helper of AmberFS, and runs the suite as root on each.
const SCRIPT: &str = r#"
unshare --mount bash -euc '
    mkdir amberfs ext4-fs sbin second
    ln -s "$AMBERFS" sbin/mount.fuse.amberfs
    truncate -s 512M image
    mkfs.ext4 -q image
    mount -o loop image ext4-fs
    amberfs mount --create pool amberfs
    mount -t tmpfs second second
    mount --bind sbin "$(realpath /sbin)"
    run() { "$PJDFSTEST" -c "$CONFIGURATION" -p "$PWD/$1" -s "$PWD/second" > "$1.out" 2>&1 || true; }
    run amberfs
    run ext4-fs
    amberfs umount amberfs
    umount ext4-fs
'
amberfs -q check pool --data
"#;

fn verdicts(output: &str) -> Verdicts {
    let verdict = |word: &str| match word {
        "ok" => Some(Verdict::Passed),
        "FAILED" => Some(Verdict::Failed),
        "skipped" => Some(Verdict::Skipped),
        _ => None,
    };
    let line = |line: &str| {
        let (name, word) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), verdict(word.trim())?)).filter(|(name, _)| name.contains("::"))
    };
    output.lines().filter_map(line).collect()
}

fn counts(verdicts: &Verdicts) -> String {
    let count = |wanted| verdicts.values().filter(|verdict| **verdict == wanted).count();
    format!(
        "{} passed, {} failed, {} skipped",
        count(Verdict::Passed),
        count(Verdict::Failed),
        count(Verdict::Skipped)
    )
}

/// What is wrong with the verdicts, given the excluded tests.
fn violations(ours: &Verdicts, theirs: &Verdicts, excluded: &[&str]) -> String {
    let mut wrong = String::new();
    for (name, verdict) in theirs {
        let passes_here = ours.get(name) == Some(&Verdict::Passed);
        let listed = excluded.contains(&name.as_str());
        if *verdict == Verdict::Passed && !passes_here && !listed {
            writeln!(wrong, "{name} passes on ext4, here: {:?}", ours.get(name)).unwrap();
        }
        if passes_here && listed {
            writeln!(wrong, "{name} is excluded and passes").unwrap();
        }
    }
    for name in excluded.iter().filter(|name| !theirs.contains_key(**name)) {
        writeln!(wrong, "{name} is excluded and does not exist").unwrap();
    }
    wrong
}

#[test]
fn what_passes_on_ext4_passes_here() {
    /// The suite has 398 tests; with far fewer it did not run.
    const MIN_PASSED: usize = 350;
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.open_to_all();
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/posix");
    let script = format!(
        "export PJDFSTEST=pjdfstest CONFIGURATION={tests}/pjdfstest.toml AMBERFS={};{SCRIPT}",
        crate::support::AMBERFS
    );
    place.shell(&script).ok();
    let read = |name: &str| std::fs::read_to_string(place.at(name)).unwrap();
    let (ours, theirs) = (verdicts(&read("amberfs.out")), verdicts(&read("ext4-fs.out")));
    let list = include_str!("exclusions.txt");
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    let excluded: Vec<_> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    println!("pjdfstest on AmberFS: {}, {} excluded", counts(&ours), excluded.len());
    println!("pjdfstest on ext4:    {}", counts(&theirs));
    let passed = theirs.values().filter(|verdict| **verdict == Verdict::Passed).count();
    assert!(passed >= MIN_PASSED, "the suite did not run on ext4:\n{}", read("ext4-fs.out"));
    let wrong = violations(&ours, &theirs, &excluded);
    assert!(wrong.is_empty(), "{wrong}\n{}", read("amberfs.out"));
}

#[test]
fn violations_are_found() {
    let list = |passes: &str, fails: &str| {
        let all = passes.split_whitespace().map(|name| (name.to_owned(), Verdict::Passed));
        let failed = fails.split_whitespace().map(|name| (name.to_owned(), Verdict::Failed));
        all.chain(failed).collect::<Verdicts>()
    };
    let theirs = list("a::b c::d e::f", "g::h");
    assert_eq!(violations(&list("a::b c::d e::f", "g::h"), &theirs, &[]), "");
    assert_eq!(violations(&list("a::b c::d", "e::f"), &theirs, &["e::f"]), "");
    assert!(violations(&list("a::b c::d", "e::f"), &theirs, &[]).contains("e::f passes on ext4"));
    assert!(violations(&list("a::b c::d", ""), &theirs, &[]).contains("e::f passes on ext4"));
    assert!(violations(&theirs, &theirs, &["a::b"]).contains("excluded and passes"));
    assert!(violations(&theirs, &theirs, &["x::y"]).contains("does not exist"));
    let output = "a::b     ok\nc::d    FAILED\n\tpanicked\ne::f  skipped\nSummary: 1 failed\n";
    assert_eq!(counts(&verdicts(output)), "1 passed, 1 failed, 1 skipped");
}
