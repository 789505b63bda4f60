use super::corrupt;
use crate::error::Result;

/// Bits of a scan's entropy-coded data (T.81, F.2.2.5), without the zero bytes that are stuffed behind 0xff.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, from the highest one on.
    window: u64,
    /// How many of them there are.
    count: u32,
    /// How many of these are zeros from behind the end of the data.
    made_up: u32,
}

impl<'a> Bits<'a> {
    /// Starts at the first byte behind a scan's header.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, window: 0, count: 0, made_up: 0 }
    }

    /// Provides for 32 bits.
    #[inline(always)]
    pub(super) fn fill(&mut self) {
        if self.count < 32 {
            self.refill();
        }
    }

    #[inline(always)]
    fn refill(&mut self) {
        if let Some(&next) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            let next = u64::from_be_bytes(next);
            // No byte is 0xff: those of the complement are none of them zero.
            if (!next).wrapping_sub(0x0101_0101_0101_0101) & next & 0x8080_8080_8080_8080 == 0 {
                let taken = (64 - self.count) / 8;
                self.window |= next >> self.count;
                self.at += taken as usize;
                self.count += taken * 8;
                // What was shifted in beyond the last whole byte comes again.
                self.window &= u64::MAX << (64 - self.count);
                return;
            }
        }
        self.refill_by_bytes();
    }

    #[cold]
    fn refill_by_bytes(&mut self) {
        while self.count <= 56 {
            let byte = match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (Some(0xff), _) | (None, _) => {
                    self.made_up += 8;
                    0
                }
                (Some(&byte), _) => {
                    self.at += 1;
                    byte
                }
            };
            self.window |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next `count` bits, of 1 to 32 that [`fill`](Self::fill) has provided for.
    #[inline(always)]
    pub(super) fn peek(&self, count: u32) -> u32 {
        (self.window >> (64 - count)) as u32
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.window <<= count;
        self.count = self.count.wrapping_sub(count);
    }

    /// The next `count` bits, 0 to 16.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let value = ((self.window >> 1) >> (63 - count)) as u32;
        self.skip(count);
        value
    }

    /// The number of `size` bits (0 to 15) that follows a code: T.81, F.2.2.1, `RECEIVE` and `EXTEND`.
    #[inline(always)]
    pub(super) fn number(&mut self, size: u32) -> i32 {
        extend(self.take(size), size)
    }

    /// Refuses data that ended before what was read of them.
    #[inline(always)]
    pub(super) fn check(&self) -> Result<()> {
        if self.count < self.made_up {
            return Err(corrupt("a scan ends early"));
        }
        Ok(())
    }

    /// Goes to the next marker, which must be restart marker `number` (0 to 7).
    pub(super) fn restart(&mut self, number: u8) -> Result<()> {
        self.check()?;
        let at = self.marker();
        match self.bytes.get(at + 1) {
            Some(&marker) if marker == 0xd0 + number => {
                *self = Self { at: at + 2, ..Self::new(self.bytes) };
                Ok(())
            }
            _ => Err(corrupt("a restart marker is missing or out of turn")),
        }
    }

    /// Where the marker behind the data begins. Bits that are left over are passed.
    pub(super) fn marker(&self) -> usize {
        let mut at = self.at;
        while let Some(found) = self.bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) {
            at += found;
            match self.bytes.get(at + 1) {
                Some(0) => at += 2,
                Some(0xff) => at += 1,
                _ => return at,
            }
        }
        self.bytes.len()
    }
}

/// T.81, table F.1: of `size` bits, the lower half stands for negative numbers.
#[inline(always)]
pub(super) fn extend(bits: u32, size: u32) -> i32 {
    let half = (1u32 << size) >> 1;
    if bits < half { bits as i32 - (1 << size) + 1 } else { bits as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffed_zeros_vanish_and_markers_end_the_data() {
        let bytes =
            [0x12, 0xff, 0, 0x34, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xff, 0, 0xab, 0xff, 0xd1, 0x77, 0xff, 0xd9];
        let mut bits = Bits::new(&bytes);
        let mut read = Vec::new();
        for _ in 0..14 {
            bits.fill();
            read.push(bits.take(8));
        }
        assert_eq!(read, [0x12, 0xff, 0x34, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xff, 0xab]);
        assert!(bits.check().is_ok());
        assert!(bits.restart(0).is_err());
        assert!(bits.restart(1).is_ok());
        bits.fill();
        assert_eq!(bits.take(8), 0x77);
        bits.fill();
        assert_eq!((bits.take(1), bits.check().is_err()), (0, true));
        assert_eq!(bits.marker(), 19);
    }

    #[test]
    fn numbers_are_those_of_table_f_1() {
        assert_eq!([extend(0, 0), extend(0, 1), extend(1, 1), extend(0, 2), extend(3, 2)], [0, -1, 1, -3, 3]);
        assert_eq!([extend(0, 15), extend(0x7fff, 15)], [-32767, 32767]);
    }
}
