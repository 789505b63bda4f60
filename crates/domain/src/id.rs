//! Newtypes for the three things that have an id, so that they cannot be swapped.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// The longest id, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// Ids become parts of file names (`<image_id>_aligned.jpg`) and of table cells, hence what is refused.
fn validate(what: &str, text: &str) -> Result<()> {
    let fault = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_ID_BYTES {
        "is longer than 128 bytes"
    } else if text.chars().any(char::is_control) {
        "holds a control character"
    } else if text.contains(['/', '\\']) {
        "holds a path separator"
    } else if text == "." || text == ".." {
        "is the name of a folder"
    } else if text.trim() != text {
        "begins or ends with white space"
    } else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::InvalidId,
        format!("{what} {fault}; give every {what} 1 to 128 bytes without control characters, '/' or '\\'"),
    ))
}

/// Numbers before words and by value, so that image 99 comes before image 100; leading zeros decide only between
/// equal values, which keeps the order total and consistent with `==`.
fn natural(a: &str, b: &str) -> Ordering {
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    match (number(a), number(b)) {
        (true, true) => {
            let (x, y) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y)).then_with(|| a.cmp(b))
        }
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 128 bytes, no control characters, no path separators. Ids that are whole numbers sort by value and
        /// before all others. Serialised as its text.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and takes it as an id; the error does not repeat the text.
            pub fn new(text: &str) -> Result<Self> {
                validate($what, text)?;
                Ok(Self(text.to_owned()))
            }

            /// The id's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                validate($what, &text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                natural(&self.0, &other.0)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
    };
}

id!(
    /// One photograph.
    ImageId,
    "image id"
);
id!(
    /// One patient, who may have several photographs.
    SubjectId,
    "subject id"
);
id!(
    /// One syndrome: a GMDB label (`12`), or an ontology id (`OMIM:101600`, `MONDO:0007043`, `ORPHA:58`).
    SyndromeId,
    "syndrome id"
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn refuses_what_cannot_name_a_file() {
        let long = "x".repeat(129);
        for text in ["", "a/b", "a\\b", "a\nb", "\0", "..", ".", " a", long.as_str()] {
            let error = ImageId::new(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidId);
            assert!(error.to_string().contains("image id"));
        }
        for text in ["1", "OMIM:101600", "case 7", "ü", &"x".repeat(128)] {
            assert_eq!(ImageId::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn numbers_sort_by_value_and_first() {
        let mut ids: Vec<_> = ["OMIM:2", "10", "9", "a", "007", "7", "100000000000000000000", "OMIM:10"]
            .map(|t| SyndromeId::new(t).unwrap())
            .into();
        ids.sort();
        let order: Vec<_> = ids.iter().map(SyndromeId::as_str).collect();
        assert_eq!(order, ["007", "7", "9", "10", "100000000000000000000", "OMIM:10", "OMIM:2", "a"]);
    }

    #[test]
    fn a_forged_file_cannot_smuggle_a_path_in() {
        assert_eq!(serde_json::to_string(&ImageId::new("12").unwrap()).unwrap(), "\"12\"");
        assert!(serde_json::from_str::<ImageId>("\"../12\"").is_err());
    }
}
