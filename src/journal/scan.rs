//! Formatting a journal, and reading what a crash has left in one.

use std::io;
use std::ops::Range;

use super::{Error, FRAME_ALIGN, Position, Records, check_length, place};
use crate::device::BlockDevice;
use crate::format::{FRAME_HEADER, FrameHeader, MAX_RECORD, Seq, frame_bytes};

/// Largest sequence number of a tail: far above what can be reached, far below overflow.
const MAX_SEQ: u64 = 1 << 62;

/// Bytes that a scan reads first; each time after that twice as many, up to [`MAX_RECORD`].
const MIN_WINDOW: usize = 32 << 10;

/// What a scan has found.
pub(super) struct Found {
    /// Payloads of all records from the tail on.
    pub(super) records: Records,
    /// Where the next record goes.
    pub(super) next: Position,
    /// Bytes from the tail to there.
    pub(super) used_bytes: u64,
}

/// Writes zeros through the whole device, so that a later sync finds every block allocated and
/// never makes the host commit metadata of its own; then syncs.
pub(super) fn format(device: &dyn BlockDevice, len_bytes: u64) -> Result<Position, Error> {
    check_length(len_bytes)?;
    let found = device.len_bytes().map_err(Error::io("measure"))?;
    if found > len_bytes {
        return Err(Error::Length(found));
    }
    device.grow(len_bytes).map_err(Error::io("extend"))?;
    let zeros = vec![0; MAX_RECORD];
    let mut at = 0;
    while at < len_bytes {
        let step = (len_bytes - at).min(zeros.len() as u64);
        device.write_at(at, &zeros[..step as usize]).map_err(Error::io("clear"))?;
        at += step;
    }
    device.sync().map_err(Error::io("sync"))?;
    Ok(Position::START)
}

/// Reads the records from `tail` on, up to the first frame that is not the next one.
///
/// A read error is an error: to take it for the end would drop what was promised to be durable.
pub(super) fn scan(
    device: &dyn BlockDevice,
    len_bytes: u64,
    salt: u32,
    tail: Position,
) -> Result<Found, Error> {
    let aligned = tail.offset.is_multiple_of(FRAME_ALIGN as u64);
    if tail.offset >= len_bytes || !aligned || !(1..=MAX_SEQ).contains(&tail.seq.0) {
        return Err(Error::Tail { offset: tail.offset, seq: tail.seq, len_bytes });
    }
    let mut window =
        Window { device, len_bytes, start: 0, bytes: Vec::new(), next_bytes: MIN_WINDOW };
    let mut found = Found { records: Vec::new(), next: tail, used_bytes: 0 };
    let limit = len_bytes - FRAME_ALIGN as u64;
    while let Some(frame) = window.next_frame(salt, found.next).map_err(Error::io("read"))? {
        if found.used_bytes + frame.span_bytes > limit {
            break; // It would reach the tail: no record of ours (invariant 2).
        }
        found.used_bytes += frame.span_bytes;
        found.records.push((found.next.seq, frame.payload.to_vec()));
        let seq = Seq(found.next.seq.0 + 1);
        found.next = Position { offset: frame.end % len_bytes, seq, chain: frame.checksum };
    }
    Ok(found)
}

/// Takes away the header of a torn record that stands where the next one goes, durably.
///
/// Otherwise a later write, torn too, could bring the very bytes that the old record lacks, and bring it back
/// with all that follows it.
pub(super) fn bury(device: &dyn BlockDevice, len_bytes: u64, next: Position) -> io::Result<()> {
    let mut buried = false;
    // A place that is in use begins with a record of another number.
    for at in [next.offset, 0] {
        let mut header = [0; FRAME_HEADER];
        if at + FRAME_HEADER as u64 > len_bytes {
            continue;
        }
        device.read_at(at, &mut header)?;
        let Ok((found, _)) = FrameHeader::decode(&header) else { continue };
        let frame = frame_bytes(found.payload_bytes as usize) as u64;
        let fits = place(next.offset, frame, len_bytes).0 == at;
        if fits && (found.seq, found.chain) == (next.seq, next.chain) {
            device.write_at(at, &[0; FRAME_HEADER])?;
            buried = true;
        }
    }
    if buried { device.sync() } else { Ok(()) }
}

/// A valid frame.
struct Frame<'a> {
    payload: &'a [u8],
    checksum: u32,
    end: u64,
    /// Bytes from the position to the frame's end.
    span_bytes: u64,
}

/// A part of the device in memory, so that short records don't cost a read each.
struct Window<'a> {
    device: &'a dyn BlockDevice,
    len_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
    /// As much is read next: a short tail costs little, and a long one few reads.
    next_bytes: usize,
}

impl Window<'_> {
    /// Returns the record that `expected` describes, if it is there.
    fn next_frame(&mut self, salt: u32, expected: Position) -> io::Result<Option<Frame<'_>>> {
        // The writer puts a frame at 0 only if it does not fit at the offset; the chain makes sure
        // that at most one of the two places holds the record.
        for at in [expected.offset, 0] {
            if let Some((payload, checksum)) = self.check(at, salt, expected)? {
                let frame = frame_bytes(payload.len()) as u64;
                let skipped = place(expected.offset, frame, self.len_bytes).1;
                let (end, span_bytes) = (at + frame, skipped + frame);
                let payload = &self.bytes[payload];
                return Ok(Some(Frame { payload, checksum, end, span_bytes }));
            }
        }
        Ok(None)
    }

    /// Returns where the payload stands in `bytes`, and the frame's checksum, if a frame at `at`
    /// is what `expected` describes.
    fn check(
        &mut self,
        at: u64,
        salt: u32,
        expected: Position,
    ) -> io::Result<Option<(Range<usize>, u32)>> {
        let Some(start) = self.load(at, FRAME_HEADER)? else { return Ok(None) };
        let Ok((header, checksum)) = FrameHeader::decode(&self.bytes[start..]) else {
            return Ok(None);
        };
        let payload_bytes = header.payload_bytes as usize;
        let frame = frame_bytes(payload_bytes);
        if (header.seq, header.chain) != (expected.seq, expected.chain)
            || place(expected.offset, frame as u64, self.len_bytes).0 != at
        {
            return Ok(None);
        }
        let Some(start) = self.load(at, frame)? else { return Ok(None) };
        let payload = start + FRAME_HEADER..start + FRAME_HEADER + payload_bytes;
        let valid = header.checksum(salt, &self.bytes[payload.clone()]) == checksum;
        Ok(valid.then_some((payload, checksum)))
    }

    /// Makes `len` bytes at `at` available; returns their place in `bytes`, None past the end.
    fn load(&mut self, at: u64, len: usize) -> io::Result<Option<usize>> {
        let end = at + len as u64;
        if end > self.len_bytes {
            return Ok(None);
        }
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            let want = (self.len_bytes - at).min(len.max(self.next_bytes) as u64);
            self.next_bytes = MAX_RECORD.min(self.next_bytes * 2);
            self.bytes.resize(want as usize, 0);
            self.start = at;
            self.device.read_at(at, &mut self.bytes)?;
        }
        Ok(Some((at - self.start) as usize))
    }
}
