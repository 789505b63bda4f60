//! Reading, writing and checking GMDB's tables.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use domain::check::{FindingKind, Severity, check};
use domain::gmdb::{Table, TableFile, assemble, disassemble, parse_syndromes, write_syndromes};
use domain::{Cohort, ErrorKind, ImageId, Part, SyndromeId};
use proptest::prelude::*;

fn file(table: Table, text: &str) -> TableFile {
    TableFile::parse(table, &table.file_name("1.0.3"), text.as_bytes()).unwrap()
}

const TRAIN: &str = "image_id,label,subject\n10,1,a\n9,1,b\n11,2,c\n";
const RARE: &str = "image_id,label,subject,split\n20,5,r,0\n21,5,s,1\n";

#[test]
fn file_names_are_gmdbs() {
    let names: Vec<String> = Table::ALL.iter().map(|table| table.file_name("1.0.3")).collect();
    assert_eq!(
        names,
        [
            "gmdb_train_images_v1.0.3.csv",
            "gmdb_val_images_v1.0.3.csv",
            "gmdb_frequent_gallery_images_v1.0.3.csv",
            "gmdb_frequent_test_images_v1.0.3.csv",
            "gmdb_rare_gallery_images_v1.0.3.csv",
            "gmdb_rare_test_images_v1.0.3.csv",
        ]
    );
    for (name, table) in names.iter().zip(Table::ALL) {
        assert_eq!(Table::of_file_name(name), Some((table, "1.0.3")));
    }
    assert_eq!(Table::of_file_name("syndromes.csv"), None);
    assert_eq!(Table::of_file_name("gmdb_other_images_v1.csv"), None);
}

#[test]
fn a_cohort_is_what_its_tables_say() {
    let rare_test = file(Table::RareTest, "image_id,label,subject,split\n21,5,s,0\n20,5,r,1\n");
    let tables = [file(Table::Train, TRAIN), file(Table::RareGallery, RARE), rare_test];
    let syndromes = "label,name,mondo\n1,\"Kabuki, type 1\",MONDO:0016512\n7,never seen,\n";
    let cohort = assemble(&tables, Some(("syndromes.csv", syndromes.as_bytes()))).unwrap();

    let ids: Vec<&str> = cohort.syndromes().iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["1", "2", "5", "7"]);
    assert_eq!(cohort.syndromes()[0].name, "Kabuki, type 1");
    assert_eq!(cohort.syndromes()[0].mondo.as_deref(), Some("MONDO:0016512"));
    assert_eq!(cohort.syndromes()[1].name, "2");
    let part = |part| cohort.part(part).iter().map(ImageId::as_str).collect::<Vec<_>>();
    assert_eq!(part(Part::Train), ["10", "9", "11"], "file order");
    assert_eq!(part(Part::RareGallery(1)), ["21"]);
    assert_eq!(part(Part::RareTest(1)), ["20"]);
    assert_eq!(cohort.splits(), [0, 1]);
    let cases: Vec<&str> = cohort.cases().iter().map(|case| case.image.as_str()).collect();
    assert_eq!(cases, ["9", "10", "11", "20", "21"], "sorted as numbers");
    let trained: Vec<String> = cohort.trained_syndromes().iter().map(ToString::to_string).collect();
    assert_eq!(trained, ["1", "2"]);
    assert_eq!(cohort.counts(Part::Train)[&SyndromeId::new("1").unwrap()], 2);

    let json = serde_json::to_string(&cohort).unwrap();
    assert_eq!(serde_json::from_str::<Cohort>(&json).unwrap(), cohort);
    assert!(serde_json::from_str::<Cohort>(&json.replace("\"train\":[\"10\"", "\"train\":[\"12\"")).is_err());
}

#[test]
fn unreadable_tables_name_file_and_line() {
    for (table, text, words) in [
        (Table::Train, "image_id,subject\n1,a\n", "line 1: the column `label` is missing"),
        (Table::RareTest, "image_id,label,subject\n1,2,a\n", "line 1: the column `split` is missing"),
        (Table::Train, "", "line 1: the column `image_id` is missing"),
        (Table::Train, "image_id,label,subject\n1,2,a\n3,,b\n", "line 3: syndrome id is empty"),
        (
            Table::Train,
            "image_id,label,subject\n1,2,a\n../x,2,b\n",
            "line 3: image id holds a path separator",
        ),
        (Table::Train, "image_id,label,subject\n1,2,a\n4,2\n", "line 3: the row has 2 cells instead of 3"),
        (
            Table::RareTest,
            "image_id,label,subject,split\n1,2,a,10\n",
            "line 2: the split is not a number from 0 to 9",
        ),
        (Table::RareTest, "image_id,label,subject,split\n1,2,a,-1\n", "line 2: the split"),
    ] {
        let error = TableFile::parse(table, "x.csv", text.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("x.csv, "), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = TableFile::parse(Table::Train, "x.csv", b"image_id,label,subject\n1,2,\xff\n").unwrap_err();
    assert!(error.to_string().contains("line 2: the text is not UTF-8"), "{error}");
    let twice = parse_syndromes("s.csv", b"label,name\n1,a\n2,b\n1,c\n").unwrap_err();
    assert_eq!(
        twice.to_string(),
        "s.csv, line 4: label 1 is listed already in line 2; remove one of the two"
    );
}

#[test]
fn spreadsheets_are_read_as_they_come() {
    let plain = file(Table::Train, TRAIN).rows;
    let excel = format!("\u{feff}{}", TRAIN.replace('\n', "\r\n"));
    assert_eq!(file(Table::Train, &excel).rows, plain);
    let other = "subject , extra,label,image_id\na,,1,10\nb,x,1, 9\nc,,2,11";
    assert_eq!(file(Table::Train, other).rows, plain);
    let mut gaps = file(Table::Train, &excel.replacen("\r\n", "\r\n\r\n\r\n", 1)).rows;
    assert_eq!(gaps.iter().map(|row| row.line).collect::<Vec<_>>(), [4, 5, 6], "blank lines count");
    gaps.iter_mut().for_each(|row| row.line -= 2);
    assert_eq!(gaps, plain);
    let error =
        TableFile::parse(Table::Train, "x.csv", format!("{excel}\r\n12,1\r\n").as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with("x.csv, line 6: the row has 2 cells"), "{error}");
    let lines: Vec<u64> = plain.iter().map(|row| row.line).collect();
    assert_eq!(lines, [2, 3, 4]);
}

#[test]
fn contradictions_between_tables_are_refused() {
    for (text, words) in [
        (
            "image_id,label,subject\n30,1,z\n10,3,a\n",
            "line 3: image 10 has another label than in gmdb_train_images_v1.0.3.csv, line 2",
        ),
        ("image_id,label,subject\n10,1,z\n", "line 2: image 10 has another subject"),
    ] {
        let error = assemble(&[file(Table::Train, TRAIN), file(Table::Validation, text)], None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(words), "{error}");
    }
    let twice = file(Table::Train, "image_id,label,subject\n10,1,a\n10,1,a\n");
    assert_eq!(assemble(&[twice], None).unwrap_err().kind(), ErrorKind::Duplicate);
}

#[test]
fn every_fault_is_found_with_its_place() {
    let tables = [
        file(Table::Train, "image_id,label,subject\n1,1,a\n2,1,b\n2,1,b\n3,2,c\n4,9,d\n"),
        file(Table::Validation, "image_id,label,subject\n5,3,e\n6,1,a\n7,1,a\n"),
        file(Table::FrequentGallery, "image_id,label,subject\n1,1,a\n2,2,b\n3,2,x\n"),
        file(Table::FrequentTest, "image_id,label,subject\n8,1,b\n9,4,f\n"),
        file(Table::RareGallery, "image_id,label,subject,split\n20,9,g,0\n21,9,h,1\n"),
        file(Table::RareTest, "image_id,label,subject,split\n21,9,h,0\n22,9,h,1\n23,8,i,1\n"),
    ];
    let findings = check(&tables, &|image| image.as_str() != "9");
    let found: Vec<(&str, u64, FindingKind)> = findings
        .iter()
        .map(|f| {
            (
                f.file.strip_prefix("gmdb_").unwrap().strip_suffix("_images_v1.0.3.csv").unwrap(),
                f.line.unwrap(),
                f.kind,
            )
        })
        .collect();
    use FindingKind::*;
    let expected = [
        ("train", 4, DuplicateImage),
        ("val", 2, SyndromeOnlyInValidation),
        ("val", 3, SubjectInTrainAndValidation),
        ("frequent_gallery", 3, ConflictingLabel),
        ("frequent_gallery", 4, ConflictingSubject),
        ("frequent_test", 2, SubjectInTrainAndTest),
        ("frequent_test", 2, SubjectInGalleryAndTest),
        ("frequent_test", 3, MissingImage),
        ("frequent_test", 3, TestSyndromeWithoutGallery),
        ("rare_gallery", 2, RareSyndromeInTrain),
        ("rare_test", 3, SubjectInGalleryAndTest),
        ("rare_test", 4, TestSyndromeWithoutGallery),
    ];
    assert_eq!(found, expected);
    let warnings: BTreeSet<_> =
        findings.iter().filter(|f| f.severity == Severity::Warning).map(|f| f.kind).collect();
    assert_eq!(warnings, BTreeSet::from([SubjectInTrainAndValidation, RareSyndromeInTrain]));
    assert_eq!(
        findings[0].to_string(),
        "gmdb_train_images_v1.0.3.csv:4: error: image 2 is already in gmdb_train_images_v1.0.3.csv:3; remove one of the two rows"
    );
    // Every finding that speaks of another row says where it is.
    for finding in &findings {
        let pairs = [
            DuplicateImage,
            ConflictingLabel,
            ConflictingSubject,
            SubjectInTrainAndTest,
            SubjectInGalleryAndTest,
        ];
        if pairs.contains(&finding.kind) {
            assert!(finding.message.contains("_v1.0.3.csv:"), "{finding}");
        }
    }
}

#[test]
fn a_sound_cohort_has_no_findings() {
    let tables = [
        file(Table::Train, TRAIN),
        file(Table::FrequentGallery, TRAIN),
        file(Table::FrequentTest, "image_id,label,subject\n12,1,d\n"),
        file(Table::RareGallery, RARE),
        file(Table::RareTest, "image_id,label,subject,split\n21,5,s,0\n20,5,r,1\n"),
    ];
    assert_eq!(check(&tables, &|_| true), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Tables written and read again are the same cohort, whatever stands in a cell.
    #[test]
    fn tables_round_trip(
        subjects in prop::collection::vec(("[a-z,\"; é-]{1,8}", 0u8..4), 1..30),
        names in prop::collection::vec("[ -~]{0,12}", 4),
        seed: u64,
    ) {
        let label = |at: u8| SyndromeId::new(&format!("L\"{at},")).unwrap();
        let syndromes: Vec<_> = names.iter().zip(0..).map(|(name, at)| {
            let id = label(at);
            // An empty name reads back as the id.
            let name = if name.trim().is_empty() { id.to_string() } else { name.trim().to_owned() };
            domain::Syndrome { name, orpha: (at == 1).then(|| "ORPHA:58".to_owned()), ..domain::Syndrome::unnamed(id) }
        }).collect();
        let cases = subjects.iter().enumerate().map(|(at, (name, syndrome))| domain::Case {
            image: ImageId::new(&format!("i,{at}")).unwrap(),
            subject: domain::SubjectId::new(&format!("{at}{name}.")).unwrap(),
            syndrome: label(*syndrome),
        }).collect();
        let cohort = domain::split::partition(cases, syndromes, 7, 10, seed).unwrap();
        let tables: Vec<TableFile> = disassemble(&cohort).into_iter().map(|(table, rows)| {
            let read = file(table, &table.write(&rows));
            assert_eq!(read.rows, rows, "lines included");
            read
        }).collect();
        let listed = write_syndromes(cohort.syndromes());
        let again = assemble(&tables, Some(("syndromes.csv", listed.as_bytes()))).unwrap();
        prop_assert_eq!(&again, &cohort);
    }
}
