//! Files read through the page cache instead of copied: feature caches and weights of hundreds of megabytes.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use super::{Error, Result};
use crate::memory;

/// A whole file as bytes, mapped for reading. Cheap to share between threads.
#[derive(Debug)]
pub struct Mapped(Mmap);

impl Mapped {
    /// Maps a file. Only for files that are written with [`super::atomic`] and never altered in place; replacing or
    /// removing such a file leaves the mapped one as it was.
    ///
    /// # Errors
    ///
    /// When the file is not there or cannot be mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        memory::map(&file).map(Self).map_err(Error::io("map", path))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::atomic::{self, Access};

    #[test]
    fn a_replaced_file_leaves_the_mapped_one_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features");
        atomic::write(&path, b"first", Access::Private).unwrap();
        let mapped = Mapped::open(&path).unwrap();
        atomic::write(&path, b"second", Access::Private).unwrap();
        assert_eq!(&*mapped, b"first");
        assert_eq!(Mapped::open(&path).unwrap().as_ref(), b"second");
    }

    #[test]
    fn an_empty_file_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        atomic::write(&path, b"", Access::Private).unwrap();
        assert!(Mapped::open(&path).unwrap().is_empty());
        assert!(Mapped::open(&folder.path().join("none")).is_err());
    }
}
