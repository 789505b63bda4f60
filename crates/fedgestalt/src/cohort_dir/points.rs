use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, anyhow, ensure};
use domain::ImageId;
use vision::Points;

use crate::store::atomic;

/// The file with the points of photographs.
pub const POINTS_FILE: &str = "points.csv";

const HEADER: [&str; 11] = ["image_id", "x0", "y0", "x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4"];

/// Five facial points per photograph, in pixels, in the order of [`Points`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PointsTable(BTreeMap<ImageId, Points>);

impl PointsTable {
    /// The points of an image.
    pub fn get(&self, image: &ImageId) -> Option<&Points> {
        self.0.get(image)
    }

    /// Reads a file; no points if it is not there.
    ///
    /// # Errors
    ///
    /// When a column is missing, a cell is no number or an image comes twice: file and line are named.
    pub fn read_if_there(file: &Path) -> anyhow::Result<Self> {
        match atomic::read(file)? {
            Some(bytes) => Self::parse(&file.display().to_string(), &bytes),
            None => Ok(Self::default()),
        }
    }

    /// Reads the bytes of a file; `file` is what errors call it.
    ///
    /// # Errors
    ///
    /// As [`PointsTable::read_if_there`].
    pub fn parse(file: &str, bytes: &[u8]) -> anyhow::Result<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let header =
            reader.headers().with_context(|| format!("{file}:1: the header cannot be read"))?.clone();
        let mut columns = [0; HEADER.len()];
        for (column, name) in columns.iter_mut().zip(HEADER) {
            *column = header.iter().position(|cell| cell == name).ok_or_else(|| {
                anyhow!("{file}:1: the column `{name}` is missing; the header is {}", HEADER.join(","))
            })?;
        }
        let mut points = BTreeMap::new();
        let mut record = csv::StringRecord::new();
        loop {
            let line = reader.position().line();
            let more = reader.read_record(&mut record);
            let line = record.position().map_or(line, csv::Position::line);
            if !more.map_err(|_| {
                anyhow!("{file}:{line}: the row has too few or too many cells, or is not UTF-8")
            })? {
                return Ok(Self(points));
            }
            let cell = |at: usize| record.get(columns[at]).unwrap_or_default();
            let image = ImageId::new(cell(0)).with_context(|| format!("{file}:{line}"))?;
            let mut five = [[0.0; 2]; 5];
            for at in 1..HEADER.len() {
                let value: f32 =
                    cell(at).parse().ok().filter(|value: &f32| value.is_finite()).ok_or_else(|| {
                        anyhow!("{file}:{line}: the cell `{}` is not a number of pixels", HEADER[at])
                    })?;
                five[(at - 1) / 2][(at - 1) % 2] = value;
            }
            ensure!(
                points.insert(image.clone(), Points(five)).is_none(),
                "{file}:{line}: image {image} is there already; remove one of the two rows"
            );
        }
    }

    /// The file's text with the rows of some images.
    pub fn write<'a>(&self, images: impl IntoIterator<Item = &'a ImageId>) -> String {
        let mut text = HEADER.join(",");
        text.push('\n');
        for image in images {
            if let Some(Points(points)) = self.get(image) {
                let quoted = image.as_str().replace('"', "\"\"");
                let quote = if image.as_str().contains([',', '"']) { "\"" } else { "" };
                text.push_str(quote);
                text.push_str(&quoted);
                text.push_str(quote);
                for value in points.iter().flatten() {
                    // Writing to a String cannot fail.
                    let _ = write!(text, ",{value}");
                }
                text.push('\n');
            }
        }
        text
    }
}

impl FromIterator<(ImageId, Points)> for PointsTable {
    fn from_iter<I: IntoIterator<Item = (ImageId, Points)>>(points: I) -> Self {
        Self(points.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = "image_id,x0,y0,x1,y1,x2,y2,x3,y3,x4,y4\n7,1,2,3,4,5,6,7,8,9,10.25\n\"a,\"\"b\",1,1,2,2,3,3,4,4,5,5\n";

    #[test]
    fn what_is_written_is_what_was_read() {
        let table = PointsTable::parse("points.csv", GOOD.as_bytes()).unwrap();
        let ids = ["7", "a,\"b", "none"].map(|id| ImageId::new(id).unwrap());
        assert_eq!(table.get(&ids[0]).unwrap().0[4], [9.0, 10.25]);
        assert_eq!(table.write(&ids), GOOD);
    }

    #[test]
    fn faults_name_file_and_line() {
        let cases = [
            ("image_id,x0,y0,x1,y1,x2,y2,x3,y3,x4\n", "points.csv:1: the column `y4`"),
            ("7,1,2,3,4,5,6,7,8,9,10\n7,1,2,3,4,5,6,7,8,9,10\n", "points.csv:3: image 7 is there already"),
            ("7,1,2,3,4,5,6,7,8,9,ten\n", "points.csv:2: the cell `y4`"),
            ("7,1,2,3,4,5,6,7,8,inf,10\n", "points.csv:2: the cell `x4`"),
            ("7,1,2\n", "points.csv:2: the row has too few"),
            ("7,1,2,3,4,5,6,7,8,9,10\n../8,1,2,3,4,5,6,7,8,9,10\n", "points.csv:3"),
        ];
        for (rows, expected) in cases {
            let text = if rows.starts_with("image") {
                rows.to_owned()
            } else {
                format!("{}\n{rows}", HEADER.join(","))
            };
            let error = format!("{:#}", PointsTable::parse("points.csv", text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
