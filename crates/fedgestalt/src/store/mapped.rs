//! Files read through the page cache instead of copied: feature caches and weights of hundreds of megabytes.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use super::{Error, Result};

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
        map(&file).map(Self).map_err(Error::io("map", path))
    }
}

#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: mapped bytes must not change while they are borrowed. Files of ours are never altered in place: `atomic`
    // renames a new file over the old name, which leaves the mapped inode as it is, and a folder is locked against a
    // second process of ours. Whoever else truncates the file makes reading it fail with a signal; they could as well
    // have ended the process.
    unsafe { Mmap::map(file) }
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
