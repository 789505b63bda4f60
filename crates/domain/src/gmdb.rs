//! The tables of GestaltMatcher DB: six CSV files, from and to text.
//!
//! `gmdb_{train,val}_images_vX.csv` and `gmdb_frequent_{gallery,test}_images_vX.csv` have the columns
//! `image_id,label,subject`, `gmdb_rare_{gallery,test}_images_vX.csv` also `split` (0..=9). Columns are found by name;
//! further ones are ignored. `label` is a [`SyndromeId`]; what it stands for is told by an optional `syndromes.csv`
//! with `label,name,mondo` and, if known, `omim` and `orpha`.

use std::collections::{BTreeMap, HashMap};

use crate::{Case, Cohort, Error, ErrorKind, ImageId, Part, Result, SubjectId, Syndrome, SyndromeId};

/// One of the six files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Trained on.
    Train,
    /// Validation.
    Validation,
    /// Frequent syndromes, compared against.
    FrequentGallery,
    /// Frequent syndromes, asked about.
    FrequentTest,
    /// Rare syndromes, compared against, by split.
    RareGallery,
    /// Rare syndromes, asked about, by split.
    RareTest,
}

impl Table {
    /// The six tables, training first.
    pub const ALL: [Table; 6] = [
        Self::Train,
        Self::Validation,
        Self::FrequentGallery,
        Self::FrequentTest,
        Self::RareGallery,
        Self::RareTest,
    ];

    /// The file's name in a version of the database, say `1.0.3`.
    pub fn file_name(self, version: &str) -> String {
        let stem = match self {
            Self::Train => "train",
            Self::Validation => "val",
            Self::FrequentGallery => "frequent_gallery",
            Self::FrequentTest => "frequent_test",
            Self::RareGallery => "rare_gallery",
            Self::RareTest => "rare_test",
        };
        format!("gmdb_{stem}_images_v{version}.csv")
    }

    /// The table and version that a file's name stands for.
    pub fn of_file_name(name: &str) -> Option<(Table, &str)> {
        let version = name.strip_suffix(".csv")?.rsplit_once("_images_v")?.1;
        let table = Self::ALL.into_iter().find(|table| table.file_name(version) == name)?;
        Some((table, version))
    }

    /// Whether the table has the column `split`.
    pub fn has_splits(self) -> bool {
        matches!(self, Self::RareGallery | Self::RareTest)
    }

    /// The part that a row of this table puts its image in; `split` counts for rare tables only.
    pub fn part(self, split: u8) -> Part {
        match self {
            Self::Train => Part::Train,
            Self::Validation => Part::Validation,
            Self::FrequentGallery => Part::FrequentGallery,
            Self::FrequentTest => Part::FrequentTest,
            Self::RareGallery => Part::RareGallery(split),
            Self::RareTest => Part::RareTest(split),
        }
    }

    fn of_part(part: Part) -> Table {
        match part {
            Part::Train => Self::Train,
            Part::Validation => Self::Validation,
            Part::FrequentGallery => Self::FrequentGallery,
            Part::FrequentTest => Self::FrequentTest,
            Part::RareGallery(_) => Self::RareGallery,
            Part::RareTest(_) => Self::RareTest,
        }
    }

    /// Reads the table from the bytes of a file; `file` is what errors call it. Refused when a column is missing or a
    /// cell does not parse, with the line.
    pub fn parse(self, file: &str, bytes: &[u8]) -> Result<Vec<Row>> {
        let mut sheet = Sheet::open(file, bytes)?;
        let image = sheet.column("image_id")?;
        let label = sheet.column("label")?;
        let subject = sheet.column("subject")?;
        let split = if self.has_splits() { Some(sheet.column("split")?) } else { None };
        let mut rows = Vec::new();
        while let Some((line, record)) = sheet.next()? {
            let cell = |column: usize| record.get(column).unwrap_or_default();
            let at = |error: Error| Error::new(error.kind(), format!("{file}, line {line}: {error}"));
            let split = split
                .map(|column| {
                    cell(column).parse::<u8>().ok().filter(|split| *split < MAX_SPLITS).ok_or_else(|| {
                        at(Error::new(
                            ErrorKind::Syntax,
                            "the split is not a number from 0 to 9; correct the column `split`",
                        ))
                    })
                })
                .transpose()?;
            rows.push(Row {
                line,
                image: ImageId::new(cell(image)).map_err(at)?,
                label: SyndromeId::new(cell(label)).map_err(at)?,
                subject: SubjectId::new(cell(subject)).map_err(at)?,
                split,
            });
        }
        Ok(rows)
    }

    /// Writes rows as the file holds them. [`Row::line`] is not written; a rare row without split is written as of
    /// split 0.
    pub fn write(self, rows: &[Row]) -> String {
        let mut text = String::from(if self.has_splits() {
            "image_id,label,subject,split\n"
        } else {
            "image_id,label,subject\n"
        });
        for row in rows {
            let mut cells =
                vec![quoted(row.image.as_str()), quoted(row.label.as_str()), quoted(row.subject.as_str())];
            if self.has_splits() {
                cells.push(row.split.unwrap_or(0).to_string());
            }
            text.push_str(&cells.join(","));
            text.push('\n');
        }
        text
    }
}

/// Splits of the rare tables.
pub const MAX_SPLITS: u8 = 10;

/// One row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its line in the file, from 1; the header is line 1. 0 for a row that comes from no file.
    pub line: u64,
    /// `image_id`.
    pub image: ImageId,
    /// `label`.
    pub label: SyndromeId,
    /// `subject`.
    pub subject: SubjectId,
    /// `split`, in rare tables.
    pub split: Option<u8>,
}

/// A table that was read: which one, what to call its file, and its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFile {
    /// Which of the six.
    pub table: Table,
    /// The file's name, for messages.
    pub file: String,
    /// Its rows in order.
    pub rows: Vec<Row>,
}

impl TableFile {
    /// Reads a table, see [`Table::parse`].
    pub fn parse(table: Table, file: &str, bytes: &[u8]) -> Result<Self> {
        Ok(Self { table, file: file.to_owned(), rows: table.parse(file, bytes)? })
    }
}

/// Makes a cohort of tables and, where there is one, the syndromes file (its name and bytes). Syndromes that it does
/// not list are known by their label. Refused when an image has two labels or two subjects, or is twice in one part;
/// [`crate::check`] finds all such faults at once.
pub fn assemble(tables: &[TableFile], syndromes: Option<(&str, &[u8])>) -> Result<Cohort> {
    let mut listed: BTreeMap<SyndromeId, Syndrome> = BTreeMap::new();
    if let Some((file, bytes)) = syndromes {
        listed.extend(parse_syndromes(file, bytes)?.into_iter().map(|s| (s.id.clone(), s)));
    }
    let mut cases: HashMap<&ImageId, (&Row, &str)> = HashMap::new();
    let mut parts: BTreeMap<Part, Vec<ImageId>> = BTreeMap::new();
    for TableFile { table, file, rows } in tables {
        for row in rows {
            let (first, first_file) = *cases.entry(&row.image).or_insert((row, file));
            if (&first.label, &first.subject) != (&row.label, &row.subject) {
                let what = if first.label == row.label { "another subject" } else { "another label" };
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "{file}, line {}: image {} has {what} than in {first_file}, line {}; correct one of them",
                        row.line, row.image, first.line
                    ),
                ));
            }
            if table.has_splits() && row.split.is_none() {
                return Err(Error::new(
                    ErrorKind::Syntax,
                    format!("{file}, line {}: the row has no split", row.line),
                ));
            }
            listed.entry(row.label.clone()).or_insert_with(|| Syndrome::unnamed(row.label.clone()));
            parts.entry(table.part(row.split.unwrap_or(0))).or_default().push(row.image.clone());
        }
    }
    let cases = cases
        .into_values()
        .map(|(row, _)| Case {
            image: row.image.clone(),
            subject: row.subject.clone(),
            syndrome: row.label.clone(),
        })
        .collect();
    Cohort::new(listed.into_values().collect(), cases, parts)
}

/// The six tables of a cohort, in the order of [`Table::ALL`], rare rows by split. Lines are where [`Table::write`]
/// puts the rows.
pub fn disassemble(cohort: &Cohort) -> Vec<(Table, Vec<Row>)> {
    let mut tables: BTreeMap<Table, Vec<Row>> =
        Table::ALL.into_iter().map(|table| (table, Vec::new())).collect();
    for (part, images) in cohort.parts() {
        let rows = tables.entry(Table::of_part(part)).or_default();
        for case in images.iter().filter_map(|image| cohort.case(image)) {
            rows.push(Row {
                line: rows.len() as u64 + 2,
                image: case.image.clone(),
                label: case.syndrome.clone(),
                subject: case.subject.clone(),
                split: part.split(),
            });
        }
    }
    tables.into_iter().collect()
}

/// Reads a syndromes file: column `label`, and `name`, `mondo`, `omim`, `orpha` where given. Refused when a label is
/// listed twice.
pub fn parse_syndromes(file: &str, bytes: &[u8]) -> Result<Vec<Syndrome>> {
    let mut sheet = Sheet::open(file, bytes)?;
    let label = sheet.column("label")?;
    let [name, mondo, omim, orpha] =
        ["name", "mondo", "omim", "orpha"].map(|column| sheet.column(column).ok());
    let mut lines: HashMap<SyndromeId, u64> = HashMap::new();
    let mut syndromes = Vec::new();
    while let Some((line, record)) = sheet.next()? {
        let cell = |column: Option<usize>| {
            column.and_then(|c| record.get(c)).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let id = SyndromeId::new(record.get(label).unwrap_or_default())
            .map_err(|error| Error::new(error.kind(), format!("{file}, line {line}: {error}")))?;
        if let Some(first) = lines.insert(id.clone(), line) {
            return Err(Error::new(
                ErrorKind::Duplicate,
                format!(
                    "{file}, line {line}: label {id} is listed already in line {first}; remove one of the two"
                ),
            ));
        }
        syndromes.push(Syndrome {
            name: cell(name).unwrap_or_else(|| id.to_string()),
            mondo: cell(mondo),
            omim: cell(omim),
            orpha: cell(orpha),
            id,
        });
    }
    Ok(syndromes)
}

/// Writes a syndromes file with all five columns.
pub fn write_syndromes(syndromes: &[Syndrome]) -> String {
    let mut text = String::from("label,name,mondo,omim,orpha\n");
    for syndrome in syndromes {
        let optional = [&syndrome.mondo, &syndrome.omim, &syndrome.orpha]
            .map(|id| quoted(id.as_deref().unwrap_or_default()));
        text.push_str(&format!(
            "{},{},{}\n",
            quoted(syndrome.id.as_str()),
            quoted(&syndrome.name),
            optional.join(",")
        ));
    }
    text
}

/// RFC 4180 quoting, where needed.
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

/// A CSV file with a header, whose cells are trimmed.
struct Sheet<'a> {
    file: &'a str,
    bytes: &'a [u8],
    headers: Vec<String>,
    reader: csv::Reader<&'a [u8]>,
    record: csv::StringRecord,
    /// The last record's start, and its line.
    place: (usize, u64),
}

impl<'a> Sheet<'a> {
    fn open(file: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let record = csv::StringRecord::new();
        let mut sheet = Self { file, bytes, headers: Vec::new(), reader, record, place: (0, 1) };
        let headers = sheet.reader.headers().cloned();
        sheet.headers = headers.map_err(|error| sheet.syntax(&error))?.iter().map(str::to_owned).collect();
        Ok(sheet)
    }

    fn column(&self, name: &str) -> Result<usize> {
        self.headers.iter().position(|header| header == name).ok_or_else(|| {
            let file = self.file;
            let message = format!("{file}, line 1: the column `{name}` is missing; the header must name it");
            Error::new(ErrorKind::Syntax, message)
        })
    }

    fn next(&mut self) -> Result<Option<(u64, &csv::StringRecord)>> {
        let more = self.reader.read_record(&mut self.record).map_err(|error| self.syntax(&error))?;
        self.place = self.place_of(self.record.position());
        Ok(more.then_some((self.place.1, &self.record)))
    }

    /// Where the record at `position` starts. The reader's own line is too small after a `\r\n` and after blank lines,
    /// which it counts to the record that follows them.
    fn place_of(&self, position: Option<&csv::Position>) -> (usize, u64) {
        let (known, line) = self.place;
        let mut at = position.map_or(known, |p| p.byte() as usize).clamp(known, self.bytes.len());
        while self.bytes.get(at).is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            at += 1;
        }
        (at, line + self.bytes[known..at].iter().filter(|byte| **byte == b'\n').count() as u64)
    }

    /// The reader's own messages quote what they read; these only count it.
    fn syntax(&self, error: &csv::Error) -> Error {
        let fault = match error.kind() {
            csv::ErrorKind::Utf8 { .. } => "the text is not UTF-8; save the file as UTF-8".to_owned(),
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!(
                    "the row has {len} cells instead of {expected_len}; give every row as many cells as the header"
                )
            }
            _ => "the row cannot be read as CSV".to_owned(),
        };
        let line = self.place_of(error.position()).1;
        Error::new(ErrorKind::Syntax, format!("{}, line {line}: {fault}", self.file))
    }
}
