//! A scratch layer over a device: what is written stays in memory, and the device as it is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::device::{BlockDevice, Storage};

/// Unit in which the layer takes over from the device.
const PAGE: u64 = 4096;

#[derive(Debug)]
struct Overlay {
    below: Arc<dyn BlockDevice>,
    layer: Mutex<Layer>,
}

#[derive(Debug)]
struct Layer {
    len_bytes: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
}

/// Lays a layer over each device of a pool.
pub(super) fn over(storage: &Storage) -> Storage {
    let layer = |below: &Arc<dyn BlockDevice>| -> Arc<dyn BlockDevice> {
        let len_bytes = below.len_bytes().unwrap_or(0);
        let layer = Mutex::new(Layer { len_bytes, pages: BTreeMap::new() });
        Arc::new(Overlay { below: Arc::clone(below), layer })
    };
    Storage {
        superblock: layer(&storage.superblock),
        journal: layer(&storage.journal),
        data: layer(&storage.data),
    }
}

impl Overlay {
    /// Reads what lies in the device below; what is beyond its end is zeros.
    fn read_below(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = self.below.len_bytes()?;
        let inside = len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (there, beyond) = buf.split_at_mut(inside);
        beyond.fill(0);
        if there.is_empty() { Ok(()) } else { self.below.read_at(offset, there) }
    }
}

impl BlockDevice for Overlay {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let layer = self.layer.lock();
        let end = offset.saturating_add(buf.len() as u64);
        if end > layer.len_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_below(offset, buf)?;
        for (page, bytes) in layer.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let (from, to) = (offset.max(page * PAGE), end.min((page + 1) * PAGE));
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(
                &bytes[(from - page * PAGE) as usize..(to - page * PAGE) as usize],
            );
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut layer = self.layer.lock();
        let end = offset + bytes.len() as u64;
        layer.len_bytes = layer.len_bytes.max(end);
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let (from, to) = (offset.max(page * PAGE), end.min((page + 1) * PAGE));
            let content = match layer.pages.entry(page) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(vacant) => {
                    let mut fresh = Box::new([0; PAGE as usize]);
                    self.read_below(page * PAGE, fresh.as_mut_slice())?;
                    vacant.insert(fresh)
                }
            };
            content[(from - page * PAGE) as usize..(to - page * PAGE) as usize]
                .copy_from_slice(&bytes[(from - offset) as usize..(to - offset) as usize]);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// Nothing reads what has been given back.
    fn punch(&self, _offset: u64, _len_bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.layer.lock().len_bytes)
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        let mut layer = self.layer.lock();
        layer.len_bytes = layer.len_bytes.max(len_bytes);
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}
