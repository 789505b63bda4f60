use super::markers;
use crate::error::{Error, ErrorKind, Result};

/// Scans beyond any encoder's: each goes through the whole picture again (libjpeg's progressive script has 10).
const MOST_SCANS: usize = 100;

/// Blocks of 8 x 8 that all scans together may go through, each of which takes time however few bytes a scan has: those of 64
/// million pixels with full chroma 13 times (libjpeg's script goes through them 4.7 times).
const MOST_BLOCKS: u64 = 40_000_000;

/// Walks the markers of a JPEG file (ITU-T T.81, B.1 and B.2) to its end-of-image marker.
///
/// The decoder fills what is missing from a truncated file with grey and reports nothing; half a face must
/// not become an encoding. What follows the end marker (previews, camera data) is not looked at. What its scans would take is
/// added up here, before any of them is read.
pub(crate) fn check_complete(bytes: &[u8]) -> Result<()> {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    const FRAMES: std::ops::RangeInclusive<u8> = 0xc0..=0xc2;
    let mut at = 2;
    let (mut scans, mut blocks, mut frame) = (0, 0u64, None);
    loop {
        // Entropy-coded data, if any, runs to the next marker that is neither a stuffed zero, a restart
        // marker nor a fill byte.
        let marker = loop {
            let Some(found) = bytes.get(at..).and_then(|rest| find_byte(rest, 0xff)) else {
                return Err(truncated(bytes.len()));
            };
            at += found + 1;
            match bytes.get(at) {
                None => return Err(truncated(bytes.len())),
                Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
                Some(0xff) => {}
                Some(&marker) => {
                    at += 1;
                    break marker;
                }
            }
        };
        if marker == END_OF_IMAGE {
            return Ok(());
        }
        let Some(&[high, low]) = bytes.get(at..at + 2) else {
            return Err(truncated(bytes.len()));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < 2 {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the JPEG file is damaged: a segment at byte {at} states a length of {length}"),
            ));
        }
        let segment = bytes.get(at + 2..at + length).unwrap_or_default();
        at += length;
        // What is wrong with a header is said by those who read it.
        if FRAMES.contains(&marker) && frame.is_none() {
            frame = markers::frame(segment, marker == *FRAMES.end()).ok();
        }
        if marker == START_OF_SCAN {
            scans += 1;
            let scan = markers::scan(segment).ok();
            blocks += frame.as_ref().zip(scan).map_or(0, |(frame, scan)| frame.blocks(&scan));
            if scans > MOST_SCANS {
                return Err(beyond(format_args!("more than {MOST_SCANS} scans")));
            }
            if blocks > MOST_BLOCKS {
                return Err(beyond(format_args!(
                    "scans that go through more than {MOST_BLOCKS} blocks of its picture"
                )));
            }
            if at >= bytes.len() {
                return Err(truncated(bytes.len()));
            }
        }
    }
}

fn find_byte(bytes: &[u8], wanted: u8) -> Option<usize> {
    bytes.iter().position(|&b| b == wanted)
}

fn beyond(what: std::fmt::Arguments<'_>) -> Error {
    Error::new(
        ErrorKind::Limit,
        format!("the JPEG file has {what}; save it again as an ordinary, not progressive JPEG"),
    )
}

fn truncated(length: usize) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the JPEG file is cut short: its {length} bytes hold no end-of-image marker; get it again from its source"
        ),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Markers of a picture of 8,000 x 8,000 pixels with these components in its scans, and no data.
    fn markers(scans: &[&[u8]]) -> Vec<u8> {
        let mut jpeg = vec![0xff, 0xd8];
        let mut segment = |marker: u8, content: &[u8]| {
            jpeg.extend([0xff, marker]);
            jpeg.extend((content.len() as u16 + 2).to_be_bytes());
            jpeg.extend(content);
        };
        let [high, low] = 8000u16.to_be_bytes();
        segment(0xc2, &[8, high, low, high, low, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
        for components in scans {
            let parts: Vec<u8> = components.iter().flat_map(|&id| [id, 0]).collect();
            segment(0xda, &[&[components.len() as u8][..], &parts, &[0, 0, 0]].concat());
        }
        jpeg.extend([0xff, 0xd9]);
        jpeg
    }

    #[test]
    fn the_largest_photograph_may_have_the_scans_that_libjpeg_writes_and_twice_as_many() {
        let all: &[u8] = &[1, 2, 3];
        let script = [all, &[1], &[3], &[2], &[1], &[1], all, &[3], &[2], &[1]];
        assert!(check_complete(&markers(&script)).is_ok());
        assert!(check_complete(&markers(&script.repeat(2))).is_ok());
        let error = check_complete(&markers(&script.repeat(3))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(error.to_string().contains("blocks"), "{error}");
    }
}
