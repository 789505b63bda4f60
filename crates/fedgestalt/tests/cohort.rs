//! `init` and `cohort import | check | draw` as a user runs them.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/pictures.rs"]
mod pictures;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use domain::{Cohort, ImageId, Part};
use fedgestalt::cohort_dir::CohortDir;
use fedgestalt::config::{Config, FILE_NAME};
use pictures::face;
use serde_json::Value;
use vision::{Photo, Points, align};

fn fedgestalt(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fedgestalt")).current_dir(folder).args(args).output().unwrap()
}

/// Runs with `--json`; the exit status and the document.
fn json(folder: &Path, args: &[&str]) -> (i32, Value) {
    let output = fedgestalt(folder, &[args, &["--json"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let document = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{args:?}: {error}: {text} {}", String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code().unwrap(), document)
}

/// Writes a file, making its folder.
fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn put_face(path: &Path, number: u64) {
    put(path, face(number).to_png().unwrap());
}

fn id(text: &str) -> ImageId {
    ImageId::new(text).unwrap()
}

/// 20 syndromes would be slow to write; this has 3 frequent ones of 8 subjects and 2 rare ones of 3, 33 images, in the
/// folder layout.
fn folders(root: &Path) {
    let mut number = 0;
    let mut put_next = |path: &Path| {
        put_face(path, number);
        number += 1;
    };
    for syndrome in ["Alpha", "Beta", "OMIM:101600"] {
        for subject in 0..8 {
            put_next(&root.join(syndrome).join(format!("p{subject}_1.png")));
        }
        put_next(&root.join(syndrome).join("p0_2.png"));
    }
    for syndrome in ["rare a", "rare b"] {
        for subject in ["anna", "ben", "cleo"] {
            put_next(&root.join(syndrome).join(subject).join("front.png"));
        }
    }
}

/// The same, imported.
fn imported() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    folders(&root.path().join("src"));
    let (status, _) = json(root.path(), &["cohort", "import", "src", "--out", "cohort"]);
    assert_eq!(status, 0);
    root
}

/// A folder in GMDB's layout: syndrome 1 is frequent, 2 is rare.
fn gmdb(root: &Path) {
    let tables = [
        ("train", "image_id,label,subject\n10,1,1\n11,1,2\n"),
        ("val", "image_id,label,subject\n12,1,3\n"),
        ("frequent_gallery", "image_id,label,subject\n10,1,1\n11,1,2\n12,1,3\n"),
        ("frequent_test", "image_id,label,subject\n13,1,4\n"),
        ("rare_gallery", "image_id,label,subject,split\n20,2,5,0\n21,2,6,1\n"),
        ("rare_test", "image_id,label,subject,split\n21,2,6,0\n20,2,5,1\n"),
    ];
    for (name, text) in tables {
        put(&root.join(format!("gmdb_metadata/gmdb_{name}_images_v1.0.3.csv")), text);
    }
    put(
        &root.join("syndromes.csv"),
        "label,name,mondo\n1,First syndrome,MONDO:0000001\n2,\"Second, rare\",\n",
    );
    for (image, suffix) in [
        (10, "aligned"),
        (11, "rot_aligned"),
        (12, "aligned"),
        (13, "aligned"),
        (20, "aligned"),
        (21, "aligned"),
    ] {
        put(&root.join(format!("gmdb_align/{image}_{suffix}.jpg")), face(image).to_jpeg(95).unwrap());
    }
}

#[test]
fn init_writes_the_defaults_once() {
    let root = tempfile::tempdir().unwrap();
    let (status, document) = json(root.path(), &["init", "site"]);
    let file = root.path().join("site").join(FILE_NAME);
    assert_eq!(status, 0);
    assert_eq!(root.path().join(document["written"].as_str().unwrap()), file);
    assert_eq!(Config::parse(&fs::read_to_string(&file).unwrap()).unwrap(), Config::default());
    fs::write(&file, "[training]\nepochs = 3\n").unwrap();
    let (status, document) = json(root.path(), &["init", "site"]);
    assert_eq!(status, 1);
    assert!(document["error"].as_str().unwrap().contains("--force"), "{document}");
    assert_eq!(Config::read(&file).unwrap().training.epochs, 3, "left as it was");
    assert_eq!(json(root.path(), &["init", "site", "--force"]).0, 0);
}

#[test]
fn a_misspelt_key_in_the_working_folder_is_named() {
    let root = tempfile::tempdir().unwrap();
    put(&root.path().join(FILE_NAME), "[training]\nepoch = 3\n");
    let output = fedgestalt(root.path(), &["cohort", "check", "."]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains(FILE_NAME) && text.contains("`epoch`"), "{text}");
}

#[test]
fn a_folder_per_syndrome_becomes_a_cohort() {
    let root = tempfile::tempdir().unwrap();
    let src = root.path().join("src");
    folders(&src);
    put(&src.join("Alpha/broken_1.png"), &face(1).to_png().unwrap()[..500]);
    put(&src.join("Beta/p1_9.gif"), "GIF89a");
    put(&src.join("loose.jpg"), "x");
    put(&src.join("Beta/Thumbs.db"), "nobody's concern");
    put(&src.join("syndromes.csv"), "label,name,omim\nAlpha,Alpha syndrome,OMIM:1\n");

    let args = ["cohort", "import", "src", "--out", "cohort"];
    let (status, summary) = json(root.path(), &args);
    assert_eq!(status, 0);
    assert_eq!(
        (&summary["images"], &summary["subjects"], &summary["syndromes"]),
        (&33.into(), &30.into(), &5.into())
    );
    let left_out: Vec<(&str, &str)> = summary["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["file"].as_str().unwrap(), entry["reason"].as_str().unwrap()))
        .collect();
    let expected = [
        ("src/Alpha/broken_1.png", "damaged"),
        ("src/Beta/p1_9.gif", "GIF"),
        ("src/loose.jpg", "no syndrome's folder"),
    ];
    assert_eq!(left_out.len(), expected.len(), "{left_out:?}");
    for ((file, reason), (wanted_file, wanted)) in left_out.iter().zip(expected) {
        assert!(*file == wanted_file && reason.contains(wanted), "{file}: {reason}");
    }

    let cohort = CohortDir::open(&root.path().join("cohort")).unwrap();
    let case = |image: &str| cohort.cohort.case(&id(image)).unwrap().clone();
    assert_eq!(case("Alpha_p0_1").subject, case("Alpha_p0_2").subject, "one prefix, one subject");
    assert_ne!(case("Alpha_p0_1").subject, case("Beta_p0_1").subject, "one name, two syndromes");
    assert_eq!(case("rare a_anna_front").subject.as_str(), "rare a_anna");
    assert_eq!(cohort.cohort.trained_syndromes().len(), 3);
    assert_eq!(cohort.cohort.splits().len(), 10);
    let alpha = &cohort.cohort.syndromes()[0];
    assert_eq!((alpha.name.as_str(), alpha.omim.as_deref()), ("Alpha syndrome", Some("OMIM:1")));
    assert_eq!(cohort.crop(&id("Alpha_p0_1")).unwrap(), face(0), "no pixel is lost");

    let (status, again) = json(root.path(), &[&args[..], &["--strict"]].concat());
    assert_eq!((status, &again["done_before"]), (1, &33.into()), "the second time nothing is left to do");
    let (status, document) = json(root.path(), &[&args[..], &["--seed", "2"]].concat());
    assert_eq!(status, 1);
    assert!(document["error"].as_str().unwrap().contains("another --out"), "{document}");
}

#[test]
fn photographs_need_points_or_a_word() {
    let root = tempfile::tempdir().unwrap();
    let rgb: Vec<u8> = (0..200 * 150 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let photo = Photo::from_rgb(200, 150, rgb.clone()).unwrap();
    let five = [[80.0, 60.0], [120.0, 60.0], [100.0, 80.5], [84.0, 100.0], [116.0, 100.0]];
    for syndrome in ["a", "b"] {
        for subject in 0..3 {
            let file = root.path().join(format!("src/{syndrome}/{subject}.png"));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            image::save_buffer(&file, &rgb, 200, 150, image::ColorType::Rgb8).unwrap();
        }
    }
    let import = |args: &[&str]| {
        json(root.path(), &[&["cohort", "import", "src", "--frequent-subjects", "3"], args].concat())
    };

    let (status, document) = import(&["--out", "none"]);
    let error = document["error"].as_str().unwrap();
    assert_eq!(status, 1);
    assert!(
        error.contains("200 x 150") && error.contains("points.csv") && error.contains("--as-aligned"),
        "{error}"
    );

    // The same folder again: an import that came to nothing is not in the way.
    let (status, summary) = import(&["--out", "none", "--as-aligned"]);
    assert_eq!((status, &summary["images"]), (0, &6.into()));

    put(
        &root.path().join("points.csv"),
        "image_id,x0,y0,x1,y1,x2,y2,x3,y3,x4,y4\na_0,80,60,120,60,100,80.5,84,100,116,100\n",
    );
    let (status, summary) = import(&["--out", "aligned", "--points", "points.csv", "--as-aligned"]);
    assert_eq!((status, &summary["images"]), (0, &6.into()));
    let cohort = CohortDir::open(&root.path().join("aligned")).unwrap();
    assert_eq!(cohort.crop(&id("a_0")).unwrap(), align::align(&photo, &Points(five)).unwrap());
    assert_ne!(cohort.crop(&id("a_1")).unwrap(), cohort.crop(&id("a_0")).unwrap());
}

#[test]
fn gmdb_is_imported_without_what_is_broken() {
    let root = tempfile::tempdir().unwrap();
    let src = root.path().join("src");
    gmdb(&src);
    put(&src.join("gmdb_align/12_aligned.jpg"), "\u{feff}not a picture");
    fs::remove_file(src.join("gmdb_align/13_aligned.jpg")).unwrap();
    let (status, summary) = json(root.path(), &["cohort", "import", "src", "--out", "cohort"]);
    assert_eq!((status, &summary["layout"], &summary["images"]), (0, &"gmdb".into(), &4.into()));
    let left_out = summary["left_out"].as_array().unwrap();
    assert!(left_out[0]["file"].as_str().unwrap().ends_with("12_aligned.jpg"));
    assert!(left_out[1]["reason"].as_str().unwrap().contains("not there"));

    let source = CohortDir::open(&src).unwrap();
    let cohort = CohortDir::open(&root.path().join("cohort")).unwrap();
    assert_eq!(cohort.version, "1.0.3");
    assert_eq!(cohort.cohort.part(Part::FrequentGallery), [id("10"), id("11")]);
    assert_eq!(cohort.cohort.part(Part::RareTest(1)), [id("20")]);
    assert_eq!(cohort.cohort.syndromes()[1].name, "Second, rare");
    for image in ["10", "11"] {
        assert_eq!(cohort.crop(&id(image)).unwrap(), source.crop(&id(image)).unwrap());
    }
    let error = format!("{:#}", source.crop(&id("13")).unwrap_err());
    assert!(error.contains("13_aligned.jpg"), "{error}");
}

#[test]
fn faulty_tables_are_named_with_file_and_line() {
    let train = "gmdb_metadata/gmdb_train_images_v1.0.3.csv";
    let test = "gmdb_metadata/gmdb_rare_test_images_v1.0.3.csv";
    let cases = [
        (train, "image_id,label\n10,1\n", "train_images_v1.0.3.csv, line 1: the column `subject` is missing"),
        (train, "image_id,label,subject\n10,1,1\n../11,1,2\n", "train_images_v1.0.3.csv, line 3"),
        (
            train,
            "image_id,label,subject\n10,1,1\n10,2,1\n",
            "train_images_v1.0.3.csv, line 3: image 10 has another label",
        ),
        (test, "image_id,label,subject,split\n21,2,6,ten\n", "rare_test_images_v1.0.3.csv, line 2"),
        ("syndromes.csv", "label,name\n1,a\n1,b\n", "syndromes.csv, line 3"),
        ("points.csv", "image_id,x0\n10,1\n", "points.csv:1: the column `y0`"),
    ];
    for (file, text, expected) in cases {
        let root = tempfile::tempdir().unwrap();
        gmdb(&root.path().join("src"));
        put(&root.path().join("src").join(file), text);
        for args in [
            &["cohort", "import", "src", "--out", "cohort"][..],
            &["cohort", "draw", "src", "--out", "sites"],
        ] {
            let (status, document) = json(root.path(), args);
            let causes = format!("{} {}", document["error"], document["causes"]);
            assert_eq!(status, 1);
            assert!(causes.contains(expected), "{file}: {causes}");
        }
        let (status, report) = json(root.path(), &["cohort", "check", "src"]);
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(status, 1);
        assert!(
            findings
                .iter()
                .any(|finding| finding["file"].as_str().unwrap().ends_with(file) && finding["line"].is_u64()),
            "{file}: {report}"
        );
    }
}

#[test]
fn check_finds_each_fault_at_its_line() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("c");
    gmdb(&dir);
    let (status, report) = json(root.path(), &["cohort", "check", "c", "--decode"]);
    assert_eq!((status, &report["errors"], &report["images"]), (0, &0.into(), &6.into()), "{report}");

    put(
        &dir.join("gmdb_metadata/gmdb_train_images_v1.0.3.csv"),
        "image_id,label,subject\n10,1,1\n10,1,1\n11,1,4\n99,1,9\n",
    );
    put(&dir.join("gmdb_metadata/gmdb_val_images_v1.0.3.csv"), "image_id,label,subject\n12,3,3\n");
    fs::remove_file(dir.join("gmdb_metadata/gmdb_rare_gallery_images_v1.0.3.csv")).unwrap();
    put(&dir.join("gmdb_align/20_aligned.jpg"), &face(20).to_jpeg(95).unwrap()[..700]);
    let (status, report) = json(root.path(), &["cohort", "check", "c", "--decode"]);
    assert_eq!(status, 1);
    let findings: BTreeSet<(String, Option<u64>)> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (finding["kind"].as_str().unwrap().to_owned(), finding["line"].as_u64()))
        .collect();
    let expected = [
        ("duplicate_image", Some(3)),
        ("conflicting_subject", Some(3)),
        ("missing_image", Some(5)),
        ("subject_in_train_and_test", Some(2)),
        ("syndrome_only_in_validation", Some(2)),
        ("test_syndrome_without_gallery", Some(2)),
        ("missing_table", None),
        ("damaged_image", None),
    ];
    for (kind, line) in expected {
        assert!(findings.contains(&(kind.to_owned(), line)), "{kind} at {line:?} in {findings:?}");
    }
    let text = String::from_utf8(fedgestalt(root.path(), &["cohort", "check", "c"]).stdout).unwrap();
    assert!(text.contains("c/gmdb_metadata/gmdb_train_images_v1.0.3.csv:5: error: image 99"), "{text}");
}

#[test]
fn a_draw_hands_every_subject_to_one_site() {
    let root = imported();
    let args = [
        "cohort",
        "draw",
        "cohort",
        "--sites",
        "3",
        "--draw",
        "dirichlet:0.8",
        "--seed",
        "4",
        "--out",
        "sites",
    ];
    let (status, summary) = json(root.path(), &args);
    assert_eq!(status, 0);
    let whole = CohortDir::open(&root.path().join("cohort")).unwrap();
    let sites: Vec<CohortDir> =
        (0..3).map(|at| CohortDir::open(&root.path().join(format!("sites/site-{at}"))).unwrap()).collect();
    let cohorts: Vec<&Cohort> = sites.iter().map(|site| &site.cohort).collect();
    let merged = Cohort::merge(&cohorts).unwrap();
    assert_eq!(merged.cases(), whole.cohort.cases());
    assert_eq!(
        cohorts.iter().map(|cohort| cohort.subjects().len()).sum::<usize>(),
        whole.cohort.subjects().len()
    );
    for (at, site) in sites.iter().enumerate() {
        assert_eq!(summary[at]["images"], site.cohort.cases().len());
        assert_eq!(site.cohort.syndromes(), whole.cohort.syndromes(), "the list stays whole");
        for case in site.cohort.cases() {
            assert_eq!(site.crop(&case.image).unwrap(), whole.crop(&case.image).unwrap());
        }
    }
    assert_eq!(json(root.path(), &args), (0, summary), "the same again goes on where it was");
    let mut other = args;
    other[8] = "5";
    let (status, document) = json(root.path(), &other);
    assert_eq!(status, 1);
    assert!(document["error"].as_str().unwrap().contains("another draw"), "{document}");
}

#[test]
fn a_draw_takes_photographs_and_points_along() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("c");
    gmdb(&dir);
    fs::remove_dir_all(dir.join("gmdb_align")).unwrap();
    let mut points = "image_id,x0,y0,x1,y1,x2,y2,x3,y3,x4,y4\n".to_owned();
    for image in [10, 11, 12, 13, 20, 21] {
        let rgb = vec![image as u8; 200 * 200 * 3];
        let mut jpeg = Vec::new();
        image::codecs::jpeg::JpegEncoder::new(&mut jpeg)
            .encode(&rgb, 200, 200, image::ExtendedColorType::Rgb8)
            .unwrap();
        put(&dir.join(format!("gmdb_images/{image}.jpg")), jpeg);
        points.push_str(&format!("{image},80,60,120,60,100,80.5,84,100,116,100\n"));
    }
    put(&dir.join("points.csv"), points);
    let (status, _) = json(root.path(), &["cohort", "draw", "c", "--sites", "2", "--out", "sites"]);
    assert_eq!(status, 0);
    let whole = CohortDir::open(&dir).unwrap();
    for at in 0..2 {
        let site = CohortDir::open(&root.path().join(format!("sites/site-{at}"))).unwrap();
        for case in site.cohort.cases() {
            assert_eq!(site.crop(&case.image).unwrap(), whole.crop(&case.image).unwrap());
        }
    }
}

#[test]
fn an_import_that_is_killed_goes_on() {
    let root = tempfile::tempdir().unwrap();
    folders(&root.path().join("src"));
    for number in 100..400 {
        put_face(&root.path().join(format!("src/Gamma/q{number}.png")), number);
    }
    let args = ["cohort", "import", "src", "--out", "cohort", "--quiet"];
    let done = || fs::read_dir(root.path().join("cohort/gmdb_align")).map_or(0, Iterator::count);
    for enough in [0, 20, 100, 200, 333] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fedgestalt"))
            .current_dir(root.path())
            .args(args)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while done() < enough && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if let Ok(cohort) = CohortDir::open(&root.path().join("cohort")) {
            // The tables come last and one by one; whoever is listed is there.
            for case in cohort.cohort.cases() {
                cohort.crop(&case.image).unwrap();
            }
        }
    }
    let (status, summary) = json(root.path(), &args[..5]);
    assert_eq!((status, &summary["images"]), (0, &333.into()));
    let (_, other) = json(root.path(), &["cohort", "import", "src", "--out", "other"]);
    assert_eq!(summary["parts"], other["parts"]);
    let [killed, whole] = ["cohort", "other"].map(|name| CohortDir::open(&root.path().join(name)).unwrap());
    assert_eq!(killed.cohort, whole.cohort);
    let unfinished = fs::read_dir(root.path().join("cohort/gmdb_align")).unwrap().count();
    assert_eq!(unfinished, 333, "nothing unfinished is left");
}

#[cfg(unix)]
#[test]
fn faces_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let root = imported();
    let mut folders = vec![root.path().join("cohort")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            // The lock holds a process number.
            let open = entry.file_name() == ".lock";
            assert!(open || mode & 0o077 == 0, "{}: {mode:o}", entry.path().display());
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
            seen += 1;
        }
    }
    assert!(seen > 40);
}
