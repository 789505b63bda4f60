//! `site ask`, `site withdraw` and `site approve`: what a person asks of the running site.
//!
//! The running site owns its store, so these commands hand their wish to it through a socket in the store's folder, which
//! only its owner can open. Nothing of that leaves the machine but the masked encoding.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use domain::{ImageId, SubjectId};
use federation::{Action, Answer, SiteName};
use serde::{Deserialize, Serialize};
use serde_json::json;
use vision::Points;

use crate::Outcome;
use crate::cohort_dir::CohortDir;
use crate::consortium::show::name;
use crate::context::Context;
use crate::output::Table;
use crate::site::Site;

const SOCKET: &str = "ask.sock";

/// Arguments of `site ask`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("probe").required(true).args(["photo", "image"]))]
pub struct AskArgs {
    /// This site's folder
    #[arg(long, value_name = "DIR", default_value = "site")]
    pub store: PathBuf,
    /// Photograph to ask about, or an aligned 112 x 112 face
    #[arg(value_name = "PHOTO")]
    pub photo: Option<PathBuf>,
    /// Image of this site's cohort to ask about
    #[arg(long, value_name = "ID")]
    pub image: Option<ImageId>,
    /// Five facial points of the photograph: x0,y0,...,x4,y4
    #[arg(
        long,
        value_name = "X0,Y0,...",
        value_delimiter = ',',
        allow_hyphen_values = true,
        num_args = 1,
        requires = "photo"
    )]
    pub points: Vec<f32>,
    /// Syndromes to show
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=30))]
    pub top: u16,
    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub wait: u64,
}

/// Arguments of `site withdraw`.
#[derive(Debug, Args)]
pub struct WithdrawArgs {
    /// This site's folder
    #[arg(long, value_name = "DIR", default_value = "site")]
    pub store: PathBuf,
    /// The patient's id in the cohort
    #[arg(value_name = "SUBJECT")]
    pub subject: SubjectId,
}

/// Arguments of `site approve`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// This site's folder
    #[arg(long, value_name = "DIR", default_value = "site")]
    pub store: PathBuf,
    /// The newcomer's name in the roster
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// A wish on its way to the running site.
#[derive(Debug, Serialize, Deserialize)]
enum Wish {
    Photo { file: PathBuf, points: Option<Vec<f32>>, top: usize },
    Image { image: ImageId, top: usize },
    Withdraw { subject: SubjectId },
    Approve { name: SiteName },
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
enum Granted {
    Ranking(Vec<Place>),
    Done,
    Refused(String),
}

/// One place in a ranking.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    syndrome: Option<String>,
    name: String,
    distance: f32,
    nearest: String,
    own_image: Option<ImageId>,
}

/// Asks.
///
/// # Errors
///
/// When the site does not run, the photograph cannot be used, or no answer comes in time.
pub fn run(args: AskArgs, context: &Context) -> Result<Outcome> {
    let top = usize::from(args.top);
    let (probe, wish) = match (args.photo, args.image) {
        (Some(photo), _) => {
            ensure!(args.points.is_empty() || args.points.len() == 10, "--points needs 10 numbers");
            let points = Some(args.points).filter(|points| !points.is_empty());
            let file = std::path::absolute(&photo)?;
            (photo.display().to_string(), Wish::Photo { file, points, top })
        }
        (None, Some(image)) => (image.to_string(), Wish::Image { image, top }),
        (None, None) => bail!("give a photograph or --image"),
    };
    let places = match hand_over(&args.store, &wish, args.wait)? {
        Granted::Ranking(places) => places,
        Granted::Refused(reason) => bail!("{reason}"),
        Granted::Done => bail!("the running site answered something else"),
    };
    let result = json!({ "probe": probe, "syndromes": places });
    context.output.result(&result, |_| {
        let mut table = Table::new(["syndrome", "label", "distance", "nearest"]);
        for place in &places {
            table.row([
                place.name.clone(),
                place.syndrome.clone().unwrap_or_default(),
                format!("{:.2}", place.distance),
                place.own_image.as_ref().map_or_else(|| "at another site".to_owned(), ToString::to_string),
            ]);
        }
        format!("{probe}\n{table}")
    })?;
    Ok(Outcome::Done)
}

/// Withdraws.
///
/// # Errors
///
/// When the site does not run, or does not have the patient.
pub fn withdraw(args: WithdrawArgs, context: &Context) -> Result<Outcome> {
    let subject = args.subject.clone();
    have_done(&args.store, &Wish::Withdraw { subject: args.subject })?;
    context.output.result(&json!({ "withdrawn": subject }), |_| {
        format!(
            "{subject} is withdrawn and is not imported again; the photographs in the cohort's folder are yours to remove"
        )
    })?;
    Ok(Outcome::Done)
}

/// Approves a newcomer.
///
/// # Errors
///
/// When the site does not run, or its roster does not have the newcomer.
pub fn approve(args: ApproveArgs, context: &Context) -> Result<Outcome> {
    let name = SiteName::new(&args.name)?;
    have_done(&args.store, &Wish::Approve { name: name.clone() })?;
    context
        .output
        .result(&json!({ "approved": name }), |_| format!("{name} gets the group key when it asks for it"))?;
    Ok(Outcome::Done)
}

fn have_done(store: &Path, wish: &Wish) -> Result<()> {
    match hand_over(store, wish, 60)? {
        Granted::Done => Ok(()),
        Granted::Refused(reason) => bail!("{reason}"),
        Granted::Ranking(_) => bail!("the running site answered something else"),
    }
}

fn hand_over(store: &Path, wish: &Wish, wait: u64) -> Result<Granted> {
    let path = store.join(SOCKET);
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("no site runs in {} (`fedgestalt site run`)", store.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(wait)))?;
    writeln!(stream, "{}", serde_json::to_string(wish)?)?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(_) => serde_json::from_str(&line).context("the running site was stopped before it answered"),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            bail!("no answer within {wait} seconds; is the coordinator there? (`site run` says so)")
        }
        Err(error) => Err(error.into()),
    }
}

/// Where the running site takes wishes.
pub(super) struct Counter {
    listener: UnixListener,
    path: PathBuf,
    cohort: CohortDir,
    waiting: BTreeMap<ImageId, (UnixStream, usize)>,
    /// Questions that came while another was open.
    queue: VecDeque<(UnixStream, Wish)>,
    asked: u64,
}

impl Counter {
    pub(super) fn open(store: &Path, cohort: CohortDir) -> Result<Self> {
        let path = store.join(SOCKET);
        // The store's lock is held: a socket that is there was left by a killed process.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot make {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let (waiting, queue) = (BTreeMap::new(), VecDeque::new());
        Ok(Self { listener, path, cohort, waiting, queue, asked: 0 })
    }

    /// The cohort as it is now.
    pub(super) fn renew(&mut self, cohort: CohortDir) {
        self.cohort = cohort;
    }

    /// Takes wishes and gives answers that are in.
    pub(super) fn attend(&mut self, site: &mut Site) -> Result<Vec<Action>> {
        let mut actions = Vec::new();
        while let Ok((stream, _)) = self.listener.accept() {
            match hear(&stream) {
                Ok(wish) => self.grant(stream, wish, site, &mut actions),
                Err(error) => reply(stream, &Granted::Refused(format!("{error:#}"))),
            }
        }
        let ready: Vec<ImageId> =
            site.asked.iter().filter(|(_, answer)| answer.is_some()).map(|(name, _)| name.clone()).collect();
        for name in ready {
            let Some(Some(answer)) = site.asked.remove(&name) else { continue };
            if let Some((stream, top)) = self.waiting.remove(&name) {
                reply(stream, &Granted::Ranking(self.places(answer, top)));
            }
        }
        if site.asked.is_empty()
            && let Some((stream, wish)) = self.queue.pop_front()
        {
            self.grant(stream, wish, site, &mut actions);
        }
        Ok(actions)
    }

    fn grant(&mut self, stream: UnixStream, wish: Wish, site: &mut Site, actions: &mut Vec<Action>) {
        let done = match wish {
            Wish::Withdraw { subject } => site.withdraw(&subject),
            Wish::Approve { name } => site.participant().approve(&name).map_err(Into::into),
            // One question at a time.
            question if !site.asked.is_empty() => return self.queue.push_back((stream, question)),
            Wish::Photo { file, points, top } => {
                let face = self.face(&file, points);
                return self.ask(stream, face, top, site, actions);
            }
            Wish::Image { image, top } => {
                let face = self.cohort.crop(&image);
                return self.ask(stream, face, top, site, actions);
            }
        };
        match done {
            Ok(more) => {
                actions.extend(more);
                reply(stream, &Granted::Done);
            }
            Err(error) => reply(stream, &Granted::Refused(format!("{error:#}"))),
        }
    }

    fn ask(
        &mut self,
        stream: UnixStream,
        face: Result<vision::Crop>,
        top: usize,
        site: &mut Site,
        actions: &mut Vec<Action>,
    ) {
        self.asked += 1;
        let asked = face.and_then(|face| {
            let name = ImageId::new(&format!("question-{}-{}", std::process::id(), self.asked))?;
            Ok((name.clone(), site.ask_about(name, &face)?))
        });
        match asked {
            Ok((name, more)) => {
                actions.extend(more);
                self.waiting.insert(name, (stream, top));
            }
            Err(error) => reply(stream, &Granted::Refused(format!("{error:#}"))),
        }
    }

    fn face(&self, file: &Path, points: Option<Vec<f32>>) -> Result<vision::Crop> {
        let name = file.display().to_string();
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {name}"))?;
        let photo = vision::decode::decode(&bytes, &vision::decode::Limits::default())
            .with_context(|| name.clone())?;
        let points = match points {
            Some(points) if points.len() == 10 => {
                Some(Points(std::array::from_fn(|at| [points[2 * at], points[2 * at + 1]])))
            }
            Some(_) => bail!("five points are ten numbers"),
            None => None,
        };
        let place = self.cohort.faces().locate(&photo, points.as_ref()).with_context(|| name.clone())?;
        place.crop(&photo).with_context(|| name)
    }

    fn places(&self, answer: Answer, top: usize) -> Vec<Place> {
        let place = |ranked: federation::RankedSyndrome| Place {
            name: match &ranked.syndrome {
                Some(syndrome) => name(&self.cohort.cohort, syndrome),
                None => "(a syndrome that this site has never heard of)".to_owned(),
            },
            syndrome: ranked.syndrome.map(|syndrome| syndrome.to_string()),
            distance: ranked.distance,
            nearest: hex::encode(ranked.nearest),
            own_image: ranked.own,
        };
        answer.ranked.into_iter().take(top).map(place).collect()
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn hear(stream: &UnixStream) -> Result<Wish> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut line = String::new();
    BufReader::new(stream.take(64 << 10)).read_line(&mut line)?;
    serde_json::from_str(&line).context("not a wish")
}

/// Whoever asked may have left.
fn reply(mut stream: UnixStream, granted: &Granted) {
    let _ = stream.set_write_timeout(Some(Duration::from_secs(2)));
    if let Ok(text) = serde_json::to_string(granted) {
        let _ = writeln!(stream, "{text}");
    }
}
