use super::bits::Bits;
use super::corrupt;
use super::huffman::Table;
use super::markers::{Frame, ScanHeader, Segments};
use crate::error::Result;

/// A component's part in a scan.
pub(super) struct Part {
    /// The component's place in the frame.
    pub(super) component: usize,
    /// Its blocks in an MCU, across and down (T.81, A.2).
    pub(super) blocks: [usize; 2],
    pub(super) dc: Option<Table>,
    pub(super) ac: Option<Table>,
}

/// A scan of a frame.
pub(super) struct Scan {
    pub(super) parts: Vec<Part>,
    /// MCUs across and down.
    pub(super) mcus: [usize; 2],
    /// First and last coefficient in zigzag order.
    pub(super) band: [usize; 2],
    /// Lowest bit coded before (0 if none was), and now.
    pub(super) bits: [u8; 2],
}

impl Scan {
    /// Finds a scan's components and tables. Components whose first scan this is get their quantization tables.
    pub(super) fn new(header: ScanHeader, frame: &mut Frame, segments: &Segments<'_>) -> Result<Self> {
        let mut parts: Vec<Part> = Vec::new();
        for (id, [dc, ac]) in header.components {
            let component = frame.components.iter().position(|component| component.id == id);
            let component =
                component.ok_or_else(|| corrupt("a scan is of a component that the frame has not"))?;
            if parts.iter().any(|part| part.component == component) {
                return Err(corrupt("a scan has a component twice"));
            }
            let found = &mut frame.components[component];
            if found.quantization.is_none() {
                found.quantization = Some(segments.quantization(found)?);
            }
            let table = |class: usize, at: usize| {
                let defined = segments.huffman[class].get(at).copied().flatten();
                defined.map(Table::new).transpose()
            };
            parts.push(Part { component, blocks: found.sampling, dc: table(0, dc)?, ac: table(1, ac)? });
        }
        let mcus = match parts.as_mut_slice() {
            [] => return Err(corrupt("a scan has no components")),
            // A scan of one component is not interleaved: its MCU is a block.
            [part] => {
                part.blocks = [1, 1];
                frame.components[part.component].size.map(|length| length.div_ceil(8))
            }
            _ => frame.mcus,
        };
        Ok(Self { parts, mcus, band: header.band.map(usize::from), bits: header.bits })
    }
}

/// The bits of a scan and where it stands between its restart markers.
pub(super) struct Reader<'a> {
    pub(super) bits: Bits<'a>,
    /// By part: the DC coefficient before.
    pub(super) before: [i32; 4],
    /// Blocks of a progressive scan that end here already.
    pub(super) ended: u32,
    interval: usize,
    left: usize,
    number: u8,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bits: Bits<'a>, interval: usize) -> Self {
        Self { bits, before: [0; 4], ended: 0, interval, left: interval, number: 0 }
    }

    /// To be called before every MCU.
    #[inline(always)]
    pub(super) fn next_mcu(&mut self) -> Result<()> {
        if self.interval > 0 {
            if self.left == 0 {
                self.bits.restart(self.number)?;
                self.number = (self.number + 1) % 8;
                (self.before, self.ended, self.left) = ([0; 4], 0, self.interval);
            }
            self.left -= 1;
        }
        Ok(())
    }
}

pub(super) fn missing_table() -> crate::error::Error {
    corrupt("a Huffman table is missing")
}
