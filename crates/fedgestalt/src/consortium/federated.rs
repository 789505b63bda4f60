//! The federation itself: keys, roster, plan, one participant per site, and the engine between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use domain::SyndromeId;
use domain::cohort::{Cohort, Part};
use domain::evaluate::Accuracies;
use federation::{
    ConsortiumKey, CoordinatorKey, CoordinatorSetup, GroupState, KernelPlan, MemberPlan, Participant, Party,
    Plan, Roster, SignedRelease, SignedRoster, SiteIndex, SiteKey, SiteName, SiteSetup,
};
use vision::views::VIEWS;

use super::coordinator::{Accounts, CoordinatorNode, Resume};
use super::{Member, Run, engine_drops, secret};
use crate::config::{Config, MemberWeights};
use crate::engine::host::Event;
use crate::engine::local::Local;
use crate::pipeline::ensemble::Blueprint;
use crate::site::model::{form_plans, recipe_plan, start_plans, tensor_specs};
use crate::site::{Site, SiteParts};
use crate::store::Folder;

/// What the federation came to.
pub struct Federated {
    /// The sites, after the session.
    pub sites: Vec<Site>,
    /// The coordinator, after the session.
    pub node: CoordinatorNode,
    /// The signed roster in force.
    pub roster: SignedRoster,
    /// What the evaluation through the private kernel and the secure sum came to.
    pub accuracies: Accuracies,
    /// The release with its signatures.
    pub release: SignedRelease,
    /// Bytes and absences, over all processes that worked on the run.
    pub accounts: Accounts,
    /// What parties had to say.
    pub events: Vec<Event>,
}

/// Training images by syndrome; 0 for syndromes in the gallery or among the probes only.
pub fn holdings(cohort: &Cohort) -> BTreeMap<SyndromeId, u32> {
    let mut holdings: BTreeMap<SyndromeId, u32> =
        cohort.cases().iter().map(|case| (case.syndrome.clone(), 0)).collect();
    for (syndrome, images) in cohort.counts(Part::Train) {
        holdings.insert(syndrome, images);
    }
    holdings
}

/// The plan of a run.
pub fn plan(run: &Run<'_>, roster: &Roster) -> Result<Plan> {
    let config = &run.settings.config;
    let session = secret(config.training.seed, "session");
    let mut id = [0; 16];
    id.copy_from_slice(&session[..16]);
    plan_of(config, &run.blueprint, roster, run.cohort.cohort.splits().len() as u8, id)
}

/// The plan of a configuration: what the sites of a roster are offered. `splits` is the number of rare galleries.
pub fn plan_of(
    config: &Config,
    blueprint: &Blueprint,
    roster: &Roster,
    splits: u8,
    session: [u8; 16],
) -> Result<Plan> {
    let members: Vec<MemberPlan> = blueprint
        .tuned()
        .map(|member| {
            let network = blueprint.network(member);
            Ok(MemberPlan {
                name: member.name.clone(),
                recipe: recipe_plan(member.recipe.as_ref().context("a tuned member has a recipe")?),
                trunk: network.trunk.digest(),
                tensors: tensor_specs(&network.neck, config.federation.statistics),
            })
        })
        .collect::<Result<_>>()?;
    let dim = blueprint.dim();
    Ok(Plan {
        session,
        seed: config.training.seed,
        roster: roster.digest(),
        epochs: if members.is_empty() { 0 } else { config.training.epochs },
        members,
        forms: form_plans(blueprint),
        starts: start_plans(blueprint),
        interval: config.training.interval,
        aggregation: config.federation.aggregation,
        tuning: config.tuning(),
        rows: config.federation.rows,
        blind: config.federation.blind,
        min_cohort: config.federation.minimum_cohort,
        kernel: Some(KernelPlan {
            dim,
            width: dim,
            views: VIEWS as u8,
            splits,
            top: config.kernel.top,
            pooling: config.kernel.pooling,
            normalisation: config.kernel.normalisation,
            distance_step: config.kernel.distance_step,
            answers_per_site: config.kernel.answers_per_site,
            weighed: (config.kernel.weights == MemberWeights::Fitted)
                .then_some(blueprint.members.len() as u8),
        }),
    })
}

/// A simulated consortium's keys.
pub struct Keys {
    seed: u64,
}

impl Keys {
    /// Keys that follow from a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The consortium's.
    pub fn consortium(&self) -> ConsortiumKey {
        ConsortiumKey::from_seed(&secret(self.seed, "consortium key"))
    }

    /// The coordinator's.
    pub fn coordinator(&self) -> CoordinatorKey {
        CoordinatorKey::from_seed(&secret(self.seed, "coordinator key"))
    }

    /// A site's.
    pub fn site(&self, name: &str) -> SiteKey {
        SiteKey::from_seed(&secret(self.seed, &format!("{name} key")))
    }
}

/// Makes one site: its key into its folder, its participant new or restored from there.
pub fn site(
    run: &Run<'_>,
    keys: &Keys,
    roster: &SignedRoster,
    member: Member,
    index: usize,
    group: Option<GroupState>,
) -> Result<Site> {
    let name = member.name.clone();
    member.files.keep_key(&secret(keys.seed, &format!("{name} key")))?;
    let start = member.files.count_start()?;
    let setup = SiteSetup {
        key: keys.site(&name),
        consortium: keys.consortium().public(),
        roster: roster.clone(),
        policy: run.settings.config.policy.clone(),
        holdings: holdings(&member.cohort),
        group,
        seed: secret(keys.seed, &format!("{name} start {start}")),
    };
    open_site(setup, member, SiteIndex(index as u16), run.blueprint.clone()).context(name)
}

/// Makes a site from its folder: its participant new, or restored with its model.
pub fn open_site(
    setup: SiteSetup,
    member: Member,
    index: SiteIndex,
    blueprint: Arc<Blueprint>,
) -> Result<Site> {
    let files = member.files;
    let snapshot = files.participant()?;
    let resumed = snapshot.is_some();
    let participant = match snapshot {
        Some(bytes) => Participant::restore(setup, &bytes),
        None => Participant::new(setup),
    }?;
    let mut site = Site::new(SiteParts {
        index,
        name: SiteName::new(&member.name)?,
        cohort: member.cohort,
        tables: member.tables,
        files,
        blueprint,
        participant,
    });
    if resumed {
        site.resume()?;
    }
    Ok(site)
}

/// What parties had to say before a session failed: a site that refuses the plan says why.
fn notices(events: &[Event]) -> String {
    let said = events.iter().filter(|event| matches!(event, Event::Notice(..)));
    let said: Vec<String> = said.map(ToString::to_string).collect();
    if said.is_empty() { "the session failed".to_owned() } else { said.join("; ") }
}

/// Runs the session, or what is left of it.
pub fn federate(run: &Run<'_>, members: Vec<Member>) -> Result<Federated> {
    let keys = Keys::new(run.settings.config.training.seed);
    let roster = Roster::new(
        "simulated consortium",
        1,
        keys.coordinator().public(),
        members
            .iter()
            .map(|member| Ok((SiteName::new(&member.name)?, keys.site(&member.name).public())))
            .collect::<Result<_>>()?,
    )?;
    let signed = roster.sign(&keys.consortium());
    let plan = plan(run, &roster)?;
    let epochs = u64::from(plan.epochs) * members.len() as u64 * plan.members.len() as u64;
    let tuning_stages = plan.tuning_stages();
    let moments_stages = plan.members_stage() - tuning_stages;
    let stage = Arc::new(run.context.progress.stage("Federated training", epochs));
    let mut sites = members
        .into_iter()
        .enumerate()
        .map(|(at, member)| site(run, &keys, &signed, member, at, None))
        .collect::<Result<Vec<_>>>()?;
    for site in &mut sites {
        let stage = stage.clone();
        stage.advance(u64::from(site.records.last().map_or(0, |r| r.epoch)) * plan.members.len() as u64);
        site.tick = Some(Arc::new(move || stage.advance(1)));
    }
    let setup = CoordinatorSetup {
        key: keys.coordinator(),
        consortium: keys.consortium().public(),
        roster: signed.clone(),
    };
    let folder = Folder::open(&run.folder.path().join("coordinator"))?;
    let (mut node, resumed) = CoordinatorNode::open(folder, setup, Resume::AtSessionEnd)?;
    // Who has come back does not vanish again; who was away when the process ended does, in the repeated attempt.
    let back: Vec<(u32, u16)> = (node.before.attendance.iter())
        .filter(|(_, _, vanished)| !vanished)
        .map(|&(round, site, _)| (round, site))
        .collect();
    let drops = engine_drops(&run.settings.drops)
        .into_iter()
        .filter(|drop| !back.contains(&(drop.round, drop.site.0)))
        .collect();
    let mut engine = Local::new(&mut node, &mut sites, drops, tuning_stages);
    engine.moments = moments_stages;
    engine.observer = Some(Box::new(|event| run.context.progress.say(event)));
    let over = engine.coordinator.finished && engine.sites.iter().all(|site| site.finished);
    if over {
        // Nothing left to do: an earlier process finished the session.
    } else if let Some(actions) = resumed {
        engine.submit(Party::Coordinator, actions);
        engine.wake_everybody()?;
    } else {
        let actions = engine.coordinator.coordinator.start(plan)?;
        engine.submit(Party::Coordinator, actions);
    }
    if !over {
        let ended = engine.run(|node, sites| {
            let done = node.finished && sites.iter().all(|site| site.finished);
            done || sites.iter().any(|site| site.halted.is_some())
        });
        ended.with_context(|| notices(&engine.events))?;
    }
    let (traffic, events) = (std::mem::take(&mut engine.traffic), std::mem::take(&mut engine.events));
    drop(engine);
    if let Some(site) = sites.iter().find(|site| site.halted.is_some()) {
        bail!("{} stopped: {}", site.name, site.halted.as_deref().unwrap_or_default());
    }
    let mut accounts = node.before.clone();
    accounts.add(&traffic, &events);
    node.account(&traffic, &events)?;
    let first = sites.first().context("a federation has sites")?;
    let rounds = first.records.len();
    let accuracies = first.accuracies.context("the session ended without metrics")?;
    let release = first.release.clone().context("the session ended without a release")?;
    sites.iter_mut().for_each(|site| site.tick = None);
    if let Some(stage) = Arc::into_inner(stage) {
        stage.finish(format_args!("{rounds} rounds"));
    }
    Ok(Federated { accuracies, release, sites, node, roster: signed, accounts, events })
}
