//! The README's commands are run as they stand there.

use crate::support::{Place, can_mount};

/// Returns the blocks that are fenced as `sh`.
fn shell_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        match (&mut current, line) {
            (None, "```sh") => current = Some(String::new()),
            (Some(_), "```") => blocks.extend(current.take()),
            (Some(block), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    assert!(current.is_none(), "a block has no end");
    blocks
}

#[test]
fn the_commands_of_the_readme_work() {
    let readme = include_str!("../../README.md");
    let blocks = shell_blocks(readme);
    assert!(blocks.len() >= 5, "{blocks:?}");
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mkdir("mnt");
    // One shell for all blocks: what one makes the next uses. `amberfs status` speaks of every mount, and
    // fails for one that has lost its daemon, which another test's, or the machine's, may have.
    let outcome = place.shell_alone(&blocks.concat());
    let said = outcome.ok();
    assert!(said.contains("letter") && said.contains("@monday"), "{said}");
}

#[test]
fn the_readme_names_the_two_commands() {
    let readme = include_str!("../../README.md");
    assert!(readme.contains("    make demo ") && readme.contains("    make test "));
    assert!(include_str!("../../.ci/run").contains("exec make test"));
}
