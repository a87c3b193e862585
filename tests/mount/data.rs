//! read, write, truncate, append, mmap, O_DIRECT, fallocate, lseek, copy_file_range, fsync.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::Errno;

use crate::mapping::Mapping;
use crate::random::Random;
use crate::support::TestMount;

fn open(path: &std::path::Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn files_of_every_size_come_back_after_a_remount() {
    let mut m = TestMount::new();
    let mut random = Random::new(1);
    let sizes = [0, 1, 100, 2047, 2048, 4095, 4096, 4097, 65_536, 1_048_576, 3_000_001];
    let files: Vec<_> =
        sizes.iter().map(|&size| (format!("f{size}"), random.bytes(size))).collect();
    for (name, content) in &files {
        fs::write(m.path(name), content).unwrap();
    }
    for _ in 0..2 {
        for (name, content) in &files {
            assert!(fs::read(m.path(name)).unwrap() == *content, "{name} differs");
        }
        m.remount();
    }
}

#[test]
fn appending_and_truncating() {
    let m = TestMount::new();
    let path = m.path("f");
    for part in [&b"one"[..], b"two", b"three"] {
        OpenOptions::new().append(true).create(true).open(&path).unwrap().write_all(part).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), b"onetwothree");
    let file = open(&path);
    file.set_len(4).unwrap();
    file.set_len(8).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"onet\0\0\0\0");
    drop(OpenOptions::new().write(true).truncate(true).open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().size(), 0);
}

#[test]
fn a_descriptor_for_writing_alone_writes_parts_of_pages() {
    let mut m = TestMount::new();
    fs::write(m.path("f"), vec![1; 10_000]).unwrap();
    m.remount();
    let file = OpenOptions::new().write(true).open(m.path("f")).unwrap();
    file.write_all_at(b"xyz", 5000).unwrap();
    drop(file);
    m.remount();
    let mut expected = vec![1; 10_000];
    expected[5000..5003].copy_from_slice(b"xyz");
    assert!(fs::read(m.path("f")).unwrap() == expected);
}

#[test]
fn mappings_and_calls_see_each_other() {
    let mut m = TestMount::new();
    let file = open(&m.path("f"));
    file.set_len(1 << 20).unwrap();
    let mut map = Mapping::new(&file, 1 << 20);
    map.store(70_000, b"by memory");
    file.write_all_at(b"by call", 500_000).unwrap();
    let mut seen = [0; 9];
    file.read_exact_at(&mut seen, 70_000).unwrap();
    assert_eq!(&seen, b"by memory");
    assert_eq!(map.load(500_000, 7), b"by call");
    drop((map, file));
    m.remount();
    let content = fs::read(m.path("f")).unwrap();
    assert_eq!(&content[70_000..70_009], b"by memory");
    assert_eq!(&content[500_000..500_007], b"by call");
}

#[test]
fn direct_and_cached_access_agree() {
    let m = TestMount::new();
    let cached = open(&m.path("f"));
    cached.write_all_at(&[3; 16_384], 0).unwrap();
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(m.path("f"))
        .unwrap();
    let mut pages = vec![0u8; 3 * 4096];
    let start = pages.as_ptr().align_offset(4096);
    let page = &mut pages[start..start + 8192];
    direct.read_exact_at(page, 4096).unwrap();
    assert!(page.iter().all(|&byte| byte == 3));
    page.fill(9);
    direct.write_all_at(page, 8192).unwrap();
    let content = fs::read(m.path("f")).unwrap();
    assert!(content[..8192].iter().all(|&byte| byte == 3));
    assert!(content[8192..].iter().all(|&byte| byte == 9) && content.len() == 16_384);
}

#[test]
fn fallocate_extends_punches_and_zeroes() {
    let m = TestMount::new();
    let file = open(&m.path("f"));
    file.write_all_at(&[5; 100_000], 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 10_000, 50_000).unwrap();
    fallocate(&file, FallocateFlags::ZERO_RANGE, 90_000, 20_000).unwrap();
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
    let mut expected = vec![5; 110_000];
    expected[10_000..60_000].fill(0);
    expected[90_000..].fill(0);
    assert!(fs::read(m.path("f")).unwrap() == expected);
    fallocate(&file, FallocateFlags::empty(), 0, 200_000).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 200_000);
    let collapse = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(Errno::OPNOTSUPP));
}

#[test]
fn holes_are_found_also_while_data_is_only_in_the_cache() {
    look_for_holes(&TestMount::new());
    look_for_holes(&TestMount::with_helper());
}

fn look_for_holes(m: &TestMount) {
    let file = open(&m.path("f"));
    file.set_len(1 << 20).unwrap();
    file.sync_all().unwrap();
    // These pages are dirty in the kernel; the server knows of a hole there.
    file.write_all_at(&[1; 4096], 512 << 10).unwrap();
    assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(512 << 10));
    assert_eq!(seek(&file, SeekFrom::Hole(512 << 10)), Ok((512 << 10) + 4096));
    assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(0));
    assert_eq!(seek(&file, SeekFrom::Data((600 << 10) as u64)), Err(Errno::NXIO));
    // The same for data behind what the server knows as the end.
    file.write_all_at(&[1; 4096], 2 << 20).unwrap();
    assert_eq!(seek(&file, SeekFrom::Data(1 << 20)), Ok(2 << 20));
    assert_eq!(seek(&file, SeekFrom::Hole(2 << 20)), Ok((2 << 20) + 4096));
    assert_eq!(seek(&file, SeekFrom::Data(3 << 20)), Err(Errno::NXIO));
}

#[test]
fn sparse_files_take_no_space() {
    let m = TestMount::new();
    let file = open(&m.path("f"));
    file.write_all_at(b"end", 1 << 40).unwrap();
    file.sync_all().unwrap();
    let stat = file.metadata().unwrap();
    assert_eq!(stat.size(), (1 << 40) + 3);
    assert!(stat.blocks() <= 16, "{} blocks", stat.blocks());
    let mut seen = [9; 4];
    file.read_exact_at(&mut seen, 1 << 39).unwrap();
    assert_eq!(seen, [0; 4]);
}

#[test]
fn copies_within_the_filesystem_include_what_is_not_written_back() {
    let m = TestMount::new();
    let content = Random::new(5).bytes(300_000);
    let (source, target) = (open(&m.path("s")), open(&m.path("t")));
    source.write_all_at(&content, 0).unwrap();
    target.write_all_at(&[1; 10_000], 0).unwrap();
    let (mut from, mut to) = (1000, 5000);
    while from < 300_000 {
        let left = 300_000 - from as usize;
        assert!(
            copy_file_range(&source, Some(&mut from), &target, Some(&mut to), left).unwrap() > 0
        );
    }
    let copied = fs::read(m.path("t")).unwrap();
    assert!(copied[..5000].iter().all(|&byte| byte == 1));
    assert!(copied[5000..] == content[1000..]);
}

#[test]
fn fsync_in_all_its_forms() {
    let m = TestMount::new();
    let file = open(&m.path("f"));
    file.write_all_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    File::open(m.root()).unwrap().sync_all().unwrap();
    rustix::fs::syncfs(&file).unwrap();
}

#[test]
fn many_threads_sync_at_once() {
    let m = TestMount::new();
    std::thread::scope(|scope| {
        for thread in 0..24 {
            let path = m.path(&format!("f{thread}"));
            scope.spawn(move || {
                let mut file = open(&path);
                for round in 0..10 {
                    file.write_all(&[round; 3000]).unwrap();
                    file.sync_all().unwrap();
                }
                let mut content = Vec::new();
                File::open(&path).unwrap().read_to_end(&mut content).unwrap();
                assert_eq!(content.len(), 30_000);
            });
        }
    });
}

#[test]
fn offsets_end_where_files_do() {
    let m = TestMount::new();
    let file = open(&m.path("f"));
    let error = file.write_at(b"x", i64::MAX as u64).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::EFBIG | libc::EINVAL)), "{error}");
    assert_eq!(file.metadata().unwrap().size(), 0);
}
