use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::atomic;
use super::{Error, ErrorKind, Result};

const LOCK: &str = ".lock";

/// A folder that one process at a time works in, with everything in it private to its owner. The lock goes with the
/// value, and with the process if it is killed.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Held open: closing it gives the lock back.
    _lock: File,
}

impl Folder {
    /// Opens a folder, making it if needed, takes its lock and removes what a killed process left unfinished.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Locked`] when another process works in it, [`ErrorKind::Io`] when it cannot be made or read.
    pub fn open(path: &Path) -> Result<Self> {
        atomic::make_folder(path)?;
        let lock = take_lock(path)?;
        atomic::sweep(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder inside, made if needed and freed of what was left unfinished.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        atomic::make_folder(&path)?;
        atomic::sweep(&path)?;
        Ok(path)
    }

    /// Writes a file, atomically and private.
    ///
    /// # Errors
    ///
    /// As [`atomic::write()`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        atomic::write_private(&self.path.join(name), bytes)
    }

    /// Reads a file; `None` if there is no such file.
    ///
    /// # Errors
    ///
    /// As [`atomic::read`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        atomic::read(&self.path.join(name))
    }

    /// Writes a value as JSON, atomically and private.
    ///
    /// # Errors
    ///
    /// As [`atomic::write_json`].
    pub fn write_json<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<()> {
        atomic::write_json(&self.path.join(name), value)
    }

    /// Reads a value from JSON; `None` if there is no such file.
    ///
    /// # Errors
    ///
    /// As [`atomic::read_json`].
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        atomic::read_json(&self.path.join(name))
    }

    /// Writes a secret.
    ///
    /// # Errors
    ///
    /// As [`atomic::write()`].
    pub fn write_secret(&self, name: &str, secret: &[u8]) -> Result<()> {
        self.write(name, secret)
    }

    /// Reads a secret; `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permissions`] when others may read it: then it is no secret any more.
    pub fn read_secret(&self, name: &str) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>> {
        let path = self.path.join(name);
        #[cfg(unix)]
        if let Ok(metadata) = fs::metadata(&path) {
            use std::os::unix::fs::PermissionsExt;
            let mode = metadata.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(Error::new(
                    ErrorKind::Permissions,
                    format!(
                        "the secret {0} can be read by others (mode {mode:03o}); if nobody has read it, run `chmod 600 {0}`, otherwise make a new one",
                        path.display()
                    ),
                ));
            }
        }
        Ok(atomic::read(&path)?.map(zeroize::Zeroizing::new))
    }
}

fn take_lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let failed = || Error::io("lock", &path);
    // Not truncated on opening: it holds the number of the process that has the lock.
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim().parse::<u32>() {
                Ok(process) => format!("process {process}"),
                Err(_) => "another process".to_owned(),
            };
            return Err(Error::new(
                ErrorKind::Locked,
                format!("{holder} works in {}; wait until it is done, or stop it", folder.display()),
            ));
        }
        Err(TryLockError::Error(error)) => return Err(failed()(error)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn two_cannot_work_in_one_folder() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("site-0");
        let first = Folder::open(&path).unwrap();
        let error = Folder::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.to_string().contains("site-0"));
        drop(first);
        Folder::open(&path).unwrap();
    }

    #[test]
    fn opening_sweeps() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join(".unfinished-1.tmp");
        fs::write(&left, b"half").unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        assert!(!left.exists());
        assert_eq!(folder.read("nothing").unwrap(), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        assert!(folder.read_secret("key").unwrap().is_none());
        folder.write_secret("key", b"secret").unwrap();
        assert_eq!(folder.read_secret("key").unwrap().unwrap().as_slice(), b"secret");
        fs::set_permissions(parent.path().join("key"), fs::Permissions::from_mode(0o640)).unwrap();
        let error = folder.read_secret("key").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permissions);
        assert!(error.to_string().contains("chmod 600"));
    }
}
