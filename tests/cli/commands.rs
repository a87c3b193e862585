//! Commands on pools that are not mounted.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::Value;

use crate::support::Place;

fn json(text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(value["version"], 1);
    value
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect()
}

#[test]
fn a_pool_is_made_and_described() {
    let place = Place::new();
    let said = place.amberfs(&["pool", "create", "pool", "--size", "1G"]);
    assert!(said.err.contains("created the pool"), "{}", said.err);
    let status = json(&place.amberfs(&["pool", "status", "pool", "--json"]).ok());
    assert_eq!(status["pool"], place.at("pool").to_str().unwrap());
    assert_eq!(status["total_bytes"], 1_u64 << 30);
    assert_eq!(status["uuid"].as_str().unwrap().len(), 36);
    assert!(status["daemon"].is_null() && status["read_only"].is_null());
    let text = place.amberfs(&["pool", "status", "pool"]).ok();
    assert!(text.contains("free of 1.0 GiB"), "{text}");
    let text = place.amberfs(&["status", "pool", "--bytes"]).ok();
    assert!(text.contains("free of 1073741824"), "{text}");
    let all = json(&place.amberfs(&["status", "pool", "--json"]).ok());
    assert_eq!(all["pools"][0]["uuid"], status["uuid"]);
}

#[test]
fn volumes_are_made_changed_listed_and_deleted() {
    let place = Place::new();
    place.amberfs(&["-q", "pool", "create", "pool"]).ok();
    let create = [
        "volume",
        "create",
        "pool:mail",
        "--quota",
        "10G",
        "--label",
        "team=post",
        "--label",
        "x=y",
    ];
    place.amberfs(&create).ok();
    place.amberfs(&["volume", "create", "pool:web"]).ok();
    let list = json(&place.amberfs(&["volume", "list", "pool", "--json"]).ok());
    assert_eq!(names(&list["volumes"]), ["mail", "web"]);
    let mail = &list["volumes"][0];
    assert_eq!(
        (&mail["quota_bytes"], &mail["labels"]["team"]),
        (&Value::from(10_u64 << 30), &"post".into())
    );
    assert!(list["volumes"][1]["quota_bytes"].is_null());
    place.amberfs(&["volume", "set", "pool:mail", "quota=none", "x=", "team=letters"]).ok();
    let list = json(&place.amberfs(&["volume", "list", "pool", "--json"]).ok());
    let mail = &list["volumes"][0];
    assert!(mail["quota_bytes"].is_null());
    assert_eq!(mail["labels"], serde_json::json!({"team": "letters"}));
    place.amberfs(&["volume", "delete", "pool:web"]).ok();
    let text = place.amberfs(&["volume", "list", "pool"]).ok();
    assert!(text.starts_with("NAME"), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn snapshots_live_without_a_mount() {
    let place = Place::new();
    place.pool("pool");
    for name in ["zebra", "ant", "mon day:10:30", "a@b", "ü"] {
        place.amberfs(&["-q", "snapshot", "create", &format!("pool:main@{name}")]).ok();
    }
    let list = json(&place.amberfs(&["snapshot", "list", "pool", "--json"]).ok());
    assert_eq!(names(&list["snapshots"]), ["zebra", "ant", "mon day:10:30", "a@b", "ü"]);
    assert_eq!(list["volume"]["name"], "main");
    assert!(list["snapshots"].as_array().unwrap().iter().all(|row| row["ready"] == true));
    let text = place.amberfs(&["snapshot", "list", "pool:main"]).ok();
    let lines: Vec<&str> = text.lines().collect();
    let header: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(header, ["NAME", "CREATED", "READY", "REFERENCED", "EXCLUSIVE"]);
    assert!(lines[1].starts_with("main ") && lines[2].starts_with("@zebra "), "{text}");
    place.amberfs(&["snapshot", "rename", "pool:main@mon day:10:30", "tuesday"]).ok();
    let shown = json(&place.amberfs(&["snapshot", "show", "pool:main@tuesday", "--json"]).ok());
    assert_eq!(
        (&shown["snapshot"]["number"], &shown["volume"]),
        (&list["snapshots"][2]["number"], &"main".into())
    );
    let text = place.amberfs(&["snapshot", "show", "pool@a@b"]).ok();
    assert!(text.contains("snapshot    a@b\n"), "{text}");
    place.amberfs(&["snapshot", "delete", "pool:main@a@b"]).ok();
    place.amberfs(&["snapshot", "delete", "pool:main@zebra"]).ok();
    let list = json(&place.amberfs(&["snapshot", "list", "pool", "--json"]).ok());
    assert_eq!(names(&list["snapshots"]), ["ant", "tuesday", "ü"]);
    let said = place.amberfs(&["snapshot", "create", "pool:main@@daily"]);
    assert!(said.err.contains("`daily-20"), "{}", said.err);
    place.amberfs(&["check", "pool", "--data"]).ok();
}

#[test]
fn snapshots_outlive_their_volume() {
    let place = Place::new();
    place.pool("pool");
    place.amberfs(&["snapshot", "create", "pool:main@kept"]).ok();
    place.amberfs(&["volume", "delete", "pool:main"]).ok();
    let list = json(&place.amberfs(&["snapshot", "list", "pool", "--json"]).ok());
    assert!(list["volume"].is_null());
    assert_eq!(names(&list["snapshots"]), ["kept"]);
    place.amberfs(&["snapshot", "delete", "pool:main@kept"]).ok();
    place.amberfs(&["check", "pool", "--data"]).ok();
}

#[test]
fn paths_may_be_odd() {
    let place = Place::new();
    for name in ["with space", "co:lon/p", "a@b/p", "ünïcode", "-dash/p"] {
        if let Some((dir, _)) = name.split_once('/') {
            place.mkdir(dir);
        }
        let path = place.at(name);
        let path = path.to_str().unwrap();
        place.amberfs(&["-q", "pool", "create", path]).ok();
        place.amberfs(&["-q", "volume", "create", &format!("{path}:v 1")]).ok();
        place.amberfs(&["-q", "snapshot", "create", &format!("{path}:v 1@s 1")]).ok();
        let text = place.amberfs(&["snapshot", "list", &format!("{path}:v 1")]).ok();
        assert!(text.contains("@s 1"), "{text}");
    }
    let raw = place.at(OsStr::from_bytes(b"not-\xff-utf8"));
    place.amberfs(&[OsStr::new("pool"), OsStr::new("create"), raw.as_os_str()]).ok();
    let status = [OsStr::new("pool"), OsStr::new("status"), raw.as_os_str(), OsStr::new("--json")];
    let status = json(&place.amberfs(&status).ok());
    assert!(status["pool"]["bytes"].is_array());
}

#[test]
fn help_completions_and_manual_pages() {
    let place = Place::new();
    assert!(place.amberfs(&["--help"]).ok().contains("snapshot"));
    assert!(place.amberfs(&["mount", "--help"]).ok().contains("snapdir=MODE"));
    assert!(place.amberfs(&["--version"]).ok().starts_with("amberfs "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.amberfs(&["completions", shell]).ok().contains("snapshot"));
    }
    place.amberfs(&["man", "man1"]).ok();
    let page = fs::read_to_string(place.at("man1/amberfs-mount.1")).unwrap();
    assert!(page.contains("snapdir_name"), "{page}");
}

#[test]
fn the_manual_pages_in_the_tree_are_those_of_the_definitions() {
    let place = Place::new();
    place.amberfs(&["man", "man1"]).ok();
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man");
    let pages = |dir: &Path| {
        let mut pages: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "1"))
            .map(|path| (path.file_name().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
            .collect();
        pages.sort();
        pages
    };
    assert!(pages(&place.at("man1")) == pages(&tree), "they are stale: run `make doc`");
}

#[test]
fn quiet_says_nothing_and_a_closed_pipe_is_no_failure() {
    let place = Place::new();
    let quiet = place.amberfs(&["-q", "pool", "create", "pool"]);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
    let shell = "amberfs completions bash | head -n 1 >/dev/null; echo ${PIPESTATUS[0]}";
    assert_eq!(place.shell(shell).ok(), "0\n");
}
