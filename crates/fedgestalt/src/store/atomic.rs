//! Files that are there whole or not at all.
//!
//! A file is written under a temporary name in its folder, flushed to disk, renamed, and the folder flushed. A process
//! that is killed, or a machine that loses power, leaves the old file or the new one, and at worst a temporary file that
//! [`sweep`] removes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, ErrorKind, Result};

const PREFIX: &str = ".unfinished-";
const SUFFIX: &str = ".tmp";

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its owner only (0600): secrets, faces, encodings, models.
    Private,
    /// Whoever may by the user's own rules (0666 less umask): what the user asked for, such as a report.
    Shared,
}

/// Writes a file.
///
/// # Errors
///
/// When the folder is not there or cannot be written; the old file, if any, is untouched.
pub fn write(path: &Path, bytes: &[u8], access: Access) -> Result<()> {
    write_with(path, access, |out| out.write_all(bytes))
}

/// Writes a file that only its owner may read.
///
/// # Errors
///
/// As [`write()`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, Access::Private)
}

/// Writes a private file that can be made again, without waiting for the disk: a killed process leaves it whole or
/// missing, a loss of power may leave it empty or missing too. Many times faster than [`write()`] for thousands of
/// small files.
///
/// # Errors
///
/// As [`write()`].
pub fn write_cache(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = || Error::io("write", path);
    let mut temporary = temporary(path, Access::Private)?;
    temporary.write_all(bytes).map_err(failed())?;
    temporary.persist(path).map_err(|error| failed()(error.error))?;
    Ok(())
}

/// Gives a file the present time.
///
/// # Errors
///
/// When it cannot be opened.
pub fn touch(path: &Path) -> Result<()> {
    let touched =
        File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
    touched.map_err(Error::io("write", path))
}

/// Writes a file piece by piece, for what is too large to hold at once.
///
/// # Errors
///
/// As [`write()`], and whatever `fill` returns.
pub fn write_with<T>(
    path: &Path,
    access: Access,
    fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<T>,
) -> Result<T> {
    let failed = || Error::io("write", path);
    let temporary = temporary(path, access)?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
    let result = fill(&mut out).map_err(failed())?;
    out.flush().map_err(failed())?;
    drop(out);
    temporary.as_file().sync_all().map_err(failed())?;
    temporary.persist(path).map_err(|error| failed()(error.error))?;
    sync_folder(folder_of(path))?;
    Ok(result)
}

/// An empty file under a temporary name beside `path`, removed when dropped.
fn temporary(path: &Path, access: Access) -> Result<tempfile::NamedTempFile> {
    // Renaming would put a file in the place of the device or pipe.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{} is not a regular file; name a file to write", path.display()),
        ));
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = if access == Access::Private { 0o600 } else { 0o666 };
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    builder.tempfile_in(folder_of(path)).map_err(Error::io("write", path))
}

/// Writes a value as JSON, private.
///
/// # Errors
///
/// As [`write()`].
pub fn write_json<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| {
        Error::with_source(
            ErrorKind::InvalidArgument,
            format!("{} cannot hold this value", path.display()),
            error,
        )
    })?;
    text.push(b'\n');
    write_private(path, &text)
}

/// Reads a value from JSON; `None` if there is no such file.
///
/// # Errors
///
/// When the file cannot be read, or does not hold such a value: the file, line and column are named.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let place = format!("{}:{}:{}", path.display(), error.line(), error.column());
        Error::with_source(
            ErrorKind::Corrupt,
            format!(
                "{place}: the state kept here cannot be read; remove the file to begin anew, or restore it"
            ),
            error,
        )
    })
}

/// Reads a file; `None` if there is no such file.
///
/// # Errors
///
/// When it is there and cannot be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Removes a file durably; it need not be there.
///
/// # Errors
///
/// When it is there and cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(folder_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", path)(error)),
    }
}

/// Removes what killed processes left unfinished in a folder. Only for a folder that no other process writes to.
///
/// # Errors
///
/// When the folder cannot be read or a file in it not removed.
pub fn sweep(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read the folder", folder))? {
        let entry = entry.map_err(Error::io("read the folder", folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            let path = entry.path();
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Makes a folder, and those above it, durably; what is made is its owner's only (0700).
///
/// # Errors
///
/// When it cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path).map_err(Error::io("make the folder", path))?;
    sync_folder(folder_of(path))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes the renaming itself durable. Windows has no such call, and needs none.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(Error::io("flush the folder", folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, b"old", Access::Private).unwrap();
        let error = write_with(&path, Access::Private, |out| {
            out.write_all(&[0; 3 << 20])?;
            Err::<(), _>(io::Error::other("the disk is full"))
        })
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("state"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing unfinished is left");
    }

    #[cfg(unix)]
    #[test]
    fn a_device_or_a_folder_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&socket, folder.path()] {
            let error = write(path, b"new", Access::Shared).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
        assert!(!fs::metadata(&socket).unwrap().is_file());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing unfinished is left");
    }

    #[test]
    fn sweeping_removes_only_what_is_unfinished() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".unfinished-abc.tmp", "kept.tmp", ".unfinished-kept"] {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        sweep(folder.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".unfinished-kept", "kept.tmp"]);
    }

    #[test]
    fn a_damaged_state_names_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), None);
        write_json(&path, &vec![1, 2]).unwrap();
        assert_eq!(read_json(&path).unwrap(), Some(vec![1, 2]));
        fs::write(&path, "[1,\n 2").unwrap();
        let error = read_json::<Vec<u32>>(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("state.json:2:"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_private_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let inner = folder.path().join("a/b");
        make_folder(&inner).unwrap();
        assert_eq!((mode(&inner), mode(&folder.path().join("a"))), (0o700, 0o700));
        write(&inner.join("key"), b"k", Access::Private).unwrap();
        assert_eq!(mode(&inner.join("key")), 0o600);
        write(&inner.join("report"), b"r", Access::Shared).unwrap();
        assert_eq!(mode(&inner.join("report")) & 0o600, 0o600);
    }
}
