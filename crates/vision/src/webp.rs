use crate::error::{Error, ErrorKind, Result};

/// Walks the chunks of a WebP file (RFC 9649, 2.3 to 2.7) to the end that its header states.
///
/// The decoder allocates what a chunk says it holds before it reads it: a few bytes could ask for 4 GB.
pub(crate) fn check_complete(bytes: &[u8]) -> Result<()> {
    let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let stated = number(4).map_or(usize::MAX, |size| size as usize).saturating_add(8);
    if stated > bytes.len() {
        return Err(truncated(format!("it states {stated} bytes and has {}", bytes.len())));
    }
    let mut at = 12;
    while at < stated {
        let Some(length) = number(at + 4) else {
            return Err(truncated(format!("a chunk at byte {at} has no length")));
        };
        // Chunks are padded to even lengths; writers forget it after the last one.
        at = at.saturating_add(8).saturating_add(length as usize);
        if at > stated {
            return Err(truncated(format!("a chunk of {length} bytes reaches beyond its end")));
        }
        at += at % 2;
    }
    Ok(())
}

fn truncated(why: String) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the WebP file is damaged or cut short: {why}; get it again from its source"),
    )
}
