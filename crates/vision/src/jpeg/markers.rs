//! Marker segments: T.81, annex B.

use super::blocks::ZIGZAG;
use super::huffman::Definition;
use super::{corrupt, unsupported};
use crate::error::Result;

/// The component parameters of a frame header (T.81, B.2.2), and what follows from them.
#[derive(Clone)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Horizontal and vertical sampling factors.
    pub(super) sampling: [usize; 2],
    table: u8,
    /// Width and height in samples.
    pub(super) size: [usize; 2],
    /// Groups of blocks in a row, and rows of blocks, of whole interleaved MCUs.
    pub(super) groups: usize,
    pub(super) rows: usize,
    /// Steps in natural order, as they are when the component's first scan begins.
    pub(super) quantization: Option<[u16; 64]>,
}

/// A frame header.
pub(super) struct Frame {
    pub(super) progressive: bool,
    pub(super) width: u16,
    pub(super) height: u16,
    /// Interleaved MCUs across and down.
    pub(super) mcus: [usize; 2],
    /// The largest sampling factors.
    pub(super) largest: [usize; 2],
    pub(super) components: Vec<Component>,
}

/// A scan header (T.81, B.2.3).
pub(super) struct ScanHeader {
    /// Per component its identifier and the numbers of its DC and AC tables.
    pub(super) components: Vec<(u8, [usize; 2])>,
    /// First and last coefficient in zigzag order.
    pub(super) band: [u8; 2],
    /// Lowest bit coded before (0 if none was), and now.
    pub(super) bits: [u8; 2],
}

pub(super) enum Segment {
    Frame(Frame),
    Scan(ScanHeader),
    End,
}

/// What an Adobe APP14 segment says of the colours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Adobe(pub(super) u8);

/// Goes through the segments of a file and keeps what tables and application data say.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
    quantization: [Option<[u16; 64]>; 4],
    /// DC and AC tables. Made ready only for scans that use them: a file can hold millions.
    pub(super) huffman: [[Option<Definition<'a>>; 4]; 2],
    /// MCUs between restart markers; 0 for none.
    pub(super) restart_interval: usize,
    pub(super) jfif: bool,
    pub(super) adobe: Option<Adobe>,
    pub(super) exif: Option<&'a [u8]>,
}

impl<'a> Segments<'a> {
    /// Starts behind the start-of-image marker.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 2,
            quantization: [None; 4],
            huffman: Default::default(),
            restart_interval: 0,
            jfif: false,
            adobe: None,
            exif: None,
        }
    }

    /// What lies behind the last segment.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Passes `count` bytes.
    pub(super) fn skip(&mut self, count: usize) {
        self.at += count;
    }

    /// Goes to the next frame, scan or the end.
    pub(super) fn next(&mut self) -> Result<Segment> {
        loop {
            let marker = self.marker()?;
            match marker {
                0xd9 => return Ok(Segment::End),
                0x01 | 0xd0..=0xd8 => continue,
                _ => {}
            }
            let segment = self.segment()?;
            match marker {
                0xc0..=0xc2 => return Ok(Segment::Frame(frame(segment, marker == 0xc2)?)),
                0xc3 => return Err(unsupported("lossless")),
                0xc5..=0xc7 => return Err(unsupported("hierarchical")),
                0xc9..=0xcb | 0xcd..=0xcf => return Err(unsupported("arithmetic coding")),
                0xc4 => self.huffman_tables(segment)?,
                0xdb => self.quantization_tables(segment)?,
                0xdd => match *segment {
                    [high, low] => self.restart_interval = u16::from_be_bytes([high, low]).into(),
                    _ => return Err(corrupt("its restart interval has a wrong length")),
                },
                0xda => return Ok(Segment::Scan(scan(segment)?)),
                0xe0 => self.jfif |= segment.starts_with(b"JFIF\0"),
                0xe1 if self.exif.is_none() => self.exif = segment.strip_prefix(b"Exif\0\0"),
                0xee if segment.len() >= 12 && segment.starts_with(b"Adobe") => {
                    self.adobe = Some(Adobe(segment[11]));
                }
                _ => {}
            }
        }
    }

    /// The next marker; bytes before it are passed, as libjpeg does.
    fn marker(&mut self) -> Result<u8> {
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let found = rest.iter().position(|&b| b == 0xff).ok_or_else(|| corrupt("a marker is missing"))?;
            self.at += found + 1;
            match self.bytes.get(self.at) {
                Some(0) => self.at += 1,
                Some(0xff) | None => {}
                Some(&marker) => {
                    self.at += 1;
                    return Ok(marker);
                }
            }
        }
    }

    fn segment(&mut self) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.first_chunk::<2>().map_or(0, |&length| usize::from(u16::from_be_bytes(length)));
        let segment = rest.get(2..length).ok_or_else(|| corrupt("a segment is longer than the file"))?;
        self.at += length;
        Ok(segment)
    }

    /// T.81, B.2.4.1.
    fn quantization_tables(&mut self, mut segment: &[u8]) -> Result<()> {
        let faulty = || corrupt("a quantization table is faulty");
        while let Some((&head, rest)) = segment.split_first() {
            let (wide, table) = (head >> 4, self.quantization.get_mut(usize::from(head & 15)));
            let length = if wide == 0 { 64 } else { 128 };
            let (Some(table), Some((values, rest))) = (table, rest.split_at_checked(length)) else {
                return Err(faulty());
            };
            let mut steps = [0; 64];
            for (at, &place) in ZIGZAG.iter().enumerate() {
                steps[usize::from(place)] = match wide {
                    0 => values[at].into(),
                    1 => u16::from_be_bytes([values[2 * at], values[2 * at + 1]]),
                    _ => return Err(faulty()),
                };
            }
            (*table, segment) = (Some(steps), rest);
        }
        Ok(())
    }

    /// T.81, B.2.4.2.
    fn huffman_tables(&mut self, mut segment: &'a [u8]) -> Result<()> {
        let faulty = || corrupt("a Huffman table is faulty");
        while let Some((&head, rest)) = segment.split_first() {
            let table = self.huffman.get_mut(usize::from(head >> 4));
            let table = table.and_then(|class| class.get_mut(usize::from(head & 15))).ok_or_else(faulty)?;
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or_else(faulty)?;
            let symbols = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(symbols).ok_or_else(faulty)?;
            *table = Some(Definition { counts, symbols });
            segment = rest;
        }
        Ok(())
    }

    /// The quantization table of a component.
    pub(super) fn quantization(&self, component: &Component) -> Result<[u16; 64]> {
        let table = self.quantization.get(usize::from(component.table)).copied().flatten();
        table.ok_or_else(|| corrupt("a quantization table is missing"))
    }
}

impl Frame {
    /// Blocks that a scan goes through; components that the frame has not are passed over.
    pub(super) fn blocks(&self, scan: &ScanHeader) -> u64 {
        let known = |&(id, _): &(u8, _)| self.components.iter().find(|component| component.id == id);
        let components: Vec<&Component> = scan.components.iter().filter_map(known).collect();
        let product = |lengths: [usize; 2]| lengths.iter().map(|&length| length as u64).product::<u64>();
        match components.as_slice() {
            // A scan of one component is not interleaved.
            [component] => product(component.size.map(|length| length.div_ceil(8))),
            several => several.iter().map(|c| product(c.sampling) * product(self.mcus)).sum(),
        }
    }
}

/// T.81, B.2.2.
pub(super) fn frame(segment: &[u8], progressive: bool) -> Result<Frame> {
    let faulty = || corrupt("its frame header is faulty");
    let Some((&[precision, h1, h0, w1, w0, count], rest)) = segment.split_first_chunk::<6>() else {
        return Err(faulty());
    };
    let (height, width) = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
    if precision != 8 {
        return Err(unsupported(format_args!("{precision} bits a sample")));
    }
    if !matches!(count, 1 | 3 | 4) {
        return Err(unsupported(format_args!("{count} components")));
    }
    let (parameters, rest) = rest.as_chunks::<3>();
    if width == 0 || height == 0 || parameters.len() != usize::from(count) || !rest.is_empty() {
        return Err(faulty());
    }
    let factors = |both: u8| [usize::from(both >> 4), usize::from(both & 15)];
    if parameters.iter().any(|&[_, both, _]| factors(both).iter().any(|factor| !(1..=4).contains(factor))) {
        return Err(faulty());
    }
    let largest =
        [0, 1].map(|axis| parameters.iter().map(|&[_, both, _]| factors(both)[axis]).max().unwrap_or(1));
    let lengths = [usize::from(width), usize::from(height)];
    let mcus = [0, 1].map(|axis| lengths[axis].div_ceil(8 * largest[axis]));
    let component = |&[id, both, table]: &[u8; 3]| {
        let sampling = factors(both);
        let size = [0, 1].map(|axis| (lengths[axis] * sampling[axis]).div_ceil(largest[axis]));
        let groups = (mcus[0] * sampling[0]).div_ceil(super::blocks::LANES);
        Component { id, sampling, table, size, groups, rows: mcus[1] * sampling[1], quantization: None }
    };
    let components: Vec<Component> = parameters.iter().map(component).collect();
    let fits = |c: &Component| [0, 1].iter().all(|&axis| largest[axis] % c.sampling[axis] == 0);
    if !components.iter().all(fits) {
        return Err(unsupported("sampling factors that do not divide each other"));
    }
    Ok(Frame { progressive, width, height, mcus, largest, components })
}

/// T.81, B.2.3.
pub(super) fn scan(segment: &[u8]) -> Result<ScanHeader> {
    let faulty = || corrupt("a scan header is faulty");
    let (&count, rest) = segment.split_first().ok_or_else(faulty)?;
    let (parameters, rest) = rest.split_at_checked(2 * usize::from(count)).ok_or_else(faulty)?;
    let &[first, last, bits] = rest else { return Err(faulty()) };
    let (parameters, _) = parameters.as_chunks::<2>();
    let components =
        parameters.iter().map(|&[id, tables]| (id, [tables >> 4, tables & 15].map(usize::from))).collect();
    Ok(ScanHeader { components, band: [first, last], bits: [bits >> 4, bits & 15] })
}
