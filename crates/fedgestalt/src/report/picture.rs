//! Pictures inside the page: PNG or JPEG bytes as data URIs (RFC 2397, base64 of RFC 4648).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::ReportError;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A PNG or JPEG file, shown as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    media: &'static str,
    bytes: Vec<u8>,
}

impl Picture {
    /// Takes the bytes of a file; its kind is read from its signature.
    ///
    /// # Errors
    ///
    /// [`ReportError::Picture`] if the bytes are neither PNG nor JPEG: other kinds (SVG above all) can carry script.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ReportError> {
        let media = if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            "image/png"
        } else if bytes.starts_with(b"\xff\xd8\xff") {
            "image/jpeg"
        } else {
            return Err(ReportError::Picture("neither PNG nor JPEG"));
        };
        Ok(Self { media, bytes })
    }

    /// The picture as a data URI.
    pub fn data_uri(&self) -> String {
        format!("data:{};base64,{}", self.media, encode(&self.bytes))
    }

    fn from_data_uri(uri: &str) -> Result<Self, ReportError> {
        let (_, payload) = uri.split_once(";base64,").ok_or(ReportError::Picture("not a base64 data URI"))?;
        Self::from_bytes(decode(payload).ok_or(ReportError::Picture("broken base64"))?)
    }
}

/// Faces do not belong in logs: only kind and length are shown.
impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({}, {} bytes)", self.media, self.bytes.len())
    }
}

impl Serialize for Picture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.data_uri())
    }
}

impl<'de> Deserialize<'de> for Picture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_data_uri(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Base64 with padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= chunk.len() {
                let index = (word >> (18 - 6 * place)) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let last = text.len() / 4;
    for (number, chunk) in text.chunks(4).enumerate() {
        let padding = chunk.iter().rev().take_while(|&&c| c == b'=').count();
        if padding > 2 || (padding > 0 && number + 1 != last) {
            return None;
        }
        let mut word = 0;
        for &c in &chunk[..4 - padding] {
            word = word << 6 | ALPHABET.iter().position(|&a| a == c)? as u32;
        }
        word <<= 6 * padding;
        bytes.extend_from_slice(&word.to_be_bytes()[1..4 - padding]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn base64_has_the_vectors_of_rfc_4648() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in vectors {
            assert_eq!(encode(plain.as_bytes()), coded);
            assert_eq!(decode(coded).unwrap(), plain.as_bytes());
        }
        for broken in ["Zg", "Z===", "Zg==Zg==", "Zm9*", "===="] {
            assert!(decode(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn every_byte_survives() {
        let all: Vec<u8> = (0..=255).collect();
        for length in 0..all.len() {
            assert_eq!(decode(&encode(&all[..length])).unwrap(), &all[..length]);
        }
    }

    #[test]
    fn only_png_and_jpeg_are_taken() {
        assert!(Picture::from_bytes(b"\x89PNG\r\n\x1a\nrest".to_vec()).is_ok());
        assert!(Picture::from_bytes(b"\xff\xd8\xff\xe0".to_vec()).is_ok());
        for other in [&b"<svg onload=alert(1)>"[..], b"GIF89a", b""] {
            assert!(Picture::from_bytes(other.to_vec()).is_err());
        }
    }

    #[test]
    fn the_media_type_comes_from_the_bytes_and_not_from_the_uri() {
        let uri = format!("data:text/html;base64,{}", encode(b"\xff\xd8\xff\xe0"));
        let picture = Picture::from_data_uri(&uri).unwrap();
        assert!(picture.data_uri().starts_with("data:image/jpeg;base64,"));
    }
}
