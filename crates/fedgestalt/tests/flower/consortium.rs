//! A consortium of processes: a coordinator with a real SuperLink, and four sites, each with a folder of its own.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use federation::SignedRelease;
use fedgestalt::engine::flower::PINNED;
use fedgestalt::site::state::TRAINING;
use fedgestalt::store::SiteStore;
use serde_json::Value;

use crate::net::{Host, Net, namespaces};
use crate::program::{Place, document};

pub(crate) const SITES: usize = 4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("flower-{PINNED}"))
}

/// Installs Flower into a virtual environment below the target folder, where it stays.
///
/// # Errors
///
/// Why that cannot be done here: no network, no Python.
pub(crate) fn install() -> Result<(), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_fedgestalt"))
        .args(["--json", "engine", "install", "--into"])
        .arg(folder())
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(said.lines().rfind(|line| line.starts_with("error")).unwrap_or(&said).to_owned())
        }
    }
}

/// One consortium at a time: each has six processes.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When the first process of this test program began.
static BEGAN: OnceLock<Instant> = OnceLock::new();

/// A process with what it says.
pub(crate) struct Running {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(name: &str, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let began = *BEGAN.get_or_init(Instant::now);
        let (to, from, who) = (lines.clone(), child.stderr.take().unwrap(), name.to_owned());
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                // Shown where the test fails.
                eprintln!("{:6.1} {who}: {line}", began.elapsed().as_secs_f64());
                to.lock().unwrap().push(line);
            }
        });
        Self { name: name.to_owned(), child, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has said something.
    pub(crate) fn says(&mut self, text: &str) {
        let until = Instant::now() + Duration::from_secs(150);
        while !self.lines.lock().unwrap().iter().any(|line| line.contains(text)) {
            assert!(self.child.try_wait().unwrap().is_none(), "{} has ended without {text:?}", self.name);
            assert!(Instant::now() < until, "{} does not say {text:?}", self.name);
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end.
    pub(crate) fn stop(self) -> Value {
        Command::new("kill").arg(self.pid().to_string()).status().unwrap();
        self.finish()
    }

    /// Its one document, once it has ended well.
    pub(crate) fn finish(mut self) -> Value {
        let (status, stdout) = self.end();
        assert!(status.success(), "{} ended with {status}", self.name);
        document(&std::process::Output { status, stdout, stderr: Vec::new() })
    }

    /// What it says when it fails.
    pub(crate) fn fails(mut self) -> String {
        let (status, _) = self.end();
        assert_eq!(status.code(), Some(1), "{}", self.name);
        thread::sleep(Duration::from_millis(100));
        self.lines.lock().unwrap().join("\n")
    }

    fn end(&mut self) -> (ExitStatus, Vec<u8>) {
        let mut out = self.child.stdout.take().unwrap();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let until = Instant::now() + Duration::from_secs(200);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, reader.join().unwrap());
            }
            assert!(Instant::now() < until, "{} does not end", self.name);
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Four hospitals' cohorts, and what the local engine makes of them.
pub(crate) struct Reference {
    pub(crate) place: Place,
    pub(crate) release: SignedRelease,
}

/// Members that are trained, published, and computed from sums, one of them refined in two more.
const FORMS: &str = r#"
[[members]]
name = "form"
kind = "closed-form"

[[members]]
name = "joint"
kind = "closed-form"
joint = 48
outputs = 16
refine = 2
"#;

/// A folder with the settings of every run here, and more.
fn place(more: &str) -> Place {
    let place = Place::new();
    let config = fs::read_to_string(place.path("fedgestalt.toml")).unwrap();
    fs::write(place.path("fedgestalt.toml"), [&config, FORMS, more].concat()).unwrap();
    place
}

/// Computed once: the demo on the local engine.
pub(crate) fn reference() -> &'static Reference {
    static REFERENCE: OnceLock<Reference> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let place = place("\n[demo]\nnewcomer = false\n");
        place.json("demo --out run");
        place.json("cohort draw run/cohort --out cohorts");
        let bytes = fs::read(place.path("run/sites/site-0/release.signed")).unwrap();
        Reference { place, release: SignedRelease::decode(&bytes).unwrap() }
    })
}

/// A consortium founded and enrolled in a folder of its own.
pub(crate) struct Consortium {
    pub(crate) place: Place,
    pub(crate) port: u16,
    /// Hosts of their own for coordinator and sites, where that is permitted.
    pub(crate) net: Option<Net>,
    /// Where the coordinator listens.
    pub(crate) address: String,
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Consortium {
    /// Each party on a host of its own, or all on loopback.
    pub(crate) fn found() -> Self {
        Self::on(namespaces().is_ok().then(|| Net::new(SITES)))
    }

    /// All on loopback.
    pub(crate) fn at_home() -> Self {
        Self::on(None)
    }

    /// A rehearsal with the simulation's seed, so that results can be compared bit for bit.
    fn on(net: Option<Net>) -> Self {
        let place = place("");
        let port = free_port();
        let address = net.as_ref().map_or("127.0.0.1".to_owned(), Net::hub);
        place.json(&format!(
            "consortium create --store hub --name test --host {address} --port {port} --rehearsal 1"
        ));
        let mut requests = Vec::new();
        for at in 0..SITES {
            place.json(&format!("site keygen --store s{at} --name site-{at} --out r{at}.json --rehearsal 1"));
            requests.push(format!("r{at}.json"));
        }
        let admitted = place.json(&format!("consortium admit --store hub {}", requests.join(" ")));
        let fingerprint = admitted["fingerprint"].as_str().unwrap();
        for at in 0..SITES {
            place.json(&format!("site enrol --store s{at} invitation.json --fingerprint {fingerprint}"));
        }
        Self { place, port, net, address }
    }

    /// Where the coordinator can be reached.
    pub(crate) fn front(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.front())
    }

    pub(crate) fn authority(&self) -> String {
        fs::read_to_string(self.place.path("hub/authority.pem")).unwrap()
    }

    /// Runs a program at a host.
    fn start(&self, host: Host, name: &str, command: Command) -> Running {
        let command = match &self.net {
            Some(net) => net.on(host, &command),
            None => command,
        };
        Running::start(name, command)
    }

    /// On the hub's every address.
    pub(crate) fn coordinator(&self, options: &str) -> Running {
        let mut command = self.place.command(&format!("--json coordinate --store hub {options}"));
        let listen = if self.net.is_some() { "0.0.0.0" } else { "127.0.0.1" };
        command.args(["--listen", &format!("{listen}:{}", self.port), "--engine"]).arg(folder());
        self.start(Host::Hub, "coordinator", command)
    }

    /// With a SuperLink that the options name.
    pub(crate) fn coordinator_at(&self, options: &str) -> Running {
        let mut command = self.place.command(&format!("--json coordinate --store hub {options}"));
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        self.start(Host::Hub, "coordinator", command)
    }

    pub(crate) fn site(&self, at: usize, options: &str) -> Running {
        self.site_on(at, &reference().place.path(&format!("cohorts/site-{at}")), options)
    }

    /// A site with a cohort that the test changes.
    pub(crate) fn site_on(&self, at: usize, cohort: &Path, options: &str) -> Running {
        let mut command = self.place.command(&format!("--json --threads 1 site run --store s{at} {options}"));
        // Of this machine, and out of reach from another host.
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command.arg("--cohort").arg(cohort);
        self.start(Host::Site(at), &format!("site-{at}"), command)
    }

    /// One site more, admitted by the consortium as it stands.
    pub(crate) fn admit(&self, at: usize) {
        let keygen = format!("site keygen --store s{at} --name site-{at} --out r{at}.json --rehearsal 1");
        self.place.json(&keygen);
        let admitted = self.place.json(&format!("consortium admit --store hub r{at}.json"));
        let fingerprint = admitted["fingerprint"].as_str().unwrap();
        self.place.json(&format!("site enrol --store s{at} invitation.json --fingerprint {fingerprint}"));
    }

    pub(crate) fn sites(&self, options: &str) -> Vec<Running> {
        (0..SITES).map(|at| self.site(at, options)).collect()
    }

    /// The number of the SuperLink's process.
    pub(crate) fn superlink(&self) -> String {
        fs::read_to_string(self.place.path("hub/superlink/superlink.pid")).unwrap()
    }

    /// Waits until a site keeps what its training of a round gave.
    pub(crate) fn kept(&self, at: usize, round: u64) {
        let path = self.place.path(&format!("s{at}/update.json"));
        let kept = || {
            let value: Value =
                serde_json::from_slice(&fs::read(&path).unwrap_or_default()).unwrap_or_default();
            value["round"].as_u64() >= Some(round)
        };
        let until = Instant::now() + Duration::from_secs(120);
        while !kept() {
            assert!(Instant::now() < until, "site-{at} does not train round {round}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// How often a site has begun to train each round.
    pub(crate) fn trainings(&self, at: usize) -> Vec<usize> {
        let store = SiteStore::open(&self.place.path(&format!("s{at}"))).unwrap();
        let log = store.audit_log().unwrap();
        let begun =
            log.iter().filter(|line| line.entry.what == TRAINING).map(|line| line.entry.round.unwrap());
        let mut rounds = vec![0; 3];
        begun.for_each(|round| rounds[round as usize - 1] += 1);
        rounds
    }

    pub(crate) fn release(&self, at: usize) -> SignedRelease {
        SignedRelease::decode(&fs::read(self.place.path(&format!("s{at}/release.signed"))).unwrap()).unwrap()
    }

    /// Where the SuperLink listens, on the hub's loopback.
    pub(crate) fn superlink_port(&self) -> u16 {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", self.superlink().trim())).unwrap();
        let mut words = line.split('\0').skip_while(|word| *word != "--port").skip(1);
        words.next().unwrap().parse().unwrap()
    }

    pub(crate) fn engine() -> PathBuf {
        folder()
    }
}

impl Drop for Consortium {
    /// A coordinator that is killed leaves its SuperLink behind for the next one to end; a failed test has no next one.
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.place.path("hub/superlink/superlink.pid"))
            && fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()))
                .is_ok_and(|line| line.contains(&*self.place.path("hub").to_string_lossy()))
        {
            let _ = Command::new("kill").args(["-9", pid.trim()]).status();
        }
    }
}
