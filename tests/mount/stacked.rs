//! Filesystems on top of the mount: overlayfs with its upper layer here, as container engines have it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use crate::support::TestMount;
use crate::twin::{Log, alike, alike_on, user};

/// An overlay over a lower layer elsewhere, changed in every way, and then looked at without it.
fn overlay(root: &Path, log: &mut Log) {
    let lower = tempfile::tempdir().unwrap();
    for (name, content) in [("kept", "1"), ("changed", "2"), ("removed", "3"), ("renamed", "4")] {
        fs::write(lower.path().join(name), content).unwrap();
    }
    fs::create_dir_all(lower.path().join("dir/sub")).unwrap();
    fs::write(lower.path().join("dir/sub/f"), "5").unwrap();
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| root.join(name));
    for dir in [&upper, &work, &merged] {
        fs::create_dir(dir).unwrap();
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.path().display(),
        upper.display(),
        work.display()
    );
    let mount = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(&merged)
        .status()
        .unwrap();
    log.note("mounted", mount.success());
    let change = || -> std::io::Result<()> {
        fs::write(merged.join("changed"), "new")?;
        fs::remove_file(merged.join("removed"))?;
        fs::rename(merged.join("renamed"), merged.join("dir/moved"))?;
        fs::remove_dir_all(merged.join("dir/sub"))?;
        fs::create_dir(merged.join("dir/sub"))?;
        fs::hard_link(merged.join("kept"), merged.join("second"))?;
        fs::write(merged.join("added"), "6")
    };
    log.note("changed", change().map_err(|error| error.raw_os_error()));
    let mut names: Vec<_> =
        fs::read_dir(&merged).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    log.note("names", names);
    log.note("content", fs::read_to_string(merged.join("dir/moved")).ok());
    assert!(Command::new("umount").arg(&merged).status().unwrap().success());
    for name in ["kept", "changed", "removed", "renamed", "dir/moved", "dir/sub", "second", "added"]
    {
        let stat = fs::symlink_metadata(upper.join(name));
        let shown = stat.map(|s| (s.mode(), s.nlink(), s.file_type().is_char_device(), s.rdev()));
        log.note(name, shown.map_err(|error| error.raw_os_error()));
    }
}

#[test]
fn an_overlays_upper_layer_may_lie_here() {
    let mut m = TestMount::new();
    alike_on(&m, overlay);
    m.remount();
    assert_eq!(fs::read_to_string(m.path("upper/changed")).unwrap(), "new");
}

/// Changes an overlay in every way, and lists it and its upper layer.
const AS_A_USER: &str = r#"
mkdir lower upper work merged lower/dir lower/gone
for name in kept changed removed renamed dir/f gone/f; do echo "$name" > "lower/$name"; done
mount -t overlay overlay -o userxattr,uuid=off,lowerdir=lower,upperdir=upper,workdir=work merged
cd merged
echo new > changed; echo added > added; rm removed; mv renamed dir/moved; ln kept second
chmod 600 kept; setfattr -n user.mine -v 1 kept; chown 0:0 kept
rm -r gone; mkdir gone; echo again > gone/g
mv dir/f dir/h; rmdir lost 2>&1 || true
list() { find . -printf '%P %y %m %n %U %G %l\n' | sort; find . -type f | sort | xargs tail -n +1; }
list
cd ..
umount merged
cd upper
echo upper; list
getfattr -R -h -d -m . . | sort
"#;

#[test]
fn an_overlay_of_a_user_keeps_its_marks_in_user_attributes() {
    alike(|root, log| {
        let home = root.join("home");
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(1000), Some(1000)).unwrap();
        // As the engines that run containers without privileges do it.
        let done = user(1000).run(root, || {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "bash", "-euc", AS_A_USER]);
            command.current_dir("home").env("LC_ALL", "C").output().unwrap()
        });
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
        let out = text(&done.stdout);
        assert!(out.contains("user.overlay.opaque") && out.contains("user.mine"), "{out}");
        out.lines().for_each(|line| log.note("said", line));
    });
}
