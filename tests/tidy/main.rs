//! The rules of the source tree that neither the compiler nor clippy knows.
//!
//! Each rule is a function from one source file to its violations, and has a test that plants a
//! violation and sees it found. A rule that is wrong for one place is changed here, with the reason.

mod rules;
mod source;

use std::path::Path;

use rules::{LAYERS, RULES};
use source::{Source, test_modules};

/// Every Rust file below `dir`, a folder of the package, by its path from the package's root.
fn sources(dir: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![root.join(dir)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                files.push(Source::new(name, &text));
            }
        }
    }
    let tests: Vec<String> = files.iter().flat_map(test_modules).collect();
    for file in &mut files {
        file.is_test |= tests.iter().any(|test| file.is_module(test));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

#[test]
fn the_sources_keep_the_rules() {
    let files = sources("src");
    assert!(files.len() > 50, "only {} files were found", files.len());
    let found: Vec<String> = RULES.iter().flat_map(|rule| files.iter().flat_map(rule)).collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_tests_keep_the_rules_for_tests() {
    let found: Vec<String> = sources("tests").iter().flat_map(rules::no_ignored_tests).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_layers_are_those_of_the_library() {
    let library = Source::new(
        "src/lib.rs",
        &std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap(),
    );
    let declared: Vec<&str> = library
        .code
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(declared, LAYERS, "src/lib.rs lists the layers lowest first");
    for file in sources("src") {
        let layer = file.layer();
        let top = ["src/lib.rs", "src/main.rs"].contains(&file.path.as_str());
        assert!(top || LAYERS.contains(&layer), "{} belongs to no layer", file.path);
    }
}
