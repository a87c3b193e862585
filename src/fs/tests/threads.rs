//! Many threads at once.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;

#[test]
fn writers_of_parts_of_the_same_blocks_lose_nothing() {
    let world = World::new();
    let node = world.put("f", b"").node;
    const PARTS: u64 = 64;
    const LEN: u64 = 700;
    thread::scope(|scope| {
        for n in 0..4 {
            let world = &world;
            scope.spawn(move || {
                for part in (n..PARTS).step_by(4) {
                    world.write(node, part * LEN, &pattern(part, LEN as usize));
                }
            });
        }
    });
    let content = world.content(node);
    for part in 0..PARTS {
        let at = (part * LEN) as usize;
        assert!(content[at..at + LEN as usize] == pattern(part, LEN as usize), "part {part}");
    }
}

#[test]
fn a_part_of_a_block_and_the_whole_are_written_in_some_order() {
    let world = World::new();
    let node = world.put("f", &[0; 4096 * 2]).node;
    for round in 1..100u8 {
        thread::scope(|scope| {
            scope.spawn(|| world.write(node, 0, &[round; 4096]));
            scope.spawn(|| world.write(node, 1000, &[200; 10]));
        });
        let content = world.content(node);
        assert!(content[..1000].iter().all(|byte| *byte == round), "the whole block was lost");
        assert!(
            matches!(content[1000], 200 | _) && (content[1000] == 200 || content[1000] == round)
        );
    }
}

#[test]
fn names_come_and_go_on_all_sides() {
    let world = World::new();
    for dir in ["a", "b"] {
        world.mkdir(dir).unwrap();
    }
    let dirs = [world.at("a").node, world.at("b").node];
    thread::scope(|scope| {
        for n in 0..4usize {
            let (fs, root) = (&world.fs, &world.root);
            scope.spawn(move || {
                for round in 0..200 {
                    let (here, there) = (dirs[n % 2], dirs[(n + round) % 2]);
                    let (name, other) = (format!("f{n}"), format!("g{n}"));
                    let entry = fs.mknod(root, here, name.as_bytes(), 0o644, 0).unwrap();
                    fs.rename(root, here, name.as_bytes(), there, other.as_bytes(), 0).unwrap();
                    let found = fs.lookup(root, there, other.as_bytes()).unwrap();
                    assert_eq!(found.node, entry.node);
                    fs.unlink(root, there, other.as_bytes()).unwrap();
                    fs.forget(entry.node, 2);
                    assert_eq!(fs.getattr(entry.node), Err(Error::Stale));
                }
            });
        }
    });
    assert_eq!((world.names("a"), world.names("b")), (vec![], vec![]));
    assert_eq!(world.at("/").attr.nlink, 4);
}

#[test]
fn a_snapshot_between_two_writes_has_the_first_at_least() {
    // Writers write a rising number to two files, the second only after the first: a snapshot may see
    // the first ahead by one, and never the second ahead.
    let world = World::new();
    let (a, b) = (world.put("a", &[0; 8]).node, world.put("b", &[0; 8]).node);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                world.write(a, 0, &n.to_le_bytes());
                world.write(b, 0, &n.to_le_bytes());
            }
        });
        for n in 0..30 {
            world.mkdir(&format!(".snapshots/{n}")).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    for n in 0..30 {
        let number = |name| {
            let content = world.read(&format!(".snapshots/{n}/{name}"));
            u64::from_le_bytes(content.try_into().unwrap())
        };
        let (first, second) = (number("a"), number("b"));
        assert!(first == second || first == second + 1, "snapshot {n}: {first} and {second}");
    }
}

#[test]
fn reading_goes_on_while_snapshots_come_and_go() {
    let world = World::new();
    let node = world.put("f", &pattern(0, 64 << 10)).node;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                world.write(node, 0, &pattern(round % 5, 64 << 10));
                if round % 50 == 0 {
                    world.pool.checkpoint().unwrap();
                }
            }
        });
        for n in 0..20 {
            let name = format!(".snapshots/{n}");
            world.mkdir(&name).unwrap();
            let content = world.read(&format!("{name}/f"));
            for _ in 0..5 {
                assert!(world.read(&format!("{name}/f")) == content);
            }
            assert!((0..5).any(|seed| content == pattern(seed, 64 << 10)));
            if n % 2 == 0 {
                world.rmdir(&name).unwrap();
                while world.pool.run_reclaim().unwrap() {}
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
