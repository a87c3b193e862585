//! Writing, cutting, holes, preallocation.

use super::*;

const B: usize = 4096;

/// A file and what it should hold, changed together.
struct Twin {
    world: World,
    node: NodeId,
    model: Vec<u8>,
}

impl Twin {
    fn new() -> Twin {
        let world = World::new();
        let node = world.put("f", b"").node;
        Twin { world, node, model: Vec::new() }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.world.write(self.node, offset as u64, bytes);
        if self.model.len() < offset + bytes.len() {
            self.model.resize(offset + bytes.len(), 0);
        }
        self.model[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.check();
    }

    fn resize(&mut self, size: usize) {
        self.world.resize(self.node, size as u64);
        self.model.resize(size, 0);
        self.check();
    }

    fn fallocate(&mut self, offset: usize, len: usize, mode: i32) {
        let (at, bytes) = (offset as u64, len as u64);
        self.world.fs.fallocate(self.node, at, bytes, mode as u32).unwrap();
        if mode & libc::FALLOC_FL_KEEP_SIZE == 0 && self.model.len() < offset + len {
            self.model.resize(offset + len, 0);
        }
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
            let end = self.model.len().min(offset + len);
            let from = offset.min(end);
            self.model[from..end].fill(0);
        }
        self.check();
    }

    fn check(&self) {
        let got = self.world.content(self.node);
        assert!(got == self.model, "content differs at {:?}", first_difference(&got, &self.model));
    }

    fn blocks(&self) -> u64 {
        self.world.fs.getattr(self.node).unwrap().blocks_512 / 8
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i))
}

#[test]
fn a_small_file_stays_in_the_leaf_until_it_grows() {
    let mut file = Twin::new();
    file.write(0, b"hello");
    assert_eq!(file.blocks(), 0);
    file.write(3, b"p me, said the fox");
    file.write(1000, &pattern(1, 1048));
    assert_eq!(file.model.len(), 2048);
    assert_eq!(file.world.fs.getattr(file.node).unwrap().blocks_512, 4);
    file.write(2047, b"xy");
    assert_eq!(file.blocks(), 1);
    file.write(100, b"in the block");
    file.resize(50);
    assert_eq!(file.blocks(), 0, "back in the leaf");
    file.resize(2000);
    file.resize(10_000);
    file.write(9999, b"end");
    file.resize(0);
    file.write(0, b"again");
}

#[test]
fn a_small_file_moves_out_when_written_far_behind() {
    for at in [B, B + 5, 3 * B] {
        let mut file = Twin::new();
        file.write(0, &pattern(3, 700));
        file.write(at, &pattern(4, B));
        assert_eq!(file.blocks(), 1 + (B + at % B).div_ceil(B) as u64);
    }
    let mut file = Twin::new();
    file.write(0, &pattern(3, 700));
    file.write(0, &pattern(4, B));
    assert_eq!(file.blocks(), 1);
}

#[test]
fn parts_of_blocks_keep_the_rest() {
    let mut file = Twin::new();
    file.write(0, &pattern(5, 5 * B + 123));
    for (offset, len) in
        [(1, 1), (B - 1, 2), (B, B), (B + 7, 2 * B), (5 * B + 100, 1000), (4 * B, B + 1)]
    {
        file.write(offset, &pattern(offset as u64, len));
    }
    file.write(20 * B + 17, b"far");
    assert_eq!(file.blocks(), 7);
}

#[test]
fn what_a_cut_took_does_not_come_back() {
    for size in [0, 1, 100, 2048, 2049, B - 1, B, B + 1, 2 * B + 5] {
        let mut file = Twin::new();
        file.write(0, &pattern(6, 3 * B + 10));
        file.resize(size);
        file.resize(4 * B);
        file.resize(size + 1);
        file.write(5 * B, b"x");
    }
}

#[test]
fn holes_and_data_are_told_apart() {
    let mut file = Twin::new();
    file.write(2 * B, &pattern(1, B));
    file.write(3 * B, &pattern(2, B));
    file.write(10 * B, &pattern(3, 100));
    let seek = |at: usize, whence| file.world.fs.lseek(file.node, at as u64, whence);
    let (data, hole) = (Whence::Data, Whence::Hole);
    assert_eq!(seek(0, data), Ok(2 * B as u64));
    assert_eq!(seek(0, hole), Ok(0));
    assert_eq!(seek(2 * B + 9, data), Ok(2 * B as u64 + 9));
    assert_eq!(seek(2 * B, hole), Ok(4 * B as u64));
    assert_eq!(seek(5 * B, data), Ok(10 * B as u64));
    assert_eq!(seek(10 * B + 1, hole), Ok(10 * B as u64 + 100));
    assert_eq!(seek(10 * B + 100, data), Err(Error::NoSuchAddress));
    file.resize(20 * B);
    let seek = |at: usize, whence| file.world.fs.lseek(file.node, at as u64, whence);
    assert_eq!(seek(10 * B, hole), Ok(11 * B as u64));
    assert_eq!(seek(11 * B, data), Err(Error::NoSuchAddress));
    file.world.fs.fallocate(file.node, 12 * B as u64, B as u64, 0).unwrap();
    let seek = |at: usize, whence| file.world.fs.lseek(file.node, at as u64, whence);
    assert_eq!(seek(11 * B, data), Err(Error::NoSuchAddress), "preallocated is a hole");
}

#[test]
fn fallocate_reserves_punches_and_zeroes() {
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    let punch = libc::FALLOC_FL_PUNCH_HOLE | keep;
    let zero = libc::FALLOC_FL_ZERO_RANGE;
    let mut file = Twin::new();
    file.fallocate(0, 10 * B, keep);
    assert_eq!((file.model.len(), file.blocks()), (0, 10));
    file.write(B, &pattern(1, 3 * B));
    file.fallocate(0, 12 * B + 1, 0);
    assert_eq!(file.blocks(), 13);
    file.fallocate(2 * B, B, punch);
    assert_eq!(file.blocks(), 12);
    file.fallocate(B + 10, 100, punch);
    file.fallocate(B + 4000, 2 * B, punch);
    file.fallocate(3 * B + 5, 30 * B, zero | keep);
    file.fallocate(3 * B + 5, 30 * B, zero);
    assert_eq!(file.model.len(), 33 * B + 5);
    file.fallocate(0, 100 * B, punch);
    assert_eq!(file.blocks(), 0);
    file.resize(0);
    file.write(0, &pattern(2, 1000));
    file.fallocate(100, 50, punch);
    file.fallocate(500, 1000, zero);
    file.fallocate(0, 2000, 0);
    assert_eq!(file.blocks(), 0, "still in the leaf");
    file.fallocate(0, B, 0);
    assert_eq!(file.blocks(), 1);
    let fs = &file.world.fs;
    assert_eq!(fs.fallocate(file.node, 0, 0, 0), Err(Error::Invalid));
    assert_eq!(
        fs.fallocate(file.node, 0, 1, libc::FALLOC_FL_COLLAPSE_RANGE as u32),
        Err(Error::NotSupported)
    );
    assert_eq!(
        fs.fallocate(file.node, 0, 1, libc::FALLOC_FL_PUNCH_HOLE as u32),
        Err(Error::NotSupported)
    );
    assert_eq!(fs.fallocate(file.node, i64::MAX as u64, 1, 0), Err(Error::FileTooBig));
    assert_eq!(fs.fallocate(file.node, 0, 1 << 40, 0), Err(Error::NoSpace));
    assert_eq!(file.blocks(), 1, "nothing was taken");
}

fn part(number: u64, offset: usize, data: &[u8]) -> Part<'_> {
    let request = RequestId { session: 1, unique: number * 2 };
    Part { request, offset: offset as u64, data }
}

#[test]
fn writes_that_are_made_together_are_as_if_made_one_after_the_other() {
    let mut file = Twin::new();
    file.write(0, &pattern(1, 40 * B));
    file.fallocate(60 * B, 20 * B, libc::FALLOC_FL_KEEP_SIZE);
    let mut random = 7u64;
    for round in 0..50 {
        let mut contents: Vec<_> = (0..32)
            .map(|number| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (at, len) =
                    ((random >> 40) as usize % 90 * B, (1 + (random >> 60) as usize % 4) * B);
                (at, pattern(round * 100 + number, len))
            })
            .collect();
        // In any order, but each block once.
        let mut taken = std::collections::BTreeSet::new();
        contents.retain(|(at, data)| (*at..at + data.len()).step_by(B).all(|at| taken.insert(at)));
        assert!(contents.len() > 5);
        let parts: Vec<_> =
            contents.iter().zip(0..).map(|((at, data), number)| part(number, *at, data)).collect();
        assert_eq!(file.world.fs.write_together(file.node, &parts), Ok(true));
        for (at, data) in &contents {
            let end = at + data.len();
            file.model.resize(file.model.len().max(end), 0);
            file.model[*at..end].copy_from_slice(data);
        }
        file.check();
        if round % 20 == 0 {
            file.world.mkdir(&format!(".snapshots/s{round}")).unwrap();
        }
    }
    let Twin { world, node, model } = file;
    let world = world.crash();
    assert!(world.content(node) == model);
}

#[test]
fn what_cannot_be_written_together_leaves_all_as_it_was() {
    let mut file = Twin::new();
    file.write(0, &pattern(1, 100));
    let block = pattern(2, B);
    let together = |file: &Twin, parts: &[Part<'_>]| {
        let done = file.world.fs.write_together(file.node, parts);
        file.check();
        done
    };
    assert_eq!(together(&file, &[part(1, 0, &block)]), Ok(false), "it is in the leaf");
    file.write(0, &pattern(1, 3 * B));
    assert_eq!(together(&file, &[part(1, 0, &block), part(2, 100, &block)]), Ok(false));
    assert_eq!(together(&file, &[part(1, 0, &block), part(2, B, &block[1..])]), Ok(false));
    assert_eq!(together(&file, &[part(1, 0, &block), part(2, B, &[])]), Ok(false));
    let beyond = i64::MAX as usize / B * B;
    assert_eq!(together(&file, &[part(1, 0, &block), part(2, beyond, &block)]), Ok(false));
    let two = pattern(3, 2 * B);
    assert_eq!(together(&file, &[part(1, B, &block), part(2, 0, &two)]), Ok(false));
    assert_eq!(together(&file, &[part(1, usize::MAX / B * B, &block)]), Ok(false));
    let fs = &file.world.fs;
    let dir = file.world.mkdir("d").unwrap().node;
    assert_eq!(fs.write_together(dir, &[part(1, 0, &block)]), Err(Error::IsDirectory));
    // One too many for what is free: what was written of it is given back.
    file.world.pool.set_volume("main", Some(Some(1 << 20)), &[]).unwrap();
    let large = pattern(3, 1 << 20);
    assert_eq!(file.world.fs.write_together(file.node, &[part(1, B, &large)]), Ok(true));
    file.model.resize((1 << 20) + B, 0);
    file.model[B..].copy_from_slice(&large);
    let used = file.world.pool.status().used_bytes;
    assert_eq!(together(&file, &[part(1, 0, &block), part(2, B, &block)]), Err(Error::Quota));
    assert_eq!(file.world.pool.status().used_bytes, used);
}

#[test]
fn punching_an_edge_at_the_end_frees_the_block() {
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let mut file = Twin::new();
    file.write(0, &pattern(1, 2 * B + 100));
    file.fallocate(2 * B, 200, punch);
    assert_eq!(file.blocks(), 2);
    file.fallocate(B + 1, B, punch);
    assert_eq!(file.blocks(), 2);
}

#[test]
fn the_largest_file_is_sparse_and_the_next_byte_too_big() {
    let file = Twin::new();
    let (fs, node) = (&file.world.fs, file.node);
    let max = i64::MAX as u64;
    file.world.resize(node, max);
    file.world.write(node, max - 10, b"0123456789");
    let mut tail = [0; 20];
    assert_eq!(fs.read(node, Handle(0), max - 10, &mut tail), Ok(10));
    assert_eq!(&tail[..10], b"0123456789");
    assert_eq!(fs.read(node, Handle(0), 1 << 50, &mut tail), Ok(20));
    assert_eq!(tail, [0; 20]);
    let write = |at| fs.write(node, Handle(1), at, b"0123456789", WriteFlags::default());
    assert_eq!(write(max - 9), Err(Error::FileTooBig));
    assert_eq!(write(u64::MAX), Err(Error::FileTooBig));
    let set = |size| file.world.set(node, SetAttr { size: Some(size), ..SetAttr::default() });
    assert_eq!(set(max + 1), Err(Error::FileTooBig));
    assert_eq!(fs.lseek(node, 0, Whence::Data), Ok((max - 10) / 4096 * 4096));
    file.world.resize(node, 5);
    assert_eq!(file.blocks(), 0);
}

#[test]
fn a_change_of_size_answers_with_the_space_that_is_left() {
    let world = World::new();
    let node = world.put("f", &pattern(1, 10 * B)).node;
    world.fs.fallocate(node, 0, 40 * B as u64, libc::FALLOC_FL_KEEP_SIZE as u32).unwrap();
    for size in [10 * B, 5 * B + 1, 100 * B, 2049, 7, 0] {
        let cut = SetAttr { size: Some(size as u64), ..SetAttr::default() };
        let answer = world.set(node, cut).unwrap();
        assert_eq!(answer, world.fs.getattr(node).unwrap(), "{size} bytes");
    }
    assert_eq!(world.fs.getattr(node).unwrap().blocks_512, 0);
}

#[test]
fn cached_writes_leave_times_and_privileges_alone() {
    let world = World::new();
    let node = world.put("f", b"x").node;
    world.set(node, SetAttr { mode: Some(0o6755), ..SetAttr::default() }).unwrap();
    let before = world.fs.getattr(node).unwrap();
    let cached = WriteFlags { cached: true, promised: true, kill_suidgid: true };
    world.fs.write(node, Handle(1), 0, b"cached", cached).unwrap();
    let after = world.fs.getattr(node).unwrap();
    assert_eq!((after.mtime, after.ctime, after.mode), (before.mtime, before.ctime, before.mode));
    world.fs.write(node, Handle(1), 0, b"direct", WriteFlags::default()).unwrap();
    let after = world.fs.getattr(node).unwrap();
    assert!(after.mtime > before.mtime && after.ctime == after.mtime);
    assert_eq!(after.mode & 0o7777, 0o6755, "a writer who may keep them");
    let kill = WriteFlags { kill_suidgid: true, ..WriteFlags::default() };
    world.fs.write(node, Handle(1), 0, b"killed", kill).unwrap();
    assert_eq!(world.fs.getattr(node).unwrap().mode & 0o7777, 0o755);
}

#[test]
fn content_survives_a_crash_and_a_remount() {
    let world = World::new();
    let contents: Vec<Vec<u8>> =
        [0, 1, 2048, 2049, 4096, 5 * B + 1, 3 << 20].map(|n| pattern(n as u64, n)).into();
    for (n, content) in contents.iter().enumerate() {
        world.put(&format!("f{n}"), content);
    }
    let check = |world: &World| {
        for (n, content) in contents.iter().enumerate() {
            assert!(world.read(&format!("f{n}")) == *content, "f{n}");
        }
    };
    let world = world.crash();
    check(&world);
    let world = world.remount();
    check(&world);
}
