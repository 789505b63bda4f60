use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, anyhow, ensure};
use domain::ImageId;
use vision::Points;

use super::images::is_picture;
use crate::store::atomic;

/// The file with the points of photographs.
pub const POINTS_FILE: &str = "points.csv";

const HEADER: [&str; 11] = ["image_id", "x0", "y0", "x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4"];

/// The file that GestaltEngine-FaceCropper (repository AlexanderHustinx/GestaltEngine-FaceCropper at commit b2be530)
/// writes (`detect_pipe.py --result_type coords`) and reads (`align_pipe.py --coords_file`): a picture's file name, always with `.jpg`, below a folder
/// of pictures; the box of the face; and the five points, in pixels. FaceCropper writes whole numbers and turns a
/// picture upright first, so that its rows are those of its `<name>_rot.jpg`.
pub const FACE_COORDS_FILE: &str = "face_coords.csv";

const FACE_COORDS: [&str; 15] = [
    "img", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "kp1_x", "kp1_y", "kp2_x", "kp2_y", "kp3_x", "kp3_y",
    "kp4_x", "kp4_y", "kp5_x", "kp5_y",
];

/// Five facial points per photograph, in pixels, in the order of [`Points`].
///
/// Two forms of files are read: `points.csv` by image id, and [`FACE_COORDS_FILE`] by the picture's name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PointsTable(BTreeMap<String, Face>);

/// A row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Face {
    /// The points.
    pub points: Points,
    /// Left, top, right and bottom of the face, where the file has them.
    pub bbox: Option<[f32; 4]>,
}

impl PointsTable {
    /// The points of an image.
    pub fn get(&self, image: &ImageId) -> Option<&Points> {
        self.named(image.as_str()).map(|face| &face.points)
    }

    /// The row of a picture by its name: its path below the folder of pictures, without extension.
    pub fn named(&self, name: &str) -> Option<&Face> {
        self.0.get(name)
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a row, or replaces it.
    pub fn insert(&mut self, name: String, face: Face) {
        self.0.insert(name, face);
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

    /// Reads the bytes of a file in either form; `file` is what errors call it.
    ///
    /// # Errors
    ///
    /// As [`PointsTable::read_if_there`].
    pub fn parse(file: &str, bytes: &[u8]) -> anyhow::Result<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let header =
            reader.headers().with_context(|| format!("{file}:1: the header cannot be read"))?.clone();
        let coords = header.iter().any(|cell| cell == FACE_COORDS[0]);
        ensure!(
            !coords || header.iter().any(|cell| cell.starts_with("kp")),
            "{file}:1: the file has the boxes of faces but not their points; write it with a newer version of FaceCropper, \
             or with `fedgestalt align`"
        );
        let names: &[&str] = if coords { &FACE_COORDS } else { &HEADER };
        let columns = names
            .iter()
            .map(|name| {
                header.iter().position(|cell| cell == *name).ok_or_else(|| {
                    anyhow!("{file}:1: the column `{name}` is missing; the header is {}", names.join(","))
                })
            })
            .collect::<anyhow::Result<Vec<usize>>>()?;
        let mut table = BTreeMap::new();
        let mut record = csv::StringRecord::new();
        loop {
            let line = reader.position().line();
            let more = reader.read_record(&mut record);
            let line = record.position().map_or(line, csv::Position::line);
            if !more.map_err(|_| {
                anyhow!("{file}:{line}: the row has too few or too many cells, or is not UTF-8")
            })? {
                return Ok(Self(table));
            }
            let cell = |at: usize| record.get(columns[at]).unwrap_or_default();
            let name = if coords {
                picture_name(cell(0))
            } else {
                ImageId::new(cell(0)).with_context(|| format!("{file}:{line}"))?.to_string()
            };
            let number = |at: usize| {
                cell(at).parse().ok().filter(|value: &f32| value.is_finite()).ok_or_else(|| {
                    anyhow!("{file}:{line}: the cell `{}` is not a number of pixels", names[at])
                })
            };
            let numbers = (1..names.len()).map(number).collect::<anyhow::Result<Vec<f32>>>()?;
            let (bbox, points) = numbers.split_at(numbers.len() - 10);
            let face = Face {
                points: Points(std::array::from_fn(|at| [points[2 * at], points[2 * at + 1]])),
                bbox: bbox.try_into().ok(),
            };
            ensure!(
                table.insert(name.clone(), face).is_none(),
                "{file}:{line}: image {name} is there already; remove one of the two rows"
            );
        }
    }

    /// The text of `points.csv` with the rows of some images.
    pub fn write<'a>(&self, images: impl IntoIterator<Item = &'a ImageId>) -> String {
        let mut text = HEADER.join(",") + "\n";
        for image in images {
            if let Some(points) = self.get(image) {
                row(&mut text, image.as_str(), points.0.as_flattened());
            }
        }
        text
    }

    /// The text of [`FACE_COORDS_FILE`] with all rows, sorted by name. Numbers are written as exactly as they are known.
    /// Without a box the one round the points is written.
    pub fn write_face_coords(&self) -> String {
        let mut text = FACE_COORDS.join(",") + "\n";
        for (name, Face { points, bbox }) in &self.0 {
            let bbox = bbox.unwrap_or_else(|| {
                let fold = |axis: usize, of: fn(f32, f32) -> f32| {
                    points.0.iter().map(|point| point[axis]).reduce(of).unwrap_or_default()
                };
                [fold(0, f32::min), fold(1, f32::min), fold(0, f32::max), fold(1, f32::max)]
            });
            row(&mut text, &format!("{name}.jpg"), &[&bbox, points.0.as_flattened()].concat());
        }
        text
    }
}

/// A picture's name without its extension, which FaceCropper writes as `.jpg` whatever it is.
fn picture_name(cell: &str) -> String {
    let name = match cell.rsplit_once('.') {
        Some((stem, _)) if is_picture(Path::new(cell)) => stem,
        _ => cell,
    };
    name.replace('\\', "/")
}

fn row(text: &mut String, name: &str, values: &[f32]) {
    let quote = if name.contains([',', '"']) { "\"" } else { "" };
    let name = name.replace('"', "\"\"");
    text.push_str(&format!("{quote}{name}{quote}"));
    for value in values {
        // Writing to a String cannot fail.
        let _ = write!(text, ",{value}");
    }
    text.push('\n');
}

impl FromIterator<(ImageId, Points)> for PointsTable {
    fn from_iter<I: IntoIterator<Item = (ImageId, Points)>>(points: I) -> Self {
        let face = |(image, points): (ImageId, Points)| (image.to_string(), Face { points, bbox: None });
        Self(points.into_iter().map(face).collect())
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

    const FACE_CROPPER: &str = "img,bbox_x1,bbox_y1,bbox_x2,bbox_y2,kp1_x,kp1_y,kp2_x,kp2_y,kp3_x,kp3_y,kp4_x,kp4_y,kp5_x,kp5_y\n\
        12_rot.jpg,20,31,150,190,52,88,110,86,80,120,60,150,104,149\n\
        sub/7.1.jpg,0,0,9.5,9,1,2,3,4,5,6,7,8,9,10.25\n";

    #[test]
    fn face_coords_are_read_by_the_pictures_names_and_written_as_they_were() {
        let table = PointsTable::parse("face_coords.csv", FACE_CROPPER.as_bytes()).unwrap();
        let turned = table.named("12_rot").unwrap();
        assert_eq!((turned.points.0[1], turned.bbox), ([110.0, 86.0], Some([20.0, 31.0, 150.0, 190.0])));
        assert_eq!(table.get(&ImageId::new("12").unwrap()), None, "points of the picture that was turned");
        assert_eq!(table.named("sub/7.1").unwrap().points.0[4], [9.0, 10.25]);
        assert_eq!(table.write_face_coords(), FACE_CROPPER);
        let mut table = PointsTable::parse("points.csv", GOOD.as_bytes()).unwrap();
        table.insert(
            "7".to_owned(),
            Face { points: Points([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0], [5.0, 4.5]]), bbox: None },
        );
        assert!(table.write_face_coords().contains("\n7.jpg,1,4.5,5,8,1,8,2,7,"), "the box round the points");
    }

    #[test]
    fn faults_name_file_and_line() {
        let cases = [
            ("image_id,x0,y0,x1,y1,x2,y2,x3,y3,x4\n", "points.csv:1: the column `y4`"),
            ("7,1,2,3,4,5,6,7,8,9,10\n7,1,2,3,4,5,6,7,8,9,10\n", "points.csv:3: image 7 is there already"),
            ("7,1,2,3,4,5,6,7,8,9,ten\n", "points.csv:2: the cell `y4`"),
            ("7,1,2,3,4,5,6,7,8,inf,10\n", "points.csv:2: the cell `x4`"),
            ("7,1,2\n", "points.csv:2: the row has too few"),
            (
                "img,x1,y1,x2,y2\n7_rot.jpg,1,2,3,4\n",
                "points.csv:1: the file has the boxes of faces but not their points",
            ),
            ("7,1,2,3,4,5,6,7,8,9,10\n../8,1,2,3,4,5,6,7,8,9,10\n", "points.csv:3"),
        ];
        for (rows, expected) in cases {
            let text = if rows.starts_with("im") {
                rows.to_owned()
            } else {
                format!("{}\n{rows}", HEADER.join(","))
            };
            let error = format!("{:#}", PointsTable::parse("points.csv", text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
