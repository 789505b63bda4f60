//! Photographs as a user brings them: `align`, and the same path in `cohort import`, `encode` and `rank`.
//!
//! The detector is a toy (`reference/toy_detector.py`): it sees a face in the same place of every photograph that is not
//! black, and a second one on bright photographs. Tests with a real one need FEDGESTALT_MATERIAL:
//! `cargo test -p fedgestalt --test photographs -- --ignored`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/pictures.rs"]
mod pictures;
#[path = "common/program.rs"]
mod program;

use std::fs;
use std::path::Path;

use pictures::face;
use program::{Place, document};
use serde_json::Value;
use vision::decode::{Limits, decode};
use vision::{Crop, Photo, Points, align};

/// Where the toy sees its face on a photograph of 128 x 128.
const POINTS: [[f32; 2]; 5] = [[48.0, 52.0], [80.0, 52.0], [64.0, 70.0], [52.0, 88.0], [76.0, 88.0]];
const SIDE: u32 = 128;

/// A working folder whose configuration names the toy.
fn place() -> Place {
    let place = Place::new();
    let toy = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/toy_yunet.onnx");
    let text = format!("[detector]\nfile = {:?}\nsides = [64]\npaddings = [0.0]\n{}", toy, program::CONFIG);
    fs::write(place.path("fedgestalt.toml"), text).unwrap();
    place
}

/// A photograph with values of `from..from + 100`.
fn photograph(from: u8, number: u32) -> Photo {
    let rgb = (0..SIDE * SIDE * 3).map(|i| from + (i * (number + 7) / 5 % 100) as u8).collect();
    Photo::from_rgb(SIDE, SIDE, rgb).unwrap()
}

fn put(place: &Place, name: &str, photo: &Photo) {
    let file = place.path(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    image::save_buffer(file, photo.rgb(), photo.width(), photo.height(), image::ColorType::Rgb8).unwrap();
}

fn black() -> Photo {
    Photo::from_rgb(SIDE, SIDE, vec![0; (SIDE * SIDE * 3) as usize]).unwrap()
}

/// Seven photographs: one without a face, one with two, one damaged.
fn photographs(place: &Place) {
    for number in 0..4 {
        let syndrome = if number < 2 { "Alpha" } else { "Beta" };
        put(place, &format!("photos/{syndrome}/p{number}_1.png"), &photograph(20, number));
    }
    put(place, "photos/Beta/two_1.png", &photograph(155, 9));
    put(place, "photos/Beta/black_1.png", &black());
    fs::write(place.path("photos/Beta/broken.jpg"), [0xff, 0xd8, 0xff, 0xe0, 1, 2, 3]).unwrap();
}

/// Exit status and document of a command.
fn status(place: &Place, args: &str) -> (i32, Value) {
    let output = place.run(&format!("--json {args}"));
    (output.status.code().unwrap(), document(&output))
}

/// `file` and `key` of each entry of a list.
fn entries(list: &Value, key: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.as_array().unwrap().iter().map(|entry| (text(&entry["file"]), text(&entry[key]))).collect()
}

fn crop(file: &Path) -> Crop {
    Crop::from_photo(&decode(&fs::read(file).unwrap(), &Limits::default()).unwrap()).unwrap()
}

/// Mean difference of two crops in grey levels.
fn difference(a: &Crop, b: &Crop) -> f64 {
    let sum: u64 = a.rgb().iter().zip(b.rgb()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.rgb().len() as f64
}

#[test]
fn a_folder_of_photographs_becomes_crops_and_points() {
    let place = place();
    photographs(&place);
    let (code, summary) = status(&place, "align photos --out aligned");
    assert_eq!((code, &summary["made"], &summary["kept"]), (1, &5.into(), &0.into()), "{summary}");
    assert_eq!(summary["detector"]["kind"], "YuNet");
    let failed = entries(&summary["failed"], "reason");
    assert_eq!(failed.len(), 2, "{summary}");
    assert!(failed[0].0.ends_with("black_1.png") && failed[0].1.contains("no face"), "{failed:?}");
    assert!(failed[1].0.ends_with("broken.jpg") && failed[1].1.contains("cut short"), "{failed:?}");
    let several = entries(&summary["several_faces"], "faces");
    assert_eq!(several, [("photos/Beta/two_1.png".to_owned(), "2".to_owned())]);

    let table = fs::read_to_string(place.path("aligned/face_coords.csv")).unwrap();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(
        rows[0],
        "img,bbox_x1,bbox_y1,bbox_x2,bbox_y2,kp1_x,kp1_y,kp2_x,kp2_y,kp3_x,kp3_y,kp4_x,kp4_y,kp5_x,kp5_y"
    );
    let names: Vec<&str> = rows[1..].iter().map(|row| row.split_once(',').unwrap().0).collect();
    assert_eq!(
        names,
        ["Alpha/p0_1.jpg", "Alpha/p1_1.jpg", "Beta/p2_1.jpg", "Beta/p3_1.jpg", "Beta/two_1.jpg"]
    );
    for row in &rows[1..] {
        let found: Vec<f32> = row.split(',').skip(1).map(|cell| cell.parse().unwrap()).collect();
        let wanted = [&[32.0, 28.0, 96.0, 108.0], POINTS.as_flattened()].concat();
        assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 0.01), "{row}");
    }
    let expected = align::align(&photograph(20, 0), &Points(POINTS)).unwrap();
    let made = crop(&place.path("aligned/Alpha/p0_1_aligned.jpg"));
    assert!(difference(&made, &expected) < 4.0, "JPEG changes little: {}", difference(&made, &expected));
    place.run("align photos --out lossless --png");
    assert_eq!(crop(&place.path("lossless/Alpha/p0_1_aligned.png")), expected);

    // What is there is kept; what failed is tried again.
    put(&place, "photos/Beta/black_1.png", &photograph(20, 30));
    fs::remove_file(place.path("photos/Beta/broken.jpg")).unwrap();
    let before = fs::metadata(place.path("aligned/Alpha/p0_1_aligned.jpg")).unwrap().modified().unwrap();
    let (code, summary) = status(&place, "align photos --out aligned");
    assert_eq!((code, &summary["made"], &summary["kept"]), (0, &1.into(), &5.into()), "{summary}");
    assert_eq!(entries(&summary["several_faces"], "faces"), several, "what an earlier run saw");
    let after = fs::metadata(place.path("aligned/Alpha/p0_1_aligned.jpg")).unwrap().modified().unwrap();
    assert_eq!(before, after);
    let (code, summary) = status(&place, "align photos --out aligned --force --strict");
    assert_eq!((code, &summary["made"]), (1, &5.into()), "{summary}");
    let refused = entries(&summary["failed"], "reason");
    assert!(refused[0].0.ends_with("two_1.png") && refused[0].1.contains("2 faces"), "{refused:?}");

    // The crops are a cohort like the photographs.
    let (code, imported) = status(&place, "cohort import aligned --out cohort");
    assert_eq!((code, &imported["images"]), (0, &6.into()), "{imported}");
    assert!(place.path("cohort/gmdb_align/Alpha_p0_1_aligned.png").is_file());
}

#[test]
fn two_photographs_of_one_name_do_not_become_one_crop() {
    let place = place();
    for name in ["a/x.png", "b/x.png"] {
        put(&place, name, &photograph(20, 1));
    }
    let (code, summary) = status(&place, "align a b --out aligned");
    assert_eq!((code, &summary["made"]), (1, &1.into()));
    let failed = entries(&summary["failed"], "reason");
    assert!(failed[0].0 == "b/x.png" && failed[0].1.contains("a/x.png"), "{failed:?}");
    let told = place.failure("align nowhere --out none --detector fedgestalt.toml");
    assert!(told.contains("fedgestalt.toml") && told.contains("detector"), "{told}");
}

#[test]
fn either_tools_table_is_read() {
    let place = Place::new();
    photographs(&place);
    let row = |name: &str| {
        let points: Vec<String> = POINTS.as_flattened().iter().map(f32::to_string).collect();
        format!("{name},{}\n", points.join(","))
    };
    let points = "image_id,x0,y0,x1,y1,x2,y2,x3,y3,x4,y4\n".to_owned() + &row("p0_1") + &row("p1_1");
    let coords =
        "img,bbox_x1,bbox_y1,bbox_x2,bbox_y2,kp1_x,kp1_y,kp2_x,kp2_y,kp3_x,kp3_y,kp4_x,kp4_y,kp5_x,kp5_y\n"
            .to_owned()
            + &row("Alpha/p0_1.jpg,32,28,96,108")
            + &row("Alpha/p1_1.jpg,32,28,96,108")
            + &row("7_rot.jpg,32,28,96,108");
    fs::write(place.path("points.csv"), points).unwrap();
    fs::write(place.path("face_coords.csv"), coords).unwrap();
    let expected = align::align(&photograph(20, 0), &Points(POINTS)).unwrap();
    for (table, root, name) in
        [("points.csv", "photos/Alpha", "p0_1"), ("face_coords.csv", "photos", "Alpha/p0_1")]
    {
        let out = format!("by-{table}");
        let (_, summary) = status(&place, &format!("align {root} --points {table} --png --out {out}"));
        assert_eq!(summary["made"], 2, "{summary}");
        assert_eq!(crop(&place.path(&format!("{out}/{name}_aligned.png"))), expected, "{table}");
        // What was written gives the same crops again.
        let again = format!("align {root} --points {out}/face_coords.csv --png --out again-{table}");
        status(&place, &again);
        assert_eq!(crop(&place.path(&format!("again-{table}/{name}_aligned.png"))), expected, "{table}");
    }
    let (_, imported) = status(&place, "cohort import photos --points face_coords.csv --out cohort");
    assert_eq!((&imported["images"], &imported["left_out"].as_array().unwrap().len()), (&2.into(), &5));
    assert_eq!(crop(&place.path("cohort/gmdb_align/Alpha_p0_1_aligned.png")), expected);

    // FaceCropper's rows are those of the photographs that it turned: they are used on these alone.
    let gmdb = |file: &str, text: &str| {
        let path = place.path(&format!("gmdb/gmdb_metadata/gmdb_{file}_images_v1.0.3.csv"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    gmdb("train", "image_id,label,subject\n7,1,1\n8,1,2\n");
    gmdb("frequent_gallery", "image_id,label,subject\n7,1,1\n8,1,2\n");
    put(&place, "gmdb/gmdb_images/7.png", &photograph(20, 5));
    put(&place, "gmdb/gmdb_images/8.png", &photograph(20, 6));
    let output = place.run("--json cohort import gmdb --points face_coords.csv --out none");
    assert!(document(&output)["error"].is_string(), "no points for these: {}", document(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("none of these photographs") && told.contains("gmdb_rot"), "{told}");
    put(&place, "gmdb/gmdb_rot/7_rot.jpg", &photograph(20, 7));
    let (_, imported) = status(&place, "cohort import gmdb --points face_coords.csv --out turned");
    assert_eq!(imported["images"], 1, "{imported}");
    let turned =
        decode(&fs::read(place.path("gmdb/gmdb_rot/7_rot.jpg")).unwrap(), &Limits::default()).unwrap();
    let expected = align::align(&turned, &Points(POINTS)).unwrap();
    assert_eq!(crop(&place.path("turned/gmdb_align/7_aligned.png")), expected);
}

#[test]
fn without_a_detector_the_error_says_how_to_get_one() {
    let place = Place::new();
    put(&place, "photos/Alpha/p0_1.png", &photograph(20, 0));
    fs::write(place.path("photos/Alpha/p1_1.png"), face(3).to_png().unwrap()).unwrap();
    let (code, summary) = status(&place, "align photos --png --out aligned");
    assert_eq!((code, &summary["made"]), (1, &1.into()), "an aligned face needs no detector");
    assert_eq!(crop(&place.path("aligned/Alpha/p1_1_aligned.png")), face(3));
    let helps = |reason: &str| {
        for part in
            ["128 x 128", "p0_1.png", "--detector", "[detector]", "face_detection_yunet", "SCRFD", "--points"]
        {
            assert!(reason.contains(part), "{part}: {reason}");
        }
    };
    helps(summary["failed"][0]["reason"].as_str().unwrap());
    let (_, imported) = status(&place, "cohort import photos --out cohort --frequent-subjects 3");
    helps(imported["left_out"][0]["reason"].as_str().unwrap());
    place.json("encode --cohort cohort --out e.safetensors");
    helps(&place.failure("rank photos/Alpha/p0_1.png --cohort cohort --encodings e.safetensors"));
}

/// GMDB's folders with photographs only: syndromes 1 and 2 of three subjects each, all in the gallery.
fn gmdb(place: &Place) {
    let mut rows = "image_id,label,subject\n".to_owned();
    for image in 0..6 {
        rows.push_str(&format!("{image},{},{image}\n", 1 + image % 2));
        let photo = match image {
            4 => photograph(155, 40),
            5 => black(),
            _ => photograph(20, 10 * image),
        };
        put(place, &format!("gmdb/gmdb_images/{image}.png"), &photo);
    }
    for table in ["train", "frequent_gallery"] {
        let file = place.path(&format!("gmdb/gmdb_metadata/gmdb_{table}_images_v1.0.3.csv"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, &rows).unwrap();
    }
}

#[test]
fn photographs_are_encoded_and_ranked_like_their_crops() {
    let place = place();
    gmdb(&place);
    let (code, summary) = status(&place, "encode --cohort gmdb --out e.safetensors");
    assert_eq!((code, &summary["images"]), (1, &5.into()), "{summary}");
    assert!(summary["left_out"][0]["reason"].as_str().unwrap().contains("no face"), "{summary}");
    assert_eq!(summary["several_faces"], serde_json::json!([{ "image": "4", "faces": 2 }]));
    let (code, strict) = status(&place, "encode --strict --cohort gmdb --out strict.safetensors");
    assert_eq!((code, &strict["images"]), (1, &4.into()), "{strict}");

    let (code, imported) = status(&place, "cohort import gmdb --out cohort");
    assert_eq!((code, &imported["images"]), (0, &5.into()), "{imported}");
    assert_eq!(entries(&imported["several_faces"], "faces").len(), 1);
    place.json("encode --cohort cohort --out f.safetensors");
    // A probe from its photograph is the gallery's image of it, whichever way that came.
    for encodings in ["e.safetensors", "f.safetensors"] {
        let ranked =
            place.json(&format!("rank gmdb/gmdb_images/2.png --cohort cohort --encodings {encodings}"));
        let nearest = &ranked[0]["syndromes"][0];
        assert_eq!(nearest["nearest_image"], "2");
        assert!(nearest["distance"].as_f64().unwrap() < 1e-3, "{ranked}");
    }
    // One photograph without a face among several does not hold up the others.
    let photos = ["5", "4", "3"].map(|image| format!("gmdb/gmdb_images/{image}.png"));
    let query = format!("rank {} --cohort cohort --encodings f.safetensors", photos.join(" "));
    let (code, ranked) = status(&place, &query);
    assert_eq!(code, 1);
    assert!(ranked[0]["error"].as_str().unwrap().contains("no face"), "{ranked}");
    assert_eq!((&ranked[1]["faces"], &ranked[1]["syndromes"][0]["nearest_image"]), (&2.into(), &"4".into()));
    assert_eq!(ranked[2]["syndromes"][0]["nearest_image"], "3");
    let told =
        place.failure(&format!("rank --strict {} --cohort cohort --encodings f.safetensors", photos[1]));
    assert!(told.contains("2 faces"), "{told}");
}

#[test]
#[ignore = "needs FEDGESTALT_MATERIAL with YuNet, EdgeFace and the ORL faces; a minute"]
fn every_orl_face_is_found_and_recognised() {
    let material =
        std::env::var("FEDGESTALT_MATERIAL").expect("FEDGESTALT_MATERIAL names the folder with the material");
    let place = Place::new();
    fs::write(
        place.path("fedgestalt.toml"),
        format!(
            "[trunk]\nfile = \"{material}/models/edgeface_xxs.onnx\"\n[detector]\nfile = \"{material}/models/yunet.onnx\"\n\
             [[members]]\nname = \"edgeface\"\nkind = \"published\"\n"
        ),
    )
    .unwrap();
    let imported = place.json(&format!("cohort import {material}/faces/orl --out orl"));
    assert_eq!(
        (&imported["images"], &imported["syndromes"]),
        (&400.into(), &40.into()),
        "{}",
        imported["left_out"]
    );
    place.json("encode --cohort orl --out orl.safetensors");
    let found = place.json("evaluate --cohort orl --encodings orl.safetensors --leave-one-out");
    assert_eq!((&found["probes"], &found["leave_one_out"][0]), (&400.into(), &100.0.into()), "{found}");
}
