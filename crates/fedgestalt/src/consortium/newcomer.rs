//! A site that was not there when the others trained: it adopts the release, adds its patients, asks about its own.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use domain::cohort::Part;
use domain::evaluate::{HitCounts, Setting};
use federation::{Action, Party, SiteIndex, SiteName};

use super::Run;
use super::federated::{Federated, Keys, site};
use super::results::NewcomerResults;
use super::show::NewcomerStory;
use crate::cohort_dir::CohortDir;
use crate::engine::local::Local;
use crate::site::Site;
use crate::site::state::{PARTICIPANT, SESSION_END};
use crate::store;

const NAME: &str = "newcomer";
const STORY: &str = "newcomer.json";

/// Lets the patients' site join the session, and ranks its probes and, once more, those of the others.
pub fn join(run: &Run<'_>, federated: &mut Federated, patients: &Path) -> Result<NewcomerStory> {
    if let Some(story) = store::read_json(&super::file(run, STORY))? {
        return Ok(story);
    }
    let stage = run.context.progress.stage("A new site joins", 4);
    let keys = Keys::new(run.settings.config.training.seed);
    let cohort = CohortDir::open(patients)?;
    // A join that was interrupted begins anew: what the newcomer's participant knew came from the session.
    // The others go on from the end of the session.
    for state in [PARTICIPANT, SESSION_END] {
        store::remove(&run.folder.path().join("sites").join(NAME).join(state))?;
    }
    let member = run.member(NAME, cohort.cohort.clone(), &cohort, &|_| {})?;
    stage.advance(1);

    // The consortium signs a roster with the newcomer; the coordinator tells it to every site.
    let roster = federated.roster.verify(&keys.consortium().public())?;
    let signed = roster.with_site(SiteName::new(NAME)?, keys.site(NAME).public())?.sign(&keys.consortium());
    let told = federated.node.coordinator.adopt_roster(&signed)?;
    federated.roster = signed.clone();
    let index = federated.sites.len();
    let newcomer = site(run, &keys, &signed, member, index, None)?;
    federated.sites.push(newcomer);
    stage.advance(1);

    let mut engine = Local::new(&mut federated.node, &mut federated.sites, Vec::new(), 0);
    engine.observer = Some(Box::new(|event| run.context.progress.say(event)));
    engine.submit(Party::Coordinator, told);
    engine.settle()?;
    // A person at one member site approves: the group key goes to the newcomer in a box that only it opens.
    let approval = engine.sites[0].participant().approve(&SiteName::new(NAME)?)?;
    engine.submit(Party::Site(SiteIndex(0)), approval);
    engine.settle()?;
    stage.advance(1);
    if engine.sites[index].trained().is_none() {
        bail!("the newcomer did not get the release");
    }
    for at in 0..=index {
        let questions: Vec<Action> = engine.sites[at].ask_frequent()?;
        engine.submit(Party::Site(SiteIndex(at as u16)), questions);
    }
    engine.settle()?;
    drop(engine);
    let (others, newcomer) = federated.sites.split_at(index);
    let story = story(&newcomer[0], others)?;
    federated.sites.truncate(index);
    store::write_json(&super::file(run, STORY), &story)?;
    stage.finish(format_args!(
        "top-1 of its {} probes {:.2} %",
        story.results.probes, story.results.newcomer[0]
    ));
    Ok(story)
}

fn story(newcomer: &Site, others: &[Site]) -> Result<NewcomerStory> {
    let accuracy = |sites: &[&Site]| -> Result<([f64; 4], usize)> {
        let mut sum: Option<HitCounts> = None;
        let mut probes = 0;
        for site in sites {
            probes += site.cohort.part(Part::FrequentTest).len();
            let hits = site.late_hits()?;
            match &mut sum {
                Some(sum) => sum.add(&hits)?,
                None => sum = Some(hits),
            }
        }
        let table = sum.context("no site to count")?.table();
        Ok((table.get(Setting::FrequentFrequent), probes))
    };
    let (own, probes) = accuracy(&[newcomer])?;
    let (others, _) = accuracy(&others.iter().collect::<Vec<_>>())?;
    Ok(NewcomerStory {
        site: newcomer.name.to_string(),
        steps: vec![
            "The consortium signs a roster with the new site's key; every party pins it.".to_owned(),
            "A member site approves it: the group key goes to it in a box that only it can open.".to_owned(),
            "It takes the signed release and the sealed weights from the coordinator, checks signatures and hashes, and adopts them."
                .to_owned(),
            format!(
                "It adds {} masked photographs to the gallery and asks about {} of its own.",
                newcomer.cohort.part(Part::FrequentGallery).len(),
                probes
            ),
        ],
        results: NewcomerResults { probes, newcomer: own, others },
    })
}
