use crate::error::{Error, ErrorKind, Result};

/// Scans beyond any encoder's: each goes through the whole picture again (libjpeg's progressive script has 10).
const MOST_SCANS: usize = 100;

/// Walks the markers of a JPEG file (ITU-T T.81, B.1 and B.2) to its end-of-image marker.
///
/// The decoder fills what is missing from a truncated file with grey and reports nothing; half a face must
/// not become an encoding. What follows the end marker (previews, camera data) is not looked at.
pub(crate) fn check_complete(bytes: &[u8]) -> Result<()> {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut at = 2;
    let mut scans = 0;
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
        at += length;
        if marker == START_OF_SCAN {
            scans += 1;
            if scans > MOST_SCANS {
                return Err(Error::new(
                    ErrorKind::Limit,
                    format!(
                        "the JPEG file has more than {MOST_SCANS} scans; save it again as an ordinary JPEG"
                    ),
                ));
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

fn truncated(length: usize) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the JPEG file is cut short: its {length} bytes hold no end-of-image marker; get it again from its source"
        ),
    )
}
