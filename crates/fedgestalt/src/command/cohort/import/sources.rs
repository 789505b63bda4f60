//! What is there to import: cases and their files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use domain::{Case, Cohort, ImageId, SubjectId, Syndrome, SyndromeId};

use super::LeftOut;
use crate::cohort_dir::{ALIGNED, ImageFiles, Tables, is_picture};

/// Where a face comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// One or more of them.
    Pictures {
        /// Its aligned face.
        aligned: Option<PathBuf>,
        /// Its photograph.
        photograph: Option<PathBuf>,
        /// Its photograph as FaceCropper turned it, and its name in FaceCropper's table.
        rotated: Option<(PathBuf, String)>,
        /// The photograph's name in a table of points: its path below the folder, without extension.
        name: String,
    },
    /// Nowhere; where it was looked for.
    Missing(PathBuf),
}

impl Source {
    /// The file to name in a message.
    pub(super) fn file(&self) -> &Path {
        match self {
            Self::Pictures { photograph: Some(path), .. }
            | Self::Pictures { aligned: Some(path), .. }
            | Self::Pictures { rotated: Some((path, _)), .. } => path,
            Self::Pictures { .. } => Path::new(""),
            Self::Missing(path) => path,
        }
    }
}

/// What a layout says.
#[derive(Debug)]
pub(super) struct Layouted {
    /// Cases and their files, sorted by image.
    pub(super) cases: Vec<(Case, Source)>,
    /// The cohort, where the layout says who plays which part.
    pub(super) cohort: Option<Cohort>,
    /// The syndromes.
    pub(super) syndromes: Vec<Syndrome>,
    /// The version of its tables, where it has any.
    pub(super) version: Option<String>,
    /// Files that have no place in the layout.
    pub(super) left_out: Vec<LeftOut>,
}

/// GMDB's tables and folders.
pub(super) fn gmdb(folder: &Path) -> anyhow::Result<Layouted> {
    let tables = Tables::read(folder)?;
    let cohort = tables.assemble()?;
    let files = ImageFiles::list(folder)?;
    let cases = cohort
        .cases()
        .iter()
        .map(|case| {
            let image = &case.image;
            let source = match (files.aligned(image), files.photograph(image), files.rotated(image)) {
                (None, None, None) => {
                    Source::Missing(folder.join(ALIGNED).join(format!("{image}_aligned.jpg")))
                }
                (aligned, photograph, rotated) => Source::Pictures {
                    aligned: aligned.map(Path::to_owned),
                    photograph: photograph.map(Path::to_owned),
                    rotated: rotated.map(|(file, name)| (file.to_owned(), name)),
                    name: image.to_string(),
                },
            };
            (case.clone(), source)
        })
        .collect();
    Ok(Layouted {
        cases,
        syndromes: cohort.syndromes().to_vec(),
        cohort: Some(cohort),
        version: Some(tables.version),
        left_out: Vec::new(),
    })
}

/// A folder per syndrome. A folder in it is a subject; of images directly in it, those that begin alike up to the first
/// `_` are one subject, and a name without `_` is a subject of its own.
pub(super) fn folders(root: &Path) -> anyhow::Result<Layouted> {
    let mut walk = Walk { root: root.to_owned(), cases: BTreeMap::new(), left_out: Vec::new() };
    let mut syndromes: BTreeMap<SyndromeId, Syndrome> = BTreeMap::new();
    for path in entries(root)? {
        if !path.is_dir() {
            walk.leave(&path, "it lies in no syndrome's folder; move it into one");
            continue;
        }
        let name = name_of(&path)?;
        let syndrome =
            SyndromeId::new(&name).with_context(|| format!("{} cannot name a syndrome", path.display()))?;
        let before = walk.cases.len();
        walk.syndrome(&path, &syndrome)?;
        if walk.cases.len() > before {
            syndromes.insert(syndrome.clone(), Syndrome::unnamed(syndrome));
        }
    }
    ensure!(
        !syndromes.is_empty(),
        "{} has neither GMDB's tables nor a folder per syndrome with images in it",
        root.display()
    );
    for listed in listed(root)? {
        if let Some(syndrome) = syndromes.get_mut(&listed.id) {
            *syndrome = listed;
        }
    }
    Ok(Layouted {
        cases: walk.cases.into_values().collect(),
        cohort: None,
        syndromes: syndromes.into_values().collect(),
        version: None,
        left_out: walk.left_out,
    })
}

/// What a `syndromes.csv` beside the folders says of them.
fn listed(root: &Path) -> anyhow::Result<Vec<Syndrome>> {
    let file = root.join(crate::cohort_dir::SYNDROMES_FILE);
    match crate::store::atomic::read(&file)? {
        Some(bytes) => Ok(domain::gmdb::parse_syndromes(&file.display().to_string(), &bytes)?),
        None => Ok(Vec::new()),
    }
}

struct Walk {
    root: PathBuf,
    cases: BTreeMap<ImageId, (Case, Source)>,
    left_out: Vec<LeftOut>,
}

impl Walk {
    fn syndrome(&mut self, folder: &Path, syndrome: &SyndromeId) -> anyhow::Result<()> {
        for path in entries(folder)? {
            if path.is_dir() {
                let subject = name_of(&path)?;
                for inner in entries(&path)? {
                    if inner.is_dir() {
                        self.leave_folder(&inner);
                    } else {
                        self.image(&inner, syndrome, &subject, Some(&subject))?;
                    }
                }
            } else {
                let stem = face_of(&stem_of(&path)?);
                let subject = stem.split_once('_').map_or(stem.as_str(), |(before, _)| before).to_owned();
                self.image(&path, syndrome, &subject, None)?;
            }
        }
        Ok(())
    }

    fn image(
        &mut self,
        path: &Path,
        syndrome: &SyndromeId,
        subject: &str,
        folder: Option<&str>,
    ) -> anyhow::Result<()> {
        if !is_picture(path) {
            return Ok(());
        }
        let stem = face_of(&stem_of(path)?);
        let named = |id: anyhow::Error| id.context(format!("{} cannot be given an id", path.display()));
        let image = match folder {
            Some(folder) => format!("{syndrome}_{folder}_{stem}"),
            None => format!("{syndrome}_{stem}"),
        };
        let case = Case {
            image: ImageId::new(&image).map_err(|error| named(error.into()))?,
            // Two syndromes may have a subject of one name each; that does not make them one person.
            subject: SubjectId::new(&format!("{syndrome}_{subject}")).map_err(|error| named(error.into()))?,
            syndrome: syndrome.clone(),
        };
        let below = path.strip_prefix(&self.root).unwrap_or(path).with_extension("");
        let source = Source::Pictures {
            aligned: None,
            photograph: Some(path.to_owned()),
            rotated: None,
            name: below.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/"),
        };
        if let Some((_, other)) = self.cases.get(&case.image) {
            let other = other.file().display().to_string();
            self.leave(path, &format!("its id {image} is that of {other} too; rename one of the two"));
        } else {
            self.cases.insert(case.image.clone(), (case, source));
        }
        Ok(())
    }

    /// Notes a picture that has no place; other files (lists, thumbnails of a file manager) are nobody's concern.
    fn leave(&mut self, path: &Path, reason: &str) {
        if is_picture(path) {
            self.left_out.push(LeftOut { file: path.to_owned(), reason: reason.to_owned() });
        }
    }

    fn leave_folder(&mut self, path: &Path) {
        self.left_out.push(LeftOut {
            file: path.to_owned(),
            reason: "a folder in a subject's folder is not read; move its images up".to_owned(),
        });
    }
}

/// The entries of a folder, sorted; hidden ones are passed over.
fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let failed = || format!("cannot read the folder {}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> anyhow::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name
        .with_context(|| format!("{} has a name that is not Unicode; rename it", path.display()))?
        .to_owned())
}

fn stem_of(path: &Path) -> anyhow::Result<String> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    Ok(stem
        .with_context(|| format!("{} has a name that is not Unicode; rename it", path.display()))?
        .to_owned())
}

/// The name of the picture that an aligned face was cut from.
fn face_of(stem: &str) -> String {
    stem.strip_suffix("_aligned").filter(|name| !name.is_empty()).unwrap_or(stem).to_owned()
}
