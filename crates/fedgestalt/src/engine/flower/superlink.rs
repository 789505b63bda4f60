//! The SuperLink as a process: a stock `flower-superlink` on loopback that is started, watched and started again.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;

use super::http::Http;
use super::{PINNED, TESTED, tls};
use crate::store::Folder;

/// How long a start may take.
const START: Duration = Duration::from_secs(90);
/// Lines of its output that are kept for an error.
const TAIL: usize = 40;
const PID: &str = "superlink.pid";
const SECRET: &str = "executor.secret";
const DATABASE: &str = "state.db";
/// Bytes of a page of the database, the most that there can be. SQLite's own 4096 cut a chunk of a model into 1,300 pages,
/// each written, checked and, when the chunk is dropped, read once more, and bring the log to the disk after every chunk.
const PAGE: u32 = 65_536;

/// It takes and frees megabytes with every object. Large pages, and keeping what it frees, save it most page faults.
const TUNABLES: &str =
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824";

/// Whether a version is one that the engine was tried with.
///
/// # Errors
///
/// When it is not, with what to do.
pub fn check_version(version: &str) -> Result<()> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let found = (parts.next().flatten(), parts.next().flatten());
    if TESTED.iter().any(|&(major, minor)| found == (Some(major), Some(minor))) {
        return Ok(());
    }
    let tested: Vec<String> = TESTED.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
    bail!(
        "this SuperLink is Flower {version}, and this program was tried with {}; install flwr=={PINNED} \
         (`fedgestalt engine install`)",
        tested.join(", ")
    )
}

/// The version of a SuperLink that is running.
///
/// # Errors
///
/// When it cannot be reached, or does not say.
pub fn running_version(http: &Http) -> Result<String> {
    let description: serde_json::Value = serde_json::from_str(&http.get("/openapi.json")?)
        .with_context(|| format!("{} is no SuperLink", http.url()))?;
    let version = description["info"]["version"].as_str();
    Ok(version.with_context(|| format!("{} does not say which version it is", http.url()))?.to_owned())
}

/// The program in a virtual environment.
fn program(engine: &Path, name: &str) -> Result<PathBuf> {
    let path = engine.join("bin").join(name);
    ensure!(
        path.is_file(),
        "{} is not there; `fedgestalt engine install --into {}` installs it",
        path.display(),
        engine.display()
    );
    Ok(path)
}

/// The version that is installed.
///
/// # Errors
///
/// When it cannot be asked, or is not one that was tried.
pub fn installed_version(engine: &Path) -> Result<String> {
    let path = program(engine, "flower-superlink")?;
    let output = Command::new(&path)
        .arg("--version")
        .env("FLWR_TELEMETRY_ENABLED", "0")
        .env("FLWR_DISABLE_UPDATE_CHECK", "1")
        .output()
        .with_context(|| format!("cannot run {}", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().rev().find(|word| word.contains('.'));
    let version = version.with_context(|| format!("{} does not say its version", path.display()))?;
    check_version(version)?;
    Ok(version.to_owned())
}

/// A SuperLink of our own.
pub struct Superlink {
    program: PathBuf,
    folder: Folder,
    /// Where the folder is, from anywhere.
    path: PathBuf,
    identity: tls::Identity,
    secret: Vec<u8>,
    child: Option<Child>,
    port: u16,
    tail: Arc<Mutex<VecDeque<String>>>,
    /// Starts that did not last, and when the last one was.
    failures: u32,
    started: Instant,
}

impl Superlink {
    /// Starts the SuperLink of the virtual environment `engine`, with its state in `folder`.
    ///
    /// # Errors
    ///
    /// When it is not installed, of another version, or does not come up; its last words are told.
    pub fn start(engine: &Path, folder: Folder) -> Result<Self> {
        installed_version(engine)?;
        let path = std::path::absolute(folder.path()).context("the folder has no absolute path")?;
        end_leftover(&folder, &path)?;
        let identity = tls::make(&["127.0.0.1".to_owned()], "fedgestalt SuperLink", Timestamp::now())?;
        let mut secret = vec![0; 32];
        getrandom::fill(&mut secret).ok().context("the system gives no random bytes")?;
        folder.write_secret(SECRET, &secret)?;
        folder.write("authority.pem", identity.authority.as_bytes())?;
        folder.write("certificate.pem", identity.chain.as_bytes())?;
        folder.write_secret("certificate.key", identity.key.as_bytes())?;
        lay_out(&path.join(DATABASE))?;
        let mut superlink = Self {
            program: program(engine, "flower-superlink")?,
            folder,
            path,
            identity,
            secret,
            child: None,
            port: 0,
            tail: Arc::default(),
            failures: 0,
            started: Instant::now(),
        };
        superlink.launch()?;
        Ok(superlink)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What vouches for it; PEM.
    pub fn authority(&self) -> &str {
        &self.identity.authority
    }

    /// The secret of its executors.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    fn launch(&mut self) -> Result<()> {
        if self.port == 0 {
            // Free now; that another takes it before the SuperLink does shows as a start that fails.
            self.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        }
        self.started = Instant::now();
        let path = |name: &str| self.path.join(name);
        let mut command = Command::new(&self.program);
        command
            .args(["--host", "127.0.0.1", "--port"])
            .arg(self.port.to_string())
            .arg("--ssl-ca-certfile")
            .arg(path("authority.pem"))
            .arg("--ssl-certfile")
            .arg(path("certificate.pem"))
            .arg("--ssl-keyfile")
            .arg(path("certificate.key"))
            .arg("--superexec-auth-secret-file")
            .arg(path(SECRET))
            .arg("--database")
            .arg(path(DATABASE))
            .args(["--enable-supernode-auth", "--isolation", "process"])
            .arg("--disable-runtime-dependency-installation")
            .env("FLWR_HOME", path("home"))
            .env("FLWR_TELEMETRY_ENABLED", "0")
            .env("FLWR_DISABLE_UPDATE_CHECK", "1")
            .env("PYTHONUNBUFFERED", "1")
            .env("GLIBC_TUNABLES", TUNABLES)
            .current_dir(&self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        self.folder.write(PID, child.id().to_string().as_bytes())?;
        if let Some(output) = child.stdout.take() {
            self.listen(output);
        }
        if let Some(output) = child.stderr.take() {
            self.listen(output);
        }
        self.child = Some(child);
        self.await_health()
    }

    /// Keeps the last lines that it writes, without the line for each request.
    fn listen(&self, output: impl Read + Send + 'static) {
        let tail = self.tail.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if !line.contains("uvicorn.access") {
                    tracing::debug!(superlink = %line);
                    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                    tail.push_back(line);
                    if tail.len() > TAIL {
                        tail.pop_front();
                    }
                }
            }
        });
    }

    fn last_words(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = tail.iter().rev().take(6).rev().map(String::as_str).collect();
        words.join(" | ")
    }

    fn await_health(&mut self) -> Result<()> {
        let http = Http::new(&self.url(), self.authority(), false)?;
        loop {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                self.child = None;
                thread::sleep(Duration::from_millis(200));
                bail!(
                    "the SuperLink ended with {status} before it was ready; it said: {}",
                    self.last_words()
                );
            }
            match http.get("/health") {
                Ok(_) => return Ok(()),
                Err(_) if self.started.elapsed() < START => thread::sleep(Duration::from_millis(100)),
                Err(error) => {
                    bail!("the SuperLink does not come up: {error}; it said: {}", self.last_words())
                }
            }
        }
    }

    /// Starts it again if it has ended. True when it was started again.
    ///
    /// # Errors
    ///
    /// When it ends again and again.
    pub fn watch(&mut self) -> Result<bool> {
        let ended = match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        };
        if self.child.is_some() && ended.is_none() {
            return Ok(false);
        }
        self.child = None;
        self.failures = if self.started.elapsed() > Duration::from_secs(60) { 1 } else { self.failures + 1 };
        ensure!(self.failures <= 5, "the SuperLink ends again and again; it said: {}", self.last_words());
        tracing::warn!(status = ?ended, "the SuperLink has ended; starting it again");
        thread::sleep(Duration::from_secs(u64::from(self.failures - 1)));
        match self.launch() {
            Ok(()) => Ok(true),
            Err(error) if self.failures < 5 => {
                tracing::warn!(%error);
                self.watch()
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Superlink {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Makes an empty database with the page size that the SuperLink then finds. One that is there stays as it is.
fn lay_out(database: &Path) -> Result<()> {
    if database.exists() {
        return Ok(());
    }
    let connection = rusqlite::Connection::open(database).context("cannot make the SuperLink's database")?;
    connection.pragma_update(None, "page_size", PAGE)?;
    connection.execute_batch("VACUUM")?;
    Ok(())
}

/// Ends a SuperLink that a killed coordinator has left behind on the same database.
fn end_leftover(folder: &Folder, path: &Path) -> Result<()> {
    let Some(pid) = folder.read(PID)? else { return Ok(()) };
    let pid = String::from_utf8_lossy(&pid).trim().to_owned();
    if pid.is_empty() || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    let ours = || {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        command.contains("flower-superlink") && command.contains(&*path.to_string_lossy())
    };
    if !ours() {
        return Ok(());
    }
    Command::new("kill").arg(&pid).status().context("cannot run kill")?;
    let began = Instant::now();
    while ours() {
        if began.elapsed() > Duration::from_secs(10) {
            Command::new("kill").args(["-9", &pid]).status().context("cannot run kill")?;
        }
        ensure!(
            began.elapsed() < Duration::from_secs(20),
            "process {pid}, a SuperLink on the same folder, does not end; end it by hand"
        );
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_database_has_large_pages_and_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join(DATABASE);
        lay_out(&database).unwrap();
        let connection = rusqlite::Connection::open(&database).unwrap();
        // What the SuperLink sets when it opens it.
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch("CREATE TABLE kept (a)").unwrap();
        lay_out(&database).unwrap();
        let size: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).unwrap();
        assert_eq!(size, PAGE);
        connection.execute("INSERT INTO kept VALUES (1)", []).unwrap();
    }

    #[test]
    fn versions_outside_the_tested_range_are_refused() {
        check_version(PINNED).unwrap();
        check_version("1.41.9").unwrap();
        for version in ["1.39.0", "1.4.1", "2.41.0", "1.42.0", "nightly", ""] {
            let error = check_version(version).unwrap_err().to_string();
            assert!(error.contains("flwr==1.41.0"), "{version}: {error}");
        }
    }
}
