//! A site's store: what it keeps, what it removes, and that a killed process loses nothing.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/pictures.rs"]
mod pictures;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use domain::{Case, Cohort, Encoding, ImageId, Part, SubjectId, Syndrome, SyndromeId};
use fedgestalt::store::audit::Entry;
use fedgestalt::store::{ErrorKind, Folder, SiteStore, StoredRelease, StoredRound, atomic};
use jiff::Timestamp;
use pictures::face;

fn image(text: &str) -> ImageId {
    ImageId::new(text).unwrap()
}

fn subject(text: &str) -> SubjectId {
    SubjectId::new(text).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

/// Subject `s<n>` has images `<n>a` and `<n>b`; the part's order is not the ids'.
fn cohort(subjects: &[u32]) -> Cohort {
    let syndrome = SyndromeId::new("OMIM:101600").unwrap();
    let cases: Vec<Case> = subjects
        .iter()
        .flat_map(|n| ["a", "b"].map(|which| (n, format!("{n}{which}"))))
        .map(|(n, id)| Case {
            image: image(&id),
            subject: subject(&format!("subject-{n}")),
            syndrome: syndrome.clone(),
        })
        .collect();
    let parts = BTreeMap::from([(Part::Train, cases.iter().rev().map(|case| case.image.clone()).collect())]);
    let named = Syndrome { name: "A, \"named\" one".to_owned(), ..Syndrome::unnamed(syndrome) };
    Cohort::new(vec![named], cases, parts).unwrap()
}

fn encoding(first: f32) -> Encoding {
    Encoding::from_representations(&[&[first, 1.0, -2.0]]).unwrap()
}

fn filled(path: &Path) -> SiteStore {
    let store = SiteStore::open(path).unwrap();
    let cohort = cohort(&[1, 2, 3]);
    store.put_cohort(&cohort).unwrap();
    let crops: Vec<_> =
        cohort.cases().iter().zip(0..).map(|(case, n)| (case.image.clone(), face(n))).collect();
    store.put_crops(&crops, &|| {}).unwrap();
    let encodings: Vec<_> =
        cohort.cases().iter().zip(1..).map(|(case, n)| (&case.image, encoding(n as f32))).collect();
    store.put_encodings(&[1; 32], encodings.iter().map(|(image, encoding)| (*image, encoding))).unwrap();
    store.put_masked(&[2; 32], &[(image("1a"), [7; 16]), (image("2a"), [8; 16])]).unwrap();
    fs::write(store.feature_path("views.f16"), b"features of everybody").unwrap();
    store
}

#[test]
fn what_is_put_in_comes_out() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("site-0");
    let store = filled(&path);
    drop(store);
    let store = SiteStore::open(&path).unwrap();
    assert_eq!(store.cohort().unwrap(), cohort(&[1, 2, 3]));
    assert_eq!(store.crop(&image("1b")).unwrap(), Some(face(1)));
    assert_eq!(store.crop(&image("none")).unwrap(), None);
    let encodings = store.encodings(&[1; 32]).unwrap();
    assert_eq!((encodings.len(), &encodings[&image("1a")]), (6, &encoding(1.0)));
    assert!(store.encodings(&[9; 32]).unwrap().is_empty(), "encodings belong to a model");

    let run = store.begin_run("federated", &[3; 32], at(0)).unwrap();
    let round = StoredRound {
        round: 1,
        finished: at(5),
        model: [4; 32],
        metrics: serde_json::json!({ "loss": 0.25 }),
    };
    store.put_round(run, &round).unwrap();
    store.put_round(run, &round).unwrap();
    assert_eq!(store.begin_run("federated", &[3; 32], at(9)).unwrap(), run, "an open run goes on");
    assert_eq!(store.rounds(run).unwrap(), [round]);
    store.end_run(run, at(10), "finished").unwrap();
    assert_eq!(store.end_run(run, at(11), "finished").unwrap_err().kind(), ErrorKind::Missing);
    assert_ne!(store.begin_run("federated", &[3; 32], at(12)).unwrap(), run);
    let runs = store.runs().unwrap();
    assert_eq!(
        (runs.len(), runs[0].begun, &runs[0].ended),
        (2, at(0), &Some((at(10), "finished".to_owned())))
    );

    let release = StoredRelease { digest: [5; 32], adopted: at(20), document: b"signed".to_vec() };
    store.put_release(&release).unwrap();
    assert_eq!(store.releases().unwrap(), [release]);
    store.put_key("site.key", b"secret").unwrap();
    assert_eq!(store.key("site.key").unwrap().unwrap().as_slice(), b"secret");
}

#[test]
fn a_withdrawn_subject_leaves_no_trace() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("site-0");
    let store = filled(&path);
    let withdrawn = store.withdraw(&subject("subject-1"), at(1)).unwrap();
    assert_eq!(withdrawn.images, [image("1a"), image("1b")]);
    assert_eq!(withdrawn.masked, [([7; 16], [2; 32])]);
    assert_eq!(store.cohort().unwrap(), cohort(&[2, 3]));
    assert_eq!(store.encodings(&[1; 32]).unwrap().len(), 4);
    assert_eq!(store.crop(&image("1a")).unwrap(), None);
    assert!(store.crop(&image("2a")).unwrap().is_some());
    assert!(!store.feature_path("views.f16").exists(), "a cache holds everybody's features");
    let log = store.audit_log().unwrap();
    assert_eq!((log.len(), log[0].entry.what.as_str()), (1, "withdrawal"));
    assert!(log[0].entry.detail.contains("2 images") && !log[0].entry.detail.contains("subject-1"));
    assert!(store.withdraw(&subject("subject-1"), at(2)).unwrap().images.is_empty());
    drop(store);
    for entry in fs::read_dir(&path).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        let bytes = fs::read(entry.path()).unwrap();
        let trace = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!trace(b"subject-1"), "{} still names the subject", entry.path().display());
        let vector: Vec<u8> = encoding(1.0).as_slice().iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(!trace(&vector), "{} still holds the encoding", entry.path().display());
    }
}

#[test]
fn a_replaced_face_takes_its_encodings_along() {
    let root = tempfile::tempdir().unwrap();
    let store = filled(root.path());
    let crops = [(image("1a"), face(0)), (image("2a"), face(99))];
    store.put_crops(&crops[..1], &|| {}).unwrap();
    assert_eq!(store.encodings(&[1; 32]).unwrap().len(), 6, "the same face changes nothing");
    assert!(store.feature_path("views.f16").exists());
    store.put_crops(&crops, &|| {}).unwrap();
    assert!(!store.encodings(&[1; 32]).unwrap().contains_key(&image("2a")));
    assert!(!store.feature_path("views.f16").exists());
    let stranger = store.put_crops(&[(image("stranger"), face(5))], &|| {}).unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::Missing);
}

#[test]
fn a_new_cohort_removes_those_who_left() {
    let root = tempfile::tempdir().unwrap();
    let store = filled(root.path());
    store.put_cohort(&cohort(&[2, 4])).unwrap();
    assert_eq!(store.cohort().unwrap(), cohort(&[2, 4]));
    assert_eq!(
        store.encodings(&[1; 32]).unwrap().into_keys().collect::<Vec<_>>(),
        [image("2a"), image("2b")]
    );
    assert_eq!(store.crop(&image("1a")).unwrap(), None);
    assert!(store.crop(&image("2a")).unwrap().is_some());
}

#[test]
fn a_withdrawal_cut_short_is_finished_on_opening() {
    let root = tempfile::tempdir().unwrap();
    drop(filled(root.path()));
    let database = rusqlite::Connection::open(root.path().join("site.db")).unwrap();
    database.execute("INSERT INTO removals VALUES ('crops/1a.png')", []).unwrap();
    drop(database);
    let store = SiteStore::open(root.path()).unwrap();
    assert_eq!(store.crop(&image("1a")).unwrap(), None);
    assert!(!store.feature_path("views.f16").exists());
}

#[test]
fn a_changed_audit_log_is_found_out() {
    let root = tempfile::tempdir().unwrap();
    let store = SiteStore::open(root.path()).unwrap();
    let entry = |second| Entry {
        to: "coordinator".to_owned(),
        plan: Some([3; 32]),
        round: Some(1),
        bytes: 1000,
        ..Entry::internal(at(second), "masked update", "")
    };
    store.audit(&[entry(1), entry(2)]).unwrap();
    let noted = store.audit(&[entry(3)]).unwrap();
    assert_eq!(store.verify_audit(Some(&noted)).unwrap().seq, 3);
    drop(store);
    let database = rusqlite::Connection::open(root.path().join("site.db")).unwrap();
    assert!(database.execute("UPDATE audit SET bytes = 1", []).is_err());
    assert!(database.execute("DELETE FROM audit", []).is_err());
    database.execute_batch("DROP TRIGGER audit_no_update; UPDATE audit SET bytes = 1 WHERE seq = 2").unwrap();
    drop(database);
    let error = SiteStore::open(root.path()).unwrap().verify_audit(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tampered);
    assert!(error.to_string().contains("entry 2 is not what was written"), "{error}");
}

#[cfg(unix)]
#[test]
fn everything_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("site-0");
    let store = filled(&path);
    store.put_key("site.key", b"secret").unwrap();
    fs::remove_file(store.feature_path("views.f16")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let mut folders = vec![path];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                assert_eq!(mode(&path), 0o700, "{}", path.display());
                folders.push(path);
            } else if entry.file_name() != ".lock" {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
            }
        }
    }
}

/// Set for the copies of this test program that the tests below start and kill.
const CHILD: &str = "FEDGESTALT_TEST_CHILD";

/// A copy of this program that runs the test `name` only, as a child working in `folder`.
fn child(name: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// What the child writes: `number`, then as many bytes of it as make any half-written file obvious.
fn state(number: u64) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(200_000 + number as usize % 1000, number as u8);
    bytes
}

/// Writes a state, a case and an audit entry over and over, telling of each when it is done.
fn work_until_killed(folder: &Path) {
    let store = SiteStore::open(folder).unwrap();
    let last = store
        .folder()
        .read("state")
        .unwrap()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes.first_chunk().unwrap()));
    for number in last + 1.. {
        store.folder().write("state", &state(number)).unwrap();
        store.audit(&[Entry::internal(at(number as i64), "state", number.to_string())]).unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "done {number}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_process_killed_at_any_moment_loses_nothing_that_is_done() {
    const NAME: &str = "a_process_killed_at_any_moment_loses_nothing_that_is_done";
    if let Some(folder) = child_folder() {
        return work_until_killed(&folder);
    }
    let root = tempfile::tempdir().unwrap();
    let mut done = 0;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20 {
        let mut child = child(NAME, root.path());
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let (send, told) = std::sync::mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(number) = line.strip_prefix("done ").and_then(|number| number.parse::<u64>().ok())
                {
                    let _ = send.send(number);
                }
            }
        });
        // The clock starts with the first thing done, however slow the machine.
        let first = told.recv_timeout(Duration::from_secs(60)).unwrap();
        std::thread::sleep(Duration::from_micros(seed >> 50));
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();
        done = told.try_iter().last().unwrap_or(first).max(done);

        let store = SiteStore::open(root.path()).unwrap();
        let bytes = store.folder().read("state").unwrap().unwrap();
        let number = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        assert!(bytes == state(number), "state {number} is there only in part");
        assert!(number >= done, "state {done} was done, {number} is there");
        let logged = store.verify_audit(None).unwrap().seq;
        assert!(logged >= done, "entry {done} was done, {logged} are there");
        // Between the state and its entry: the entry is missing, which the next start makes good here.
        for missing in logged + 1..=number {
            store.audit(&[Entry::internal(at(missing as i64), "state", missing.to_string())]).unwrap();
        }
        let left: Vec<_> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".tmp"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_second_process_is_turned_away() {
    const NAME: &str = "a_second_process_is_turned_away";
    if let Some(folder) = child_folder() {
        let _folder = Folder::open(&folder).unwrap();
        println!("done");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut holder = child(NAME, root.path());
    let output = BufReader::new(holder.stdout.take().unwrap());
    assert!(output.lines().map_while(Result::ok).any(|line| line.contains("done")));
    let error = SiteStore::open(root.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains(&format!("process {}", holder.id())), "{error}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let begun = Instant::now();
    while SiteStore::open(root.path()).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the lock goes with its process");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("no folder/file");
    let error = atomic::write_private(&file, b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("no folder"), "{error}");
}
