//! A pool's three files as text.
//!
//! Lines that begin with `#` are comments. `file NAME LENGTH` begins a file of that many bytes; each line
//! `OFFSET BYTES`, both hexadecimal, says what is at an offset of it. All other bytes are zero, so that the
//! holes of `data` and the journal, which is written through with zeros, take no room.

use std::fmt::Write;
use std::sync::Arc;

use amberfs::device::{BlockDevice, MemoryDevice, Storage};

const NAMES: [&str; 3] = ["superblock", "journal", "data"];
/// Bytes of a line at most.
const LINE: usize = 64;
/// So many zeros end a line: as many as the next line's offset takes.
const GAP: usize = 8;

fn devices(storage: &Storage) -> [&Arc<dyn BlockDevice>; 3] {
    [&storage.superblock, &storage.journal, &storage.data]
}

/// Writes the files of a pool as text.
pub(crate) fn write(storage: &Storage, comment: &str) -> String {
    let mut out = String::new();
    comment.lines().for_each(|line| writeln!(out, "# {line}").unwrap());
    for (name, device) in NAMES.into_iter().zip(devices(storage)) {
        let len = device.len_bytes().unwrap();
        writeln!(out, "file {name} {len}").unwrap();
        let mut block = vec![0; 4096];
        for at in (0..len).step_by(block.len()) {
            device.read_at(at, &mut block).unwrap();
            write_block(&mut out, at as usize, &block);
        }
    }
    out
}

fn write_block(out: &mut String, at: usize, block: &[u8]) {
    let mut from = 0;
    while let Some(skip) = block[from..].iter().position(|byte| *byte != 0) {
        from += skip;
        let line = &block[from..block.len().min(from + LINE)];
        let gap = line.windows(GAP).position(|bytes| bytes.iter().all(|byte| *byte == 0));
        let line = &line[..gap.unwrap_or(line.len())];
        write!(out, "{:x} ", at + from).unwrap();
        line.iter().for_each(|byte| write!(out, "{byte:02x}").unwrap());
        out.push('\n');
        from += line.len();
    }
}

/// Makes devices in memory that hold what the text says.
pub(crate) fn read(text: &str) -> Storage {
    let storage = Storage::memory();
    let mut device: Option<&Arc<dyn BlockDevice>> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (first, rest) = line.split_once(' ').unwrap();
        if first == "file" {
            let (name, len) = rest.split_once(' ').unwrap();
            let at = NAMES.iter().position(|known| *known == name).unwrap();
            let next = devices(&storage)[at];
            next.grow(len.parse().unwrap()).unwrap();
            device = Some(next);
            continue;
        }
        let bytes: Vec<u8> = (0..rest.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&rest[at..at + 2], 16).unwrap())
            .collect();
        let offset = u64::from_str_radix(first, 16).unwrap();
        device.unwrap().write_at(offset, &bytes).unwrap();
    }
    storage
}

#[test]
fn text_and_devices_are_the_same() {
    let storage = Storage {
        superblock: Arc::new(MemoryDevice::new()),
        journal: Arc::new(MemoryDevice::new()),
        data: Arc::new(MemoryDevice::new()),
    };
    devices(&storage).iter().for_each(|device| device.grow(1 << 20).unwrap());
    storage.superblock.write_at(0, b"at the beginning").unwrap();
    storage.journal.write_at((1 << 20) - 1, b"e").unwrap();
    let spread: Vec<u8> = (0..9000u32).map(|i| if i % 37 < 20 { i as u8 } else { 0 }).collect();
    storage.data.write_at(4000, &spread).unwrap();
    let text = write(&storage, "a comment\nof two lines");
    let back = read(&text);
    assert_eq!(write(&back, "a comment\nof two lines"), text);
    let mut bytes = vec![0; spread.len()];
    back.data.read_at(4000, &mut bytes).unwrap();
    assert_eq!(bytes, spread);
    let mut byte = [0];
    back.journal.read_at((1 << 20) - 1, &mut byte).unwrap();
    assert_eq!(byte, *b"e");
}
