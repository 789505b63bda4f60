//! Where libraries that are not compiled in may lie.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use vision::{OpenVino, Result};

/// Where system packages and Intel's installer put libraries.
const SYSTEM: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/lib",
    "/opt/intel/openvino/runtime/lib/intel64",
    "/opt/intel/openvino/runtime/lib/aarch64",
];

/// OpenVINO's C library: that of `FEDGESTALT_OPENVINO`, of the loader's path, of a Python whose `bin` is on the `PATH` or
/// whose environment is active, of the user's packages, of the system; in this order.
pub(super) fn openvino() -> Option<PathBuf> {
    if let Some(named) = env::var_os("FEDGESTALT_OPENVINO") {
        return openvino_in(Path::new(&named));
    }
    let split = |name| env::var_os(name).map(|all| env::split_paths(&all).collect::<Vec<_>>());
    let loader = split("LD_LIBRARY_PATH").unwrap_or_default();
    let prefixes = env::var_os("VIRTUAL_ENV").map(PathBuf::from).into_iter();
    let prefixes =
        prefixes.chain(split("PATH").unwrap_or_default().into_iter().filter_map(|bin| prefix(&bin)));
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".local"));
    let packages = prefixes.chain(home).flat_map(|prefix| python_packages(&prefix));
    let pip = packages.map(|packages| packages.join("openvino/libs"));
    loader.into_iter().chain(pip).chain(SYSTEM.map(PathBuf::from)).find_map(|folder| openvino_in(&folder))
}

/// Loads OpenVINO's library from a file, once in the process: it takes a tenth of a second.
pub(super) fn load_openvino(file: &Path) -> Result<Arc<OpenVino>> {
    static LOADED: Mutex<BTreeMap<PathBuf, Arc<OpenVino>>> = Mutex::new(BTreeMap::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = loaded.get(file) {
        return Ok(library.clone());
    }
    let library = Arc::new(OpenVino::load(file)?);
    loaded.insert(file.to_owned(), library.clone());
    Ok(library)
}

/// A library's file name, as the system's loader takes it.
#[cfg(feature = "onnxruntime")]
pub(super) fn named(library: &str) -> String {
    format!("{}{library}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX)
}

/// The library that `path` is, or the one of the highest version in that folder.
pub(super) fn openvino_in(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_owned());
    }
    let stem = format!("{}openvino_c.", env::consts::DLL_PREFIX);
    let is_library = |name: &OsStr| {
        name.to_str().is_some_and(|name| {
            name.starts_with(&stem) && name[stem.len() - 1..].contains(env::consts::DLL_SUFFIX)
        })
    };
    let files = fs::read_dir(path).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|file| file.file_name().is_some_and(is_library)).max()
}

/// The folder above a `bin` that has a Python in it.
fn prefix(bin: &Path) -> Option<PathBuf> {
    let python = ["python3", "python", "python.exe"].iter().any(|name| bin.join(name).exists());
    python.then(|| bin.parent().map(Path::to_owned)).flatten()
}

/// The package folders of the Pythons under a prefix.
fn python_packages(prefix: &Path) -> Vec<PathBuf> {
    let lib = prefix.join("lib");
    let mut found: Vec<PathBuf> = fs::read_dir(&lib)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|folder| {
            folder.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("python3"))
        })
        .flat_map(|python| [python.join("site-packages"), python.join("dist-packages")])
        .filter(|packages| packages.is_dir())
        .collect();
    found.sort();
    found.reverse();
    found
}

/// The user's folder for what can be made again.
pub(super) fn user_cache() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(folder.join("fedgestalt"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_library_is_found_by_file_by_folder_and_in_a_python() {
        let folder = tempfile::tempdir().unwrap();
        let libs = folder.path().join("lib/python3.11/site-packages/openvino/libs");
        fs::create_dir_all(&libs).unwrap();
        assert_eq!(openvino_in(&libs), None);
        let suffix = env::consts::DLL_SUFFIX;
        for name in ["openvino_c", "openvino"] {
            for version in ["2501", "2641"] {
                let name = format!("{}{name}{suffix}.{version}", env::consts::DLL_PREFIX);
                fs::write(libs.join(name), "").unwrap();
            }
        }
        let newest = libs.join(format!("{}openvino_c{suffix}.2641", env::consts::DLL_PREFIX));
        assert_eq!(openvino_in(&libs), Some(newest.clone()));
        assert_eq!(openvino_in(&newest), Some(newest));
        assert_eq!(python_packages(folder.path()), [folder.path().join("lib/python3.11/site-packages")]);
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        assert_eq!(prefix(&bin), None);
        fs::write(bin.join("python3"), "").unwrap();
        assert_eq!(prefix(&bin), Some(folder.path().to_owned()));
    }
}
