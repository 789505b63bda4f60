//! Long vectors that wait outside memory.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use super::{Error, ErrorKind, Folder, Result};

/// One vector of a site in a file without a name, that only this process can read and that goes with it.
#[derive(Debug, Default)]
pub struct Scratch {
    kept: Option<(u32, usize, File)>,
}

impl Scratch {
    /// Keeps the vector of a stage in place of an earlier one's.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn keep(&mut self, folder: &Folder, stage: u32, words: &[u32]) -> Result<()> {
        self.kept = None;
        let mut file = tempfile::tempfile_in(folder.path()).map_err(Error::io("write", folder.path()))?;
        file.write_all(bytemuck::cast_slice(words)).map_err(Error::io("write", folder.path()))?;
        self.kept = Some((stage, words.len(), file));
        Ok(())
    }

    /// The vector of a stage.
    ///
    /// # Errors
    ///
    /// When it is not the one that is kept, or cannot be read.
    pub fn recall(&mut self, stage: u32) -> Result<Vec<u32>> {
        let Some((_, length, file)) = self.kept.as_mut().filter(|(kept, ..)| *kept == stage) else {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("no vector of stage {stage} is kept"),
            ));
        };
        let mut words = vec![0; *length];
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_exact(bytemuck::cast_slice_mut(&mut words)))
            .map_err(Error::io("read", "a vector that was kept".as_ref()))?;
        Ok(words)
    }

    /// Drops what is kept.
    pub fn forget(&mut self) {
        self.kept = None;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_vector_is_recalled_as_often_as_is_asked_and_leaves_no_file() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(&place.path().join("site")).unwrap();
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let before = files();
        let mut scratch = Scratch::default();
        let words: Vec<u32> = (0..100_000u32).map(|n| n.wrapping_mul(77_777)).collect();
        scratch.keep(&folder, 3, &words).unwrap();
        assert_eq!(files(), before);
        assert_eq!(scratch.recall(3).unwrap(), words);
        assert_eq!(scratch.recall(3).unwrap(), words);
        assert!(scratch.recall(2).is_err());
        scratch.keep(&folder, 4, &words[..5]).unwrap();
        assert_eq!(scratch.recall(4).unwrap(), words[..5]);
        assert!(scratch.recall(3).is_err());
        scratch.forget();
        assert!(scratch.recall(4).is_err());
    }
}
