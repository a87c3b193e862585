//! `copy_file_range`, sharing and copying.

use super::*;

fn copy(world: &World, src: NodeId, dst: NodeId, len: u64) -> u64 {
    let mut done = 0;
    while done < len {
        let part = world.fs.copy_file_range(src, done, dst, done, len - done).unwrap();
        if part == 0 {
            break;
        }
        done += part;
    }
    done
}

fn used(world: &World) -> u64 {
    world.pool.checkpoint().unwrap();
    world.pool.checkpoint().unwrap();
    world.pool.status().used_bytes
}

#[test]
fn a_copy_shares_blocks_and_stays_when_the_original_changes() {
    let world = World::new();
    let content = pattern(1, (4 << 20) + 123);
    let src = world.put("src", &content).node;
    let before = used(&world);
    let dst = world.put("dst", b"something small").node;
    assert_eq!(copy(&world, src, dst, u64::MAX), content.len() as u64);
    assert!(used(&world) < before + (1 << 20), "the blocks are shared");
    assert_eq!(world.content(dst), content);
    world.write(src, 5000, b"changed");
    assert_eq!(world.content(dst), content);
    world.unlink("src").unwrap();
    world.fs.forget(src, u64::MAX);
    used(&world);
    world.put("fill", &pattern(2, 8 << 20));
    assert_eq!(world.content(dst), content);
    let world = world.crash();
    assert_eq!(world.read("dst"), content);
    world.unlink("dst").unwrap();
    world.unlink("fill").unwrap();
    let world = world.remount();
    assert!(used(&world) < 2 << 20, "everything came back");
}

#[test]
fn a_file_comes_back_out_of_a_snapshot() {
    let world = World::new();
    let content = pattern(1, 2 << 20);
    world.put("f", &content);
    world.mkdir(".snapshots/s").unwrap();
    world.put("f", b"");
    let before = used(&world);
    let (src, dst) = (world.at(".snapshots/s/f").node, world.at("f").node);
    assert_eq!(copy(&world, src, dst, u64::MAX), content.len() as u64);
    assert!(used(&world) < before + (1 << 20));
    world.rmdir(".snapshots/s").unwrap();
    while world.pool.run_reclaim().unwrap() {}
    used(&world);
    world.put("fill", &pattern(2, 8 << 20));
    assert_eq!(world.content(dst), content);
    world.mkdir(".snapshots/t").unwrap();
    world.unlink("f").unwrap();
    world.rmdir(".snapshots/t").unwrap();
    world.unlink("fill").unwrap();
    let world = world.remount();
    while world.pool.run_reclaim().unwrap() {}
    assert!(used(&world) < 2 << 20, "everything came back");
}

#[test]
fn ranges_at_any_offset_are_copied() {
    let world = World::new();
    let mut model = pattern(1, 50_000);
    let src = world.put("f", &model).node;
    for (from, to, len) in [
        (0, 40_960, 8192),
        (5, 20_000, 300),
        (4096, 49_000, 9000),
        (8192, 0, 4096),
        (49_000, 8192, 5000),
    ] {
        let done = world.fs.copy_file_range(src, from, src, to, len).unwrap();
        let (from, to, done) = (from as usize, to as usize, done as usize);
        let part = model[from..from + done].to_vec();
        model.resize(model.len().max(to + done), 0);
        model[to..to + done].copy_from_slice(&part);
        assert!(world.content(src) == model);
    }
    let fs = &world.fs;
    assert_eq!(fs.copy_file_range(src, 0, src, 100, 200), Err(Error::Invalid));
    assert_eq!(fs.copy_file_range(src, 1 << 40, src, 0, 200), Ok(0));
    assert_eq!(fs.copy_file_range(src, 0, ROOT, 0, 200), Err(Error::IsDirectory));
    assert_eq!(fs.copy_file_range(src, 0, src, i64::MAX as u64, 200), Err(Error::FileTooBig));
}

#[test]
fn holes_stay_holes() {
    let world = World::new();
    let src = world.put("src", b"").node;
    world.write(src, 1 << 20, &pattern(1, 4096));
    world.resize(src, 4 << 20);
    let dst = world.put("dst", &pattern(2, 3 << 20)).node;
    copy(&world, src, dst, u64::MAX);
    assert_eq!(world.content(dst), world.content(src));
    assert_eq!(world.fs.getattr(dst).unwrap().blocks_512, 8);
}

#[test]
fn small_files_are_copied_through_the_leaf() {
    let world = World::new();
    let src = world.put("src", b"inline content").node;
    let dst = world.put("dst", b"").node;
    assert_eq!(copy(&world, src, dst, 100), 14);
    assert_eq!(world.content(dst), b"inline content");
}
