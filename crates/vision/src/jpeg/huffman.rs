use super::bits::{Bits, extend};
use super::corrupt;
use crate::error::Result;

/// Bits that are looked up at once.
const LOOKED_UP: u32 = 10;

/// A Huffman table as a file holds it (T.81, B.2.4.2).
#[derive(Clone, Copy)]
pub(super) struct Definition<'a> {
    /// Codes of each length.
    pub(super) counts: &'a [u8; 16],
    /// Their symbols, in order.
    pub(super) symbols: &'a [u8],
}

/// A Huffman table (T.81, C.2 and F.2.2.3).
pub(super) struct Table {
    /// By the next bits: the code's length and its symbol; length 0 for longer codes.
    codes: Box<[(u8, u8); 1 << LOOKED_UP]>,
    /// By the next bits, where these hold both a code and the number that follows it.
    whole: Box<[Whole; 1 << LOOKED_UP]>,
    /// For each length from 1 to 16 the first number that no code of at most this length begins, in 16 bits.
    ends: [u32; 16],
    /// What to add to a code of each length for its symbol's place.
    places: [i32; 16],
    symbols: Vec<u8>,
}

/// A run of zeros and the coefficient behind it.
#[derive(Clone, Copy, Default)]
pub(super) struct Whole {
    pub(super) value: i16,
    /// Zeros before it; [`END`] at the end of the block.
    pub(super) run: u8,
    /// Bits of code and number; 0 if they are not known.
    pub(super) length: u8,
}

/// The run of a block's end.
pub(super) const END: u8 = 64;

impl Table {
    /// Makes a table ready; refuses more codes than there are bits for.
    pub(super) fn new(Definition { counts, symbols }: Definition<'_>) -> Result<Self> {
        let mut table = Self {
            codes: Box::new([(0, 0); 1 << LOOKED_UP]),
            whole: Box::new([Whole::default(); 1 << LOOKED_UP]),
            ends: [0; 16],
            places: [0; 16],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut at) = (0u32, 0usize);
        for (length, &count) in (1..=16u32).zip(counts) {
            table.places[length as usize - 1] = at as i32 - code as i32;
            for _ in 0..count {
                let &symbol =
                    symbols.get(at).ok_or_else(|| corrupt("a Huffman table has fewer symbols than codes"))?;
                if length <= LOOKED_UP && code < 1 << length {
                    let free = LOOKED_UP - length;
                    let range = (code << free) as usize..((code + 1) << free) as usize;
                    table.codes[range].fill((length as u8, symbol));
                }
                (code, at) = (code + 1, at + 1);
            }
            if code > 1 << length {
                return Err(corrupt("a Huffman table has more codes than there are bits for"));
            }
            table.ends[length as usize - 1] = code << (16 - length);
            code <<= 1;
        }
        table.look_ahead();
        Ok(table)
    }

    fn look_ahead(&mut self) {
        for (bits, (whole, &(length, symbol))) in self.whole.iter_mut().zip(&*self.codes).enumerate() {
            let (run, size) = (symbol >> 4, u32::from(symbol & 15));
            let total = u32::from(length) + size;
            if length == 0 || total > LOOKED_UP {
                continue;
            }
            let number = (bits as u32 >> (LOOKED_UP - total)) & ((1 << size) - 1);
            let run = if size == 0 && run < 15 { END } else { run };
            *whole = Whole { value: extend(number, size) as i16, run, length: total as u8 };
        }
    }

    /// What the next bits say of an AC coefficient (T.81, F.2.2.2), where they can be looked up.
    #[inline(always)]
    pub(super) fn whole(&self, bits: &Bits<'_>) -> Whole {
        self.whole[bits.peek(LOOKED_UP) as usize]
    }

    /// The next symbol; bits must be filled.
    #[inline(always)]
    pub(super) fn symbol(&self, bits: &mut Bits<'_>) -> Result<u8> {
        let (length, symbol) = self.codes[bits.peek(LOOKED_UP) as usize];
        if length != 0 {
            bits.skip(length.into());
            return Ok(symbol);
        }
        self.long_symbol(bits)
    }

    #[cold]
    fn long_symbol(&self, bits: &mut Bits<'_>) -> Result<u8> {
        let next = bits.peek(16);
        let unknown = || corrupt("a scan has a code that its Huffman table has not");
        let length = self.ends.iter().position(|&end| next < end).ok_or_else(unknown)? + 1;
        let code = (next >> (16 - length)) as i32;
        let symbol = usize::try_from(code + self.places[length - 1]).ok().and_then(|at| self.symbols.get(at));
        bits.skip(length as u32);
        symbol.copied().ok_or_else(unknown)
    }
}
