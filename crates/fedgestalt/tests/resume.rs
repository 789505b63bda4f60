//! A run that is killed, again and again, goes on and comes to what an undisturbed one comes to.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/program.rs"]
mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use program::{CONFIG, Place, lasting, read};
use serde_json::Value;

const RUN: &str = "--json demo --out run";

/// Stages as the program names them on standard error, and how often each is hit.
const KILLS: [(&str, u32); 7] = [
    ("Synthetic patients", 2),
    ("Import and trunk features", 3),
    ("Centralised training", 2),
    ("Local training", 2),
    ("Federated training", 6),
    ("A new site joins", 3),
    ("Report", 2),
];

/// A member that goes on from the syndromes' means, step by step.
const REFINED: &str =
    "[[members]]\nname = \"joint\"\nkind = \"closed-form\"\njoint = 32\noutputs = 8\nrefine = 6\n";

/// With everything that a site must remember from round to round: the server's moments, the figures of the rounds, the model of
/// the best of them, and what a closed form is refined by.
fn remembering() -> Place {
    let place = Place::new();
    let config = CONFIG
        .replace("interval = 1\n", "interval = 1\nrates = \"cosine\"\nstopping = \"loss:1\"\n")
        .replace(
            "sites = 4\n",
            "sites = 4\nserver_optimizer = \"yogi\"\nserver_rate = 0.01\nproximal = 0.1\n",
        );
    assert_eq!(config.lines().count(), CONFIG.lines().count() + 5);
    fs::write(place.path("fedgestalt.toml"), format!("{config}\n{REFINED}")).unwrap();
    place
}

/// A run under way, and the stages it tells of as they begin.
struct Running {
    child: Child,
    stages: Receiver<(String, Instant)>,
}

impl Running {
    fn start(place: &Place) -> Self {
        let mut child = place.command(RUN).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (send, stages) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                match line.strip_suffix(" ...") {
                    Some(stage) => drop(send.send((stage.to_owned(), Instant::now()))),
                    // Shown where the test fails.
                    None => eprintln!("{line}"),
                }
            }
        });
        Self { child, stages }
    }

    /// Waits until a stage begins; `false` if the run ends before.
    fn reaches(&self, stage: &str) -> bool {
        self.stages.iter().any(|(name, _)| name == stage)
    }

    /// The run's end; whether it succeeded.
    fn finish(mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

/// SplitMix64: the same kills in every run of the test.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// What a run came to: its accuracies, its release's digest and its global model, bit for bit.
fn outcome(place: &Place) -> (Value, Vec<u8>) {
    let results = lasting(&read(&place.path("run/results.json")));
    (results, fs::read(place.path("run/model/heads.safetensors")).unwrap())
}

fn assert_same(found: &(Value, Vec<u8>), wanted: &(Value, Vec<u8>)) {
    assert_eq!(found.0, wanted.0);
    assert!(found.1 == wanted.1, "the accuracies are the same but not the weights");
}

/// An undisturbed run: what it came to, and how long its stages took.
fn undisturbed() -> ((Value, Vec<u8>), Vec<Duration>) {
    let place = remembering();
    let run = Running::start(&place);
    let begun: Vec<(String, Instant)> = run.stages.iter().collect();
    assert!(run.finish());
    let end = Instant::now();
    let took = KILLS.map(|(stage, _)| {
        let at =
            begun.iter().position(|(name, _)| name == stage).unwrap_or_else(|| panic!("no stage {stage}"));
        begun.get(at + 1).map_or(end, |next| next.1) - begun[at].1
    });
    (outcome(&place), took.to_vec())
}

#[test]
fn twenty_kills_change_nothing() {
    let (wanted, took) = undisturbed();
    let mut place = remembering();
    let mut seed = 1;
    let mut kills = 0;
    for ((stage, times), took) in KILLS.into_iter().zip(took) {
        for _ in 0..times {
            let mut run = Running::start(&place);
            if !run.reaches(stage) {
                // An earlier kill came late and the stage is over: the run has ended well, and another begins.
                assert!(run.finish(), "the run cannot go on after {kills} kills");
                assert_same(&outcome(&place), &wanted);
                place = remembering();
                run = Running::start(&place);
                assert!(run.reaches(stage), "a new run ended before {stage}");
            }
            // Each takes its share of the stage on average, so that the last ones are near its end.
            std::thread::sleep(took.mul_f64(2.0 * random(&mut seed) / f64::from(times)));
            run.child.kill().unwrap();
            if !run.finish() {
                kills += 1;
            }
        }
    }
    assert!(kills >= 15, "only {kills} kills hit a run that was still going");
    assert!(Running::start(&place).finish(), "the run cannot go on after {kills} kills");
    assert_same(&outcome(&place), &wanted);

    // A finished run, run again, is at once where it was, release and all.
    let release = read(&place.path("run/results.json"))["release"].clone();
    assert!(Running::start(&place).finish());
    assert_eq!(read(&place.path("run/results.json"))["release"], release);
    assert_same(&outcome(&place), &wanted);

    // What is in its folder is not mixed with another run.
    for (changed, setting) in [
        ("demo --epochs 4 --out run", "config.training.epochs: 3 there, 4 here"),
        ("demo --sites 3 --out run", "sites: 4 there, 3 here"),
        ("demo --draw non-overlapping --out run", "draw"),
        ("demo --drop 1@2 --out run", "drops"),
    ] {
        let told = place.failure(changed);
        assert!(told.contains("other settings") && told.contains(setting), "{changed}: {told}");
    }
    assert_same(&outcome(&place), &wanted);
    let unfinished: Vec<_> = ["run/sites", "run/coordinator"]
        .into_iter()
        .flat_map(|folder| program::below(&place.path(folder)))
        .filter(|path| path.extension().is_some_and(|extension| extension == "tmp"))
        .collect();
    assert!(unfinished.is_empty(), "left behind: {unfinished:?}");
}

#[test]
fn two_processes_do_not_work_on_one_run() {
    let place = remembering();
    let mut run = Running::start(&place);
    assert!(run.reaches("Import and trunk features"));
    let told = place.failure("demo --out run");
    assert!(told.contains("process"), "{told}");
    run.child.kill().unwrap();
    run.finish();
    assert!(fs::metadata(place.path("run/cohort")).unwrap().is_dir());
}
