use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use domain::gmdb::{self, Table, TableFile};
use domain::{Cohort, Syndrome};

use crate::store::atomic;

/// The folder with the tables.
pub const METADATA: &str = "gmdb_metadata";
/// The file with the syndromes' names.
pub const SYNDROMES_FILE: &str = "syndromes.csv";

/// The tables of a cohort folder, read but not yet put together.
#[derive(Debug)]
pub struct Tables {
    /// The version in their names.
    pub version: String,
    /// Those that could be read, in the order of [`Table::ALL`]. They are called by their paths.
    pub files: Vec<TableFile>,
    /// Those that could not be read: file and reason.
    pub faulty: Vec<(PathBuf, domain::Error)>,
    /// Those that are not there.
    pub missing: Vec<PathBuf>,
    syndromes: Option<(PathBuf, Vec<u8>)>,
}

impl Tables {
    /// Whether a folder has tables.
    pub fn are_in(folder: &Path) -> bool {
        find(folder).is_ok_and(|(_, found)| !found.is_empty())
    }

    /// Reads the tables of the highest version in `gmdb_metadata`, or in the folder itself if there is none.
    ///
    /// # Errors
    ///
    /// When there are no tables, or a file cannot be read. Tables with faults are put aside.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let (metadata, found) = find(folder)?;
        let Some(version) = found.iter().map(|(_, version)| version).max_by(|a, b| by_version(a, b)).cloned()
        else {
            bail!(
                "{} has no tables; a cohort folder has {METADATA}/{} and its like: `fedgestalt cohort import` makes one",
                folder.display(),
                Table::Train.file_name("1.0.3")
            );
        };
        let mut tables =
            Self { version, files: Vec::new(), faulty: Vec::new(), missing: Vec::new(), syndromes: None };
        for table in Table::ALL {
            let path = metadata.join(table.file_name(&tables.version));
            match atomic::read(&path)? {
                None => tables.missing.push(path),
                Some(bytes) => match TableFile::parse(table, &path.display().to_string(), &bytes) {
                    Ok(file) => tables.files.push(file),
                    Err(error) => tables.faulty.push((path, error)),
                },
            }
        }
        let syndromes = folder.join(SYNDROMES_FILE);
        tables.syndromes = atomic::read(&syndromes)?.map(|bytes| (syndromes, bytes));
        Ok(tables)
    }

    /// Puts the tables together.
    ///
    /// # Errors
    ///
    /// When a table is faulty, or they contradict each other: file and line are named.
    pub fn assemble(&self) -> anyhow::Result<Cohort> {
        if let Some((_, error)) = self.faulty.first() {
            return Err(error.clone().into());
        }
        let name = self.syndromes.as_ref().map(|(path, _)| path.display().to_string());
        let syndromes = name.as_deref().zip(self.syndromes.as_ref().map(|(_, bytes)| bytes.as_slice()));
        Ok(gmdb::assemble(&self.files, syndromes)?)
    }

    /// What `syndromes.csv` lists; nothing without the file.
    ///
    /// # Errors
    ///
    /// When it is faulty; the file is named.
    pub fn syndromes(&self) -> Result<Vec<Syndrome>, (PathBuf, domain::Error)> {
        let Some((path, bytes)) = &self.syndromes else { return Ok(Vec::new()) };
        gmdb::parse_syndromes(&path.display().to_string(), bytes).map_err(|error| (path.clone(), error))
    }
}

pub(super) fn write(folder: &Path, cohort: &Cohort, version: &str) -> anyhow::Result<()> {
    let metadata = folder.join(METADATA);
    atomic::make_folder(&metadata)?;
    atomic::write_private(
        &folder.join(SYNDROMES_FILE),
        gmdb::write_syndromes(cohort.syndromes()).as_bytes(),
    )?;
    for (table, rows) in gmdb::disassemble(cohort) {
        atomic::write_private(&metadata.join(table.file_name(version)), table.write(&rows).as_bytes())?;
    }
    Ok(())
}

/// The folder with the tables, and which tables and versions it has.
fn find(folder: &Path) -> anyhow::Result<(PathBuf, Vec<(Table, String)>)> {
    let metadata = folder.join(METADATA);
    let metadata = if metadata.is_dir() { metadata } else { folder.to_owned() };
    let entries =
        fs::read_dir(&metadata).with_context(|| format!("cannot read the folder {}", metadata.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let name =
            entry.with_context(|| format!("cannot read the folder {}", metadata.display()))?.file_name();
        let name = name.to_string_lossy();
        found.extend(Table::of_file_name(&name).map(|(table, version)| (table, version.to_owned())));
    }
    Ok((metadata, found))
}

/// 1.0.10 comes after 1.0.9.
fn by_version(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let mut versions = ["1.0.9", "1.0.10", "1.0", "1.0.10b", "0.9"];
        versions.sort_by(|a, b| by_version(a, b));
        assert_eq!(versions, ["0.9", "1.0", "1.0.9", "1.0.10", "1.0.10b"]);
    }
}
