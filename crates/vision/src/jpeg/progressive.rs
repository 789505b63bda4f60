//! Scans of progressive frames: T.81, annex G.

use super::bits::Bits;
use super::blocks::{Coefficients, Group, LANES, ZIGZAG};
use super::corrupt;
use super::huffman::Table;
use super::markers::Frame;
use super::scan::{Reader, Scan, missing_table};
use super::sequential::{too_large, too_many};
use crate::error::Result;

/// Reads a scan. Returns the bytes that it takes.
pub(super) fn read(
    all: &mut Coefficients,
    frame: &Frame,
    scan: &Scan,
    bits: Bits<'_>,
    interval: usize,
) -> Result<usize> {
    let ([first, last], [before, now]) = (scan.band, scan.bits);
    let dc = first == 0;
    let orderly = if dc { last == 0 } else { first <= last && last < 64 && scan.parts.len() == 1 };
    if !orderly || now > 13 || (before > 0 && before != now + 1) {
        return Err(corrupt("a progressive scan has a band or bits that no such scan may have"));
    }
    let mut reader = Reader::new(bits, interval);
    let band = Band { first, last, now: now.into() };
    for row in 0..scan.mcus[1] {
        for mcu in 0..scan.mcus[0] {
            reader.next_mcu()?;
            for (at, part) in scan.parts.iter().enumerate() {
                let [across, down] = part.blocks;
                let groups = frame.components[part.component].groups;
                for v in 0..down {
                    for column in mcu * across..(mcu + 1) * across {
                        let group = &mut all.0[part.component][(row * down + v) * groups + column / LANES];
                        let lane = column % LANES;
                        match (dc, before) {
                            (true, 0) => {
                                let table = part.dc.as_ref().ok_or_else(missing_table)?;
                                dc_first(&mut reader, at, table, now, &mut group.values[0][lane])?;
                            }
                            (true, _) => {
                                reader.bits.fill();
                                group.values[0][lane] |= (reader.bits.take(1) as i16) << now;
                            }
                            (false, 0) => {
                                let table = part.ac.as_ref().ok_or_else(missing_table)?;
                                band.first(&mut reader, table, group, lane)?;
                            }
                            (false, _) => {
                                let table = part.ac.as_ref().ok_or_else(missing_table)?;
                                band.refine(&mut reader, table, group, lane)?;
                            }
                        }
                    }
                }
            }
        }
        reader.bits.check()?;
    }
    Ok(reader.bits.marker())
}

/// T.81, G.1.2.1.
fn dc_first(reader: &mut Reader<'_>, part: usize, table: &Table, now: u8, value: &mut i16) -> Result<()> {
    reader.bits.fill();
    let size = u32::from(table.symbol(&mut reader.bits)?);
    if size > 15 {
        return Err(too_large());
    }
    let before = &mut reader.before[part];
    *before = before.wrapping_add(reader.bits.number(size));
    *value = (*before << now) as i16;
    Ok(())
}

/// The AC coefficients of a scan and the bit that it is about.
struct Band {
    first: usize,
    last: usize,
    now: u32,
}

impl Band {
    /// T.81, G.1.2.2: coefficients for the first time.
    fn first(&self, reader: &mut Reader<'_>, table: &Table, group: &mut Group, lane: usize) -> Result<()> {
        if reader.ended > 0 {
            reader.ended -= 1;
            return Ok(());
        }
        let mut at = self.first;
        while at <= self.last {
            reader.bits.fill();
            let symbol = table.symbol(&mut reader.bits)?;
            let (run, size) = (symbol >> 4, u32::from(symbol & 15));
            if size == 0 && run < 15 {
                reader.ended = (1 << run) + reader.bits.take(run.into()) - 1;
                break;
            }
            at += usize::from(run);
            let Some(&place) = ZIGZAG.get(at) else { return Err(too_many()) };
            group.values[usize::from(place & 63)][lane] = (reader.bits.number(size) << self.now) as i16;
            group.last = group.last.max(at as u8);
            at += 1;
        }
        Ok(())
    }

    /// T.81, G.1.2.3: one more bit of each coefficient.
    fn refine(&self, reader: &mut Reader<'_>, table: &Table, group: &mut Group, lane: usize) -> Result<()> {
        let step = 1i16 << self.now;
        let mut at = self.first;
        while reader.ended == 0 && at <= self.last {
            reader.bits.fill();
            let symbol = table.symbol(&mut reader.bits)?;
            let (mut zeros, mut value) = (usize::from(symbol >> 4), 0);
            match symbol & 15 {
                0 if zeros < 15 => {
                    // The rest of this block counts as one of the blocks that end.
                    reader.ended = (1 << zeros) + reader.bits.take(zeros as u32);
                    break;
                }
                0 => {}
                1 => value = if reader.bits.take(1) == 1 { step } else { -step },
                _ => return Err(corrupt("a refined coefficient has more than one bit")),
            }
            // Passes zeros, and on the way refines what is not zero.
            while at <= self.last {
                let coefficient = &mut group.values[usize::from(ZIGZAG[at] & 63)][lane];
                at += 1;
                if *coefficient != 0 {
                    refine(&mut reader.bits, coefficient, step);
                } else if zeros > 0 {
                    zeros -= 1;
                } else {
                    *coefficient = value;
                    group.last = group.last.max(at as u8 - 1);
                    break;
                }
            }
        }
        if reader.ended > 0 {
            for &place in &ZIGZAG[at..=self.last.max(at - 1)] {
                let coefficient = &mut group.values[usize::from(place & 63)][lane];
                if *coefficient != 0 {
                    refine(&mut reader.bits, coefficient, step);
                }
            }
            reader.ended -= 1;
        }
        Ok(())
    }
}

#[inline(always)]
fn refine(bits: &mut Bits<'_>, coefficient: &mut i16, step: i16) {
    bits.fill();
    if bits.take(1) == 1 && *coefficient & step == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient >= 0 { step } else { -step });
    }
}
