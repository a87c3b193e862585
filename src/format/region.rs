//! The region record: which blocks of 128 MiB of the data file are in use.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | kind: 0 all free, 1 all in use, 2 bitmap |
//! | 1 | 1 | class: 0 none, 1 data, 2 nodes; a hint for the allocator; 0 when all free |
//! | 2 | 2 | zero |
//! | 4 | 4 | number of blocks in use |
//! | 8 | 8 | zero |
//! | 16 | 4096 | for kind 2: 512 words of 64 bits; bit `b` of word `w` is block `64 w + b` of the region |
//!
//! The encoding is canonical: a bitmap with no bit or with every bit set is refused, and so is one
//! whose bits do not add up to the count.

use super::bytes::{DecodeError, Decoder, Encoder};
use super::ids::BlockNo;

/// Blocks that one region covers: 128 MiB.
pub const REGION_BLOCKS: u32 = 32768;
/// 64-bit words in a region's bitmap.
pub const REGION_WORDS: usize = REGION_BLOCKS as usize / 64;
/// Longest encoded region record.
pub const MAX_REGION_RECORD: usize = HEADER_BYTES + REGION_WORDS * 8;

const HEADER_BYTES: usize = 16;
const KIND_ALL_FREE: u8 = 0;
const KIND_ALL_USED: u8 = 1;
const KIND_BITMAP: u8 = 2;

const _: () = assert!(MAX_REGION_RECORD <= super::MAX_VALUE);

/// Returns the region that holds `block`, and the block's place in it.
pub fn region_of(block: BlockNo) -> (u32, u32) {
    let blocks = u64::from(REGION_BLOCKS);
    // A block number is below MAX_BLOCKS = 2^51, so a region number is below 2^36; pools stay below
    // 2^32 regions (512 PiB), and one beyond maps to a region that no pool has.
    (u32::try_from(block.0 / blocks).unwrap_or(u32::MAX), (block.0 % blocks) as u32)
}

/// What a region's blocks are mostly used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RegionClass {
    /// Contents of files.
    Data = 1,
    /// Nodes of the trees.
    Node = 2,
}

/// One bit for each block of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: [u64; REGION_WORDS],
}

/// Yields (word, mask) for the `len` bits from `first` on.
#[inline]
fn masks(first: u32, len: u32) -> impl Iterator<Item = (usize, u64)> {
    let end = first + len;
    (first / 64..end.div_ceil(64)).map(move |word| {
        let low = first.saturating_sub(word * 64);
        let high = (end - word * 64).min(64);
        (word as usize, (!0 << low) & (!0 >> (64 - high)))
    })
}

impl Bitmap {
    /// No bit set.
    pub const EMPTY: Bitmap = Bitmap { words: [0; REGION_WORDS] };
    /// Every bit set.
    pub const FULL: Bitmap = Bitmap { words: [!0; REGION_WORDS] };

    /// The words; bit `b` of word `w` is block `64 w + b`.
    #[inline]
    pub fn words(&self) -> &[u64; REGION_WORDS] {
        &self.words
    }

    /// Gives every bit the same value.
    pub fn fill(&mut self, value: bool) {
        self.words.fill(if value { !0 } else { 0 });
    }

    /// Gives the `len` bits from `first` on the same value; returns how many changed.
    ///
    /// Bits beyond the region are ignored.
    #[inline]
    pub fn write(&mut self, first: u32, len: u32, value: bool) -> u32 {
        let mut changed = 0;
        for (at, mask) in masks(first, len) {
            let Some(word) = self.words.get_mut(at) else { break };
            let new = if value { *word | mask } else { *word & !mask };
            changed += (*word ^ new).count_ones();
            *word = new;
        }
        changed
    }

    /// Says whether the `len` bits from `first` on all have `value`; bits beyond have none.
    #[inline]
    pub fn all(&self, first: u32, len: u32, value: bool) -> bool {
        let wanted = if value { !0u64 } else { 0 };
        masks(first, len)
            .all(|(at, mask)| self.words.get(at).is_some_and(|word| (word ^ wanted) & mask == 0))
    }

    /// Returns the bits that are set here and not in `other`.
    pub fn without(&self, other: &Bitmap) -> Bitmap {
        let mut bits = self.clone();
        for (word, other) in bits.words.iter_mut().zip(&other.words) {
            *word &= !other;
        }
        bits
    }

    /// Returns the number of bits set.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
}

/// Which blocks of a region are in use, as a checkpoint keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionImage {
    class: Option<RegionClass>,
    used: u32,
    /// Absent when no block or every block is in use.
    bitmap: Option<Box<Bitmap>>,
}

impl RegionImage {
    /// The image of a region without a block in use; a region that has no record is this.
    pub const ALL_FREE: RegionImage = RegionImage { class: None, used: 0, bitmap: None };

    /// Makes the image with the bits of `bitmap`.
    pub fn from_bitmap(class: Option<RegionClass>, bitmap: Box<Bitmap>) -> RegionImage {
        let mut image = RegionImage { class, used: bitmap.count(), bitmap: Some(bitmap) };
        image.normalise();
        image
    }

    /// Makes the image of a region with every block in use.
    pub fn all_used(class: Option<RegionClass>) -> RegionImage {
        RegionImage { class, used: REGION_BLOCKS, bitmap: None }
    }

    /// Returns what the region is mostly used for, if that is known.
    pub fn class(&self) -> Option<RegionClass> {
        self.class
    }

    /// Returns the number of blocks in use.
    pub fn used_blocks(&self) -> u32 {
        self.used
    }

    /// Returns the bits.
    pub fn bitmap(&self) -> &Bitmap {
        match &self.bitmap {
            Some(bitmap) => bitmap,
            None if self.used == 0 => &Bitmap::EMPTY,
            None => &Bitmap::FULL,
        }
    }

    /// Marks the `len` blocks from `first` (counted from the region's start) as in use; returns how
    /// many were not yet.
    pub fn set(&mut self, first: u32, len: u32) -> u32 {
        self.write(first, len, true)
    }

    /// Marks the `len` blocks from `first` (counted from the region's start) as free; returns how
    /// many were in use.
    pub fn clear(&mut self, first: u32, len: u32) -> u32 {
        self.write(first, len, false)
    }

    fn write(&mut self, first: u32, len: u32, value: bool) -> u32 {
        let mut bitmap = self.bitmap.take().unwrap_or_else(|| Box::new(self.bitmap().clone()));
        let changed = bitmap.write(first, len, value);
        self.used = if value { self.used + changed } else { self.used - changed };
        self.bitmap = Some(bitmap);
        self.normalise();
        changed
    }

    fn normalise(&mut self) {
        if self.used == 0 {
            self.class = None;
        }
        if self.used == 0 || self.used == REGION_BLOCKS {
            self.bitmap = None;
        }
    }

    /// Returns the record's bytes, at most [`MAX_REGION_RECORD`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let kind = match (&self.bitmap, self.used) {
            (Some(_), _) => KIND_BITMAP,
            (None, 0) => KIND_ALL_FREE,
            (None, _) => KIND_ALL_USED,
        };
        let mut out = Encoder::new();
        out.u8(kind).u8(self.class.map_or(0, |class| class as u8)).u16(0).u32(self.used).u64(0);
        for word in self.bitmap.iter().flat_map(|bitmap| bitmap.words()) {
            out.u64(*word);
        }
        out.0
    }

    /// Decodes one record that takes all of `bytes`.
    ///
    /// # Errors
    /// A field that is short, unknown, not zero where it must be, or not canonical.
    pub fn decode(bytes: &[u8]) -> Result<RegionImage, DecodeError> {
        let mut d = Decoder::new("region", bytes);
        let kind = d.u8("kind")?;
        let class = match d.u8("class")? {
            0 => None,
            1 => Some(RegionClass::Data),
            2 => Some(RegionClass::Node),
            _ => return Err(d.error("class")),
        };
        if d.u16("reserved")? != 0 {
            return Err(d.error("reserved"));
        }
        let used = d.u32("count")?;
        if d.u64("reserved")? != 0 {
            return Err(d.error("reserved"));
        }
        let bitmap = match (kind, used, class) {
            (KIND_ALL_FREE, 0, None) | (KIND_ALL_USED, REGION_BLOCKS, _) => None,
            (KIND_BITMAP, 1.., _) if used < REGION_BLOCKS => {
                let mut bitmap = Box::new(Bitmap::EMPTY);
                for word in &mut bitmap.words {
                    *word = d.u64("bitmap")?;
                }
                if bitmap.count() != used {
                    return Err(d.error("count"));
                }
                Some(bitmap)
            }
            _ => return Err(d.error("kind")),
        };
        d.finish()?;
        Ok(RegionImage { class, used, bitmap })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round(image: &RegionImage) -> usize {
        let bytes = image.to_bytes();
        assert_eq!(&RegionImage::decode(&bytes).unwrap(), image);
        bytes.len()
    }

    #[test]
    fn encodes_whole_regions_without_a_bitmap() {
        let mut image = RegionImage::ALL_FREE;
        assert_eq!(round(&image), 16);
        assert_eq!(image.set(5, 100), 100);
        assert_eq!(image.set(0, 10), 5);
        assert_eq!(round(&image), MAX_REGION_RECORD);
        assert_eq!(image.set(0, REGION_BLOCKS), REGION_BLOCKS - 105);
        assert_eq!(image, RegionImage::all_used(None));
        assert_eq!(round(&image), 16);
        assert_eq!(image.clear(63, 2), 2);
        assert_eq!(image.bitmap().words()[0], !0 >> 1);
        assert_eq!(image.bitmap().words()[1], !1);
        assert_eq!(image.clear(0, REGION_BLOCKS), REGION_BLOCKS - 2);
        assert_eq!(image, RegionImage::ALL_FREE);
    }

    #[test]
    fn keeps_the_class_until_all_is_free() {
        let mut bitmap = Box::new(Bitmap::EMPTY);
        bitmap.write(7, 1, true);
        let mut image = RegionImage::from_bitmap(Some(RegionClass::Node), bitmap);
        round(&image);
        assert_eq!(image.class(), Some(RegionClass::Node));
        image.clear(7, 1);
        assert_eq!(image.class(), None);
    }

    #[test]
    fn refuses_what_is_not_canonical() {
        let mut image = RegionImage::ALL_FREE;
        image.set(1, 3);
        let good = image.to_bytes();
        for (at, value) in [(0, 0), (0, 1), (0, 3), (1, 3), (2, 1), (4, 4), (9, 1), (16, 0)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(RegionImage::decode(&bad).is_err(), "byte {at} = {value}");
        }
        for len in 0..good.len() {
            assert!(RegionImage::decode(&good[..len]).is_err());
        }
        let mut long = good;
        long.push(0);
        assert!(RegionImage::decode(&long).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_an_error_or_to_themselves(
            header in prop::collection::vec(0u8..4, 0..20), tail in any::<u8>(), long in any::<bool>()
        ) {
            let mut bytes = header;
            if long {
                bytes.resize(MAX_REGION_RECORD, tail);
            }
            if let Ok(image) = RegionImage::decode(&bytes) {
                prop_assert_eq!(image.to_bytes(), bytes);
            }
        }

        #[test]
        fn images_follow_a_plain_array(
            writes in prop::collection::vec((0..REGION_BLOCKS, 1u32..9000, any::<bool>()), 1..20)
        ) {
            let mut image = RegionImage::ALL_FREE;
            let mut model = vec![false; REGION_BLOCKS as usize];
            for (first, len, value) in writes {
                let len = len.min(REGION_BLOCKS - first);
                let part = &mut model[first as usize..(first + len) as usize];
                let expected = part.iter().filter(|bit| **bit != value).count();
                part.fill(value);
                let changed = if value { image.set(first, len) } else { image.clear(first, len) };
                prop_assert_eq!(changed as usize, expected);
                prop_assert!(image.bitmap().all(first, len, value));
            }
            for (at, bit) in model.iter().enumerate() {
                prop_assert!(image.bitmap().all(at as u32, 1, *bit));
            }
            prop_assert_eq!(image.used_blocks() as usize, model.iter().filter(|b| **b).count());
            round(&image);
        }
    }
}
