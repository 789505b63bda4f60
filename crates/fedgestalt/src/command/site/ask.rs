//! `site ask` and `site withdraw`: what a person asks of the running site.
//!
//! The running site owns its store, so these commands hand their wish to it through a socket in the store's folder, which
//! only its owner can open. Nothing of that leaves the machine but the masked encoding.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use domain::{ImageId, SubjectId};
use federation::{Action, Answer};
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

/// A wish on its way to the running site.
#[derive(Debug, Serialize, Deserialize)]
enum Wish {
    Photo { file: PathBuf, points: Option<Vec<f32>>, top: usize },
    Image { image: ImageId, top: usize },
    Withdraw { subject: SubjectId },
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
enum Granted {
    Ranking(Vec<Place>),
    Withdrawn,
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
        Granted::Withdrawn => bail!("the running site answered something else"),
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
    match hand_over(&args.store, &Wish::Withdraw { subject: args.subject }, 60)? {
        Granted::Withdrawn => {}
        Granted::Refused(reason) => bail!("{reason}"),
        Granted::Ranking(_) => bail!("the running site answered something else"),
    }
    context.output.result(&json!({ "withdrawn": subject }), |_| {
        format!("{subject} is withdrawn; remove the patient from the cohort's folder too, or the next start imports it again")
    })?;
    Ok(Outcome::Done)
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
        Ok(Self { listener, path, cohort, waiting: BTreeMap::new(), asked: 0 })
    }

    /// Takes wishes and gives answers that are in.
    pub(super) fn attend(&mut self, site: &mut Site) -> Result<Vec<Action>> {
        let mut actions = Vec::new();
        while let Ok((stream, _)) = self.listener.accept() {
            match self.hear(&stream, site) {
                Ok((Some(name), top, more)) => {
                    self.waiting.insert(name, (stream, top));
                    actions.extend(more);
                }
                Ok((None, _, more)) => {
                    actions.extend(more);
                    reply(stream, &Granted::Withdrawn);
                }
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
        Ok(actions)
    }

    fn hear(
        &mut self,
        stream: &UnixStream,
        site: &mut Site,
    ) -> Result<(Option<ImageId>, usize, Vec<Action>)> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut line = String::new();
        BufReader::new(stream.take(64 << 10)).read_line(&mut line)?;
        let wish: Wish = serde_json::from_str(&line).context("not a wish")?;
        let (crop, top) = match wish {
            Wish::Photo { file, points, top } => (self.face(&file, points)?, top),
            Wish::Image { image, top } => (self.cohort.crop(&image)?, top),
            Wish::Withdraw { subject } => return Ok((None, 0, site.withdraw(&subject)?)),
        };
        self.asked += 1;
        let name = ImageId::new(&format!("question-{}-{}", std::process::id(), self.asked))?;
        let actions = site.ask_about(name.clone(), &crop)?;
        Ok((Some(name), top, actions))
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

/// Whoever asked may have left.
fn reply(mut stream: UnixStream, granted: &Granted) {
    let _ = stream.set_write_timeout(Some(Duration::from_secs(2)));
    if let Ok(text) = serde_json::to_string(granted) {
        let _ = writeln!(stream, "{text}");
    }
}
