//! Comparing the model with the other sites.

use super::Participant;
use crate::action::{Action, KernelSetup};
use crate::envelope::{Envelope, Kind, Opened};
use crate::identity::digest;
use crate::refusal::{Result, refuse};
use crate::release::threshold;
use crate::wire;

impl Participant {
    /// The whole model as it now is, `[member][tensor]` in plan order, after [`Action::Begin`] or
    /// [`Action::Apply`]. Its shared parts are hashed and the signed hash is compared with the others'.
    ///
    /// Keep the model durably together with the snapshot at [`Action::Save`]: the coordinator forgets a
    /// sum once every site has confirmed it.
    pub fn model_applied<T: AsRef<[f32]>>(&mut self, model: &[Vec<T>]) -> Result<Vec<Action>> {
        let session = self.session()?;
        let Some(layout) = session.layout.as_ref().filter(|_| session.awaits_model) else {
            refuse!(OutOfPhase, "no model is asked for now");
        };
        let digests = layout.digests(model, &session.counts)?;
        let session = self.session_mut()?;
        session.digests = digests;
        session.awaits_model = false;
        let early = session.early_hashes.take();
        let mut actions = vec![Action::Save, self.hash_message()];
        if let Some(opened) = early {
            actions.extend(self.on_hashes(opened)?);
        }
        Ok(actions)
    }

    pub(super) fn hash_message(&self) -> Action {
        let (stage, hash, over) = match &self.session {
            Some(s) => (s.settled, s.digests.whole, s.rounds_are_over(s.settled)),
            None => (0, [0; 32], false),
        };
        let payload = wire::encode(&wire::Hash { hash: hash.to_vec(), over });
        self.send_to(None, Kind::ModelHash, stage, 0, payload)
    }

    pub(super) fn on_hashes(&mut self, opened: Opened) -> Result<Vec<Action>> {
        let envelope: &Envelope = &opened.envelope;
        let stage = envelope.round;
        let session = self.session()?;
        if session.joined || session.lists.is_none() {
            refuse!(OutOfPhase, "this site has no model to compare");
        }
        if stage < session.settled {
            return self.repeated_hashes(stage);
        }
        if stage > session.settled || session.applied == session.settled {
            return self.hello();
        }
        let messages = self.open_bundle(envelope, Kind::ModelHash, None)?;
        let session = self.session()?;
        let least = threshold(session.members.len());
        if messages.len() < least {
            refuse!(TooFewSites, "hashes of {} sites; {least} are needed", messages.len());
        }
        if session.awaits_model {
            self.session_mut()?.early_hashes = Some(opened);
            return Ok(Vec::new());
        }
        let over = session.rounds_are_over(stage);
        let (mut differing, mut disagreeing) = (Vec::new(), Vec::new());
        for (site, opened) in &messages {
            let hash: wire::Hash = wire::decode(&opened.envelope.payload)?;
            if hash.hash != session.digests.whole {
                differing.push(self.roster.name(*site));
            } else if hash.over != over {
                disagreeing.push(self.roster.name(*site));
            }
        }
        let me = self.roster.name(self.me);
        if !differing.is_empty() {
            return Ok(self.halt(format!(
                "after stage {stage} the model of {} differs from that of {me}; \
                 compare program versions, or ask the coordinator why it sent different sums",
                differing.join(", ")
            )));
        }
        if !disagreeing.is_empty() {
            return Ok(self.halt(format!(
                "after stage {stage} {} and {me} disagree on whether the rounds are over, which follows from the same \
                 sums; compare program versions, and ask that site what it runs",
                disagreeing.join(", ")
            )));
        }
        let session = self.session_mut()?;
        // Rounds that nobody needs are left out.
        session.settled = if over { session.plan.stage_of(session.plan.rounds()) } else { stage } + 1;
        session.applied = session.settled;
        let catching_up = std::mem::take(&mut session.catching_up);
        let mut actions = vec![Action::Save];
        if stage == session.plan.last_model_stage() {
            let (id, plan) = (session.plan.session, session.plan_digest);
            session.model_label = digest("fedgestalt/kernel/v1", &[&id, &plan, &session.digests.whole]);
            actions.extend(self.encode_action());
        }
        if catching_up {
            actions.extend(self.hello()?);
        } else {
            actions.extend(self.proceed()?);
        }
        Ok(actions)
    }

    /// The coordinator repeats the last hashes when it misses this site's gallery.
    fn repeated_hashes(&mut self, stage: u32) -> Result<Vec<Action>> {
        let session = self.session()?;
        let last = session.plan.last_model_stage();
        let asks = stage == last && session.settled == stage + 1 && !session.kernel.ready;
        match self.encode_action().filter(|_| asks) {
            Some(action) => {
                self.session_mut()?.kernel.images.clear();
                Ok(vec![action])
            }
            None => refuse!(Replayed, "the hashes of stage {stage} were compared before"),
        }
    }

    pub(super) fn encode_action(&self) -> Option<Action> {
        let session = self.session.as_ref()?;
        let kernel = session.plan.kernel.as_ref()?;
        Some(Action::Encode(KernelSetup { dim: kernel.dim, label: session.model_label }))
    }
}
