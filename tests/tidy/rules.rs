//! The rules. Each returns its violations in one file, as `path:line: what is wrong`.

use super::source::Source;

/// The layers, lowest first: a module imports only from layers before its own.
pub(crate) const LAYERS: [&str; 14] = [
    "threads", "format", "device", "cache", "space", "btree", "journal", "snapshot", "pool", "fs",
    "check", "fuse", "daemon", "cli",
];

/// Most lines of a file, tests not counted.
const MAX_LINES: usize = 600;

/// What only the command line may do, and main.rs.
const FOR_THE_COMMAND_LINE: [&str; 9] = [
    "print!",
    "println!",
    "eprint!",
    "eprintln!",
    "dbg!",
    "env::",
    "process::exit",
    "io::stdout",
    "io::stderr",
];

/// The rules for files below `src`.
pub(crate) const RULES: [fn(&Source) -> Vec<String>; 6] = [
    imports_go_down,
    fuser_stays_in_fuse,
    modules_say_their_purpose,
    files_are_short,
    only_the_command_line_prints,
    no_ignored_tests,
];

/// Says whether `c` may be part of a name.
fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The places in `line` where `word` stands by itself.
fn words(line: &str, word: &str) -> Vec<usize> {
    let bounded = |at: usize| {
        let before = line[..at].chars().next_back();
        let behind = line[at + word.len()..].chars().next();
        let open = word.ends_with(|c| !is_name(c));
        !before.is_some_and(is_name) && (open || !behind.is_some_and(is_name))
    };
    line.match_indices(word).map(|(at, _)| at).filter(|at| bounded(*at)).collect()
}

/// The first names of the paths in `tree`, what stands behind `crate::` up to the statement's end.
fn first_names(tree: &str) -> Vec<&str> {
    let name = |path: &'_ str| path.find(|c| !is_name(c)).unwrap_or(path.len());
    let tree = tree.trim_start();
    let Some(group) = tree.strip_prefix('{') else { return vec![&tree[..name(tree)]] };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let path = group[start..at].trim();
                names.push(&path[..name(path)]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// A module imports only from the layers below its own.
pub(crate) fn imports_go_down(file: &Source) -> Vec<String> {
    let Some(own) = LAYERS.iter().position(|layer| *layer == file.layer()) else {
        return Vec::new();
    };
    // From here so many `super` lead to the crate itself; further ones only from inline modules.
    let depth = file.module().split('/').count();
    let to_crate = "super::".repeat(depth);
    let mut found = Vec::new();
    let mut check = |at: usize, behind: usize| {
        for name in first_names(&file.code[behind..]) {
            let layer = LAYERS.iter().position(|layer| *layer == name);
            if layer.is_some_and(|layer| layer > own) {
                let line = file.code[..at].lines().count();
                found.push(format!("{}:{line}: {} imports {name}", file.path, LAYERS[own]));
            }
        }
    };
    for at in words(&file.code, "crate::") {
        check(at, at + "crate::".len());
    }
    for at in words(&file.code, &to_crate) {
        check(at, at + to_crate.len());
    }
    found
}

/// The kernel library is known to one layer.
pub(crate) fn fuser_stays_in_fuse(file: &Source) -> Vec<String> {
    if file.layer() == "fuse" {
        return Vec::new();
    }
    let lines = file.code.lines().enumerate().filter(|(_, line)| !words(line, "fuser").is_empty());
    lines.map(|(at, _)| format!("{}:{}: names fuser", file.path, at + 1)).collect()
}

/// A file opens with what it is for, and its name says something.
pub(crate) fn modules_say_their_purpose(file: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !file.text.lines().next().is_some_and(|first| first.starts_with("//! ")) {
        found.push(format!("{}:1: does not begin with `//! ` and its purpose", file.path));
    }
    let name = file.module().rsplit('/').next().unwrap_or_default();
    if ["util", "utils", "misc", "common", "helpers"].contains(&name) {
        found.push(format!("{}:1: is named after no concept", file.path));
    }
    found
}

/// A file holds one concept.
pub(crate) fn files_are_short(file: &Source) -> Vec<String> {
    let lines = file.shipped().len();
    if lines <= MAX_LINES {
        return Vec::new();
    }
    vec![format!("{}: has {lines} lines, tests not counted; the most is {MAX_LINES}", file.path)]
}

/// The library neither prints, nor reads the environment, nor ends the process.
pub(crate) fn only_the_command_line_prints(file: &Source) -> Vec<String> {
    if file.layer() == "cli" || file.path == "src/main.rs" {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in file.shipped() {
        for word in FOR_THE_COMMAND_LINE {
            if !words(line, word).is_empty() {
                found.push(format!("{}:{number}: uses {word}", file.path));
            }
        }
    }
    found
}

/// Every test runs, always.
pub(crate) fn no_ignored_tests(file: &Source) -> Vec<String> {
    let lines = file.code.lines().enumerate();
    let ignored = lines.filter(|(_, line)| line.trim_start().starts_with("#[ignore"));
    ignored.map(|(at, _)| format!("{}:{}: ignores a test", file.path, at + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines at which `rule` finds something in `text` at `path`; 0 for the file as a whole.
    fn lines(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> Vec<usize> {
        let found = rule(&Source::new(path, text));
        found.iter().map(|v| v.split(':').nth(1).unwrap().parse().unwrap_or(0)).collect()
    }

    #[test]
    fn an_import_from_above_is_found() {
        let found = |text| lines(imports_go_down, "src/space/region.rs", text);
        assert_eq!(found("use crate::format::Run;\nuse crate::pool::Pool;"), [2]);
        assert_eq!(found("//! x\nfn f() { crate::journal::Journal::open() }"), [2]);
        assert_eq!(found("use crate::{format::{a, pool}, device,\n    fs::Attr, cli};"), [1, 1]);
        assert_eq!(found("use crate::{\n    format::a,\n    btree,\n};"), [1]);
        assert_eq!(found("pub(in crate::fuse) use super::super::pool::Pool;"), [1, 1]);
        assert_eq!(found("use super::pool;\nuse crate::space::journal;\n// crate::pool"), []);
        assert_eq!(found("use mycrate::pool;\nlet a = \"crate::pool\";"), []);
        assert_eq!(lines(imports_go_down, "src/space/mod.rs", "use super::cli::x;"), [1]);
        assert_eq!(lines(imports_go_down, "src/cli/mod.rs", "use crate::daemon::x;"), []);
        assert_eq!(lines(imports_go_down, "src/main.rs", "use crate::cli::x;"), []);
    }

    #[test]
    fn fuser_outside_its_layer_is_found() {
        let text = "//! fuser\nuse fuser::Request; // fuser\nlet fuser_like = \"fuser\";";
        assert_eq!(lines(fuser_stays_in_fuse, "src/fs/mod.rs", text), [2]);
        assert_eq!(lines(fuser_stays_in_fuse, "src/fuse/mod.rs", text), []);
    }

    #[test]
    fn a_file_without_purpose_is_found() {
        let found = |path: &str, text: &str| lines(modules_say_their_purpose, path, text);
        assert_eq!(found("src/fs/a.rs", "use x;\n//! Late."), [1]);
        assert_eq!(found("src/fs/a.rs", ""), [1]);
        assert_eq!(found("src/fs/a.rs", "//!\n"), [1]);
        assert_eq!(found("src/fs/util.rs", "//! What."), [1]);
        assert_eq!(found("src/fs/a.rs", "//! What."), []);
    }

    #[test]
    fn a_long_file_is_found() {
        let body = "//! x\n".to_string() + &"fn f() {}\n".repeat(MAX_LINES - 1);
        assert_eq!(lines(files_are_short, "src/fs/a.rs", &body), []);
        let tests = body.clone() + "#[cfg(test)]\nmod tests {\n    // x\n}\n";
        assert_eq!(lines(files_are_short, "src/fs/a.rs", &tests), []);
        let long = body + "#[cfg(test)]\nfn f() {}\n";
        assert_eq!(lines(files_are_short, "src/fs/a.rs", &long), [0]);
    }

    #[test]
    fn printing_environment_and_exit_are_found() {
        let found = |path: &str, text: &str| lines(only_the_command_line_prints, path, text);
        for planted in [
            "println!(\"a\");",
            "eprintln!();",
            "std::env::var(\"A\")",
            "use std::env::args;",
            "std::process::exit(1)",
            "print!(\"\")",
            "dbg!(1)",
            "io::stdout().lock()",
        ] {
            let text = format!("//! x\nfn f() {{\n    {planted}\n}}\n");
            assert_eq!(found("src/fs/a.rs", &text), [3], "{planted}");
            assert_eq!(found("src/cli/a.rs", &text), []);
            assert_eq!(found("src/main.rs", &text), []);
            let test = format!("//! x\n#[cfg(test)]\nmod tests {{\n    {planted}\n}}\n");
            assert_eq!(found("src/fs/a.rs", &test), []);
        }
        assert_eq!(found("src/fs/a.rs", "// println!\nlet a = \"env::\";\nmyenv::x();"), []);
        assert_eq!(found("src/fs/a.rs", "const X: &str = env!(\"CARGO_PKG_VERSION\");"), []);
    }

    #[test]
    fn an_ignored_test_is_found() {
        let text = "//! x\n    #[ignore]\nfn a() {}\n#[ignore = \"slow\"]\n// #[ignore]\n";
        assert_eq!(lines(no_ignored_tests, "tests/a.rs", text), [2, 4]);
    }
}
