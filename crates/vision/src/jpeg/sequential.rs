//! Scans of sequential frames: T.81, annex F.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::bits::Bits;
use super::blocks::{Coefficients, Group, LANES, ZIGZAG};
use super::huffman::{END, Table};
use super::markers::Frame;
use super::planes::Planes;
use super::scan::{Reader, Scan, missing_table};
use super::{corrupt, idct};
use crate::error::Result;

/// Rows of MCUs that are transformed together.
const BAND: usize = 4;
/// Bands that may wait for their transform.
const WAITING: usize = 16;

/// A component's share in a scan, with its tables at hand.
struct Part<'a> {
    dc: &'a Table,
    ac: &'a Table,
    blocks: [usize; 2],
    /// Groups in a row of the component's blocks.
    groups: usize,
}

fn parts<'a>(frame: &Frame, scan: &'a Scan) -> Result<Vec<Part<'a>>> {
    let part = |part: &'a super::scan::Part| {
        let (Some(dc), Some(ac)) = (&part.dc, &part.ac) else { return Err(missing_table()) };
        Ok(Part { dc, ac, blocks: part.blocks, groups: frame.components[part.component].groups })
    };
    scan.parts.iter().map(part).collect()
}

/// Reads a frame whose components are all in one scan, and transforms beside the reading what was read.
pub(super) fn read_whole(frame: Frame, scan: &Scan, bits: Bits<'_>, interval: usize) -> Result<Planes> {
    // Scans may name the components in another order than frames; `parts` and so the bands follow the scan.
    let order: Vec<usize> = scan.parts.iter().map(|part| part.component).collect();
    let parts = parts(&frame, scan)?;
    let rows: Vec<usize> = scan.parts.iter().map(|part| part.blocks[1]).collect();
    let mut planes: Vec<Vec<u8>> = order.iter().map(|&at| Planes::empty(&frame.components[at])).collect();
    let steps: Vec<[i16; 64]> = order.iter().map(|&at| idct::steps(&frame.components[at])).collect();
    let mut places: Vec<_> = planes
        .iter_mut()
        .zip(parts.iter().zip(&rows))
        .map(|(plane, (part, rows))| plane.chunks_mut(BAND * rows * part.groups * 64 * LANES))
        .collect();
    let groups: Vec<usize> = parts.iter().map(|part| part.groups).collect();
    let empty = || -> Vec<Vec<Group>> {
        parts.iter().zip(&rows).map(|(part, rows)| vec![Group::ZERO; BAND * rows * part.groups]).collect()
    };
    let spare: Mutex<Vec<Vec<Vec<Group>>>> = Mutex::new(Vec::new());
    let spares = || spare.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting = AtomicUsize::new(0);
    let mut reader = Reader::new(bits, interval);
    rayon::scope(|scope| -> Result<()> {
        for first in (0..scan.mcus[1]).step_by(BAND) {
            let mut band = spares().pop().unwrap_or_else(empty);
            let count = BAND.min(scan.mcus[1] - first);
            for row in 0..count {
                read_row(&mut reader, &parts, row, scan.mcus[0], &mut band)?;
            }
            let mut out: Vec<&mut [u8]> = places.iter_mut().filter_map(Iterator::next).collect();
            let transform = {
                let (steps, groups, spares, waiting) = (&steps, &groups, &spares, &waiting);
                move || {
                    for (((out, band), steps), &groups) in
                        out.iter_mut().zip(&mut band).zip(steps).zip(groups)
                    {
                        idct::transform_and_clear(band, groups, steps, out);
                    }
                    spares().push(band);
                    waiting.fetch_sub(1, Ordering::Relaxed);
                }
            };
            if waiting.fetch_add(1, Ordering::Relaxed) < WAITING {
                scope.spawn(|_| transform());
            } else {
                transform();
            }
        }
        Ok(())
    })?;
    drop(places);
    // Back into the order of the frame.
    let mut ordered: Vec<Vec<u8>> = vec![Vec::new(); frame.components.len()];
    order.iter().zip(planes).for_each(|(&at, plane)| ordered[at] = plane);
    Ok(Planes { frame, planes: ordered })
}

/// Reads a scan of some of a frame's components. Returns the bytes that it takes.
pub(super) fn read_part(
    all: &mut Coefficients,
    frame: &Frame,
    scan: &Scan,
    bits: Bits<'_>,
    interval: usize,
) -> Result<usize> {
    let parts = parts(frame, scan)?;
    let mut reader = Reader::new(bits, interval);
    let mut groups: Vec<Vec<Group>> =
        scan.parts.iter().map(|part| std::mem::take(&mut all.0[part.component])).collect();
    for row in 0..scan.mcus[1] {
        read_row(&mut reader, &parts, row, scan.mcus[0], &mut groups)?;
    }
    scan.parts.iter().zip(groups).for_each(|(part, groups)| all.0[part.component] = groups);
    Ok(reader.bits.marker())
}

/// Reads the `row`-th row of MCUs into the groups of each part.
fn read_row(
    reader: &mut Reader<'_>,
    parts: &[Part<'_>],
    row: usize,
    mcus: usize,
    groups: &mut [Vec<Group>],
) -> Result<()> {
    for mcu in 0..mcus {
        reader.next_mcu()?;
        for (at, (part, groups)) in parts.iter().zip(&mut *groups).enumerate() {
            let [across, down] = part.blocks;
            for v in 0..down {
                let start = (row * down + v) * part.groups;
                for column in mcu * across..(mcu + 1) * across {
                    let group = &mut groups[start + column / LANES];
                    let before = &mut reader.before[at];
                    read_block(&mut reader.bits, part.dc, part.ac, before, group, column % LANES)?;
                }
            }
        }
    }
    reader.bits.check()
}

/// T.81, F.2.2.
#[inline(always)]
fn read_block(
    bits: &mut Bits<'_>,
    dc: &Table,
    ac: &Table,
    before: &mut i32,
    group: &mut Group,
    lane: usize,
) -> Result<()> {
    bits.fill();
    let size = u32::from(dc.symbol(bits)?);
    if size > 15 {
        return Err(too_large());
    }
    *before = before.wrapping_add(bits.number(size));
    group.values[0][lane] = *before as i16;
    let (mut at, mut last) = (1, 0);
    while at < 64 {
        bits.fill();
        let whole = ac.whole(bits);
        let (run, value) = if whole.length != 0 {
            bits.skip(whole.length.into());
            (whole.run, whole.value)
        } else {
            let symbol = ac.symbol(bits)?;
            let (run, size) = (symbol >> 4, u32::from(symbol & 15));
            if size == 0 && run < 15 { (END, 0) } else { (run, bits.number(size) as i16) }
        };
        if run == END {
            break;
        }
        at += usize::from(run);
        let Some(&place) = ZIGZAG.get(at) else { return Err(too_many()) };
        // A run of 16 zeros comes as 15 and a zero.
        group.values[usize::from(place & 63)][lane] = value;
        last = at;
        at += 1;
    }
    group.last = group.last.max(last as u8);
    Ok(())
}

pub(super) fn too_many() -> crate::error::Error {
    corrupt("a block has more than 64 coefficients")
}

pub(super) fn too_large() -> crate::error::Error {
    corrupt("a coefficient has more than 15 bits")
}
