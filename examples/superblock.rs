//! Prints the superblock of a pool: what each of its two slots says.
//!
//!     cargo run --example superblock POOL
//!
//! It only reads, and works on a pool that is in use, too; a slot that is being written may show as damaged.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use amberfs::format::{BLOCK_SIZE, SLOT_OFFSETS, SLOT_SIZE, Superblock};

fn main() -> Result<(), Box<dyn Error>> {
    let pool = std::env::args_os().nth(1).ok_or("usage: superblock POOL")?;
    run(Path::new(&pool), &mut std::io::stdout().lock())
}

pub(crate) fn run(pool: &Path, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let path = pool.join("superblock");
    let mut file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    for (slot, offset) in SLOT_OFFSETS.into_iter().enumerate() {
        let mut bytes = vec![0; SLOT_SIZE];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes)?;
        match Superblock::decode(&bytes) {
            Ok(superblock) => print(slot, &superblock, out)?,
            Err(error) => writeln!(out, "slot {slot}: {error}")?,
        }
    }
    Ok(())
}

fn print(slot: usize, superblock: &Superblock, out: &mut dyn Write) -> std::io::Result<()> {
    let uuid: String = superblock.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(out, "slot {slot}")?;
    writeln!(out, "  pool          {uuid}")?;
    writeln!(out, "  created       {} s since 1970", superblock.created.sec)?;
    writeln!(out, "  generation    {}", superblock.generation)?;
    writeln!(out, "  size          {} bytes", superblock.total_blocks * BLOCK_SIZE as u64)?;
    writeln!(out, "  journal       {} bytes", superblock.journal_bytes)?;
    let (offset, seq) = (superblock.tail_offset, superblock.tail_seq);
    writeln!(out, "  journal tail  record {seq} at byte {offset}")?;
    writeln!(out, "  epoch         {}", superblock.epoch)?;
    let root = &superblock.root;
    writeln!(out, "  tree          {} nodes, root at block {}", root.nodes, root.ptr.addr)?;
    writeln!(out, "  root hash     {}", root.ptr.hash)
}
