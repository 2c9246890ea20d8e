//! Which revision is wanted, which one the Deployment runs, and what becomes of both. Pure: time,
//! pods and the outcome of the proof are arguments.
//!
//! An unproven revision that crashes gives way to the last good one at once, and so does one that is
//! not proven by its deadline; either verdict is kept, so that nothing is tried twice.
use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::Pod},
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;
use serde_json::Value;
use windlass_crds::conditions::reason;

use super::{
    pod::{self, Finding},
    prove::Proof,
    revision::{Revision, Verdict},
    validate::ValidatedModelDeployment,
};
use crate::names;

/// Revisions that are kept for a return to them.
const HISTORY: usize = 5;

/// What shall be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The revision that the spec asks for.
    pub wanted: Revision,
    /// The revision whose template the Deployment gets: the wanted one, or the last good one.
    pub deployed: Revision,
    /// All revisions that stay, the wanted one among them.
    pub revisions: Vec<Revision>,
    /// Names of the ControllerRevisions that go.
    pub expired: Vec<String>,
    /// The newest revision that has answered a request.
    pub last_good: Option<String>,
    /// Whether this program would render the wanted revision differently.
    pub render_outdated: bool,
    /// When an unproven revision counts as failed.
    pub deadline: Option<Timestamp>,
    /// Whether the Deployment shall leave the pods of the last good revision alone for now: the new
    /// ones say that they are ready, but do not answer.
    pub hold: bool,
}

impl Plan {
    /// Whether the wanted revision failed and another one runs in its place.
    pub fn is_rolled_back(&self) -> bool {
        self.wanted.id != self.deployed.id
    }

    /// Whether a pod's revision has answered a real completion.
    pub fn is_proven(&self, pod: &Pod) -> bool {
        self.revisions
            .iter()
            .any(|revision| revision.is_proven() && pod::runs(pod, &revision.id))
    }
}

/// Decides from what was observed; `rendered` is the template that this program would render now.
pub fn decide(
    owner: &ValidatedModelDeployment,
    rendered: Value,
    existing: &[ControllerRevision],
    pods: &[Pod],
    proof: Option<&Proof>,
    now: Timestamp,
) -> Plan {
    let mut revisions: Vec<Revision> = existing.iter().filter_map(Revision::read).collect();
    revisions.sort_by(|a, b| b.number.cmp(&a.number).then_with(|| a.id.cmp(&b.id)));
    let newest = revisions.first().map_or(0, |revision| revision.number);
    let recorded = revisions.iter().position(|revision| revision.inputs == owner.inputs);
    let mut wanted = match recorded {
        Some(index) => revisions.remove(index),
        None => Revision {
            id: owner.revision().to_owned(),
            number: newest.saturating_add(1),
            inputs: owner.inputs.clone(),
            template: rendered.clone(),
            pin_key: owner.pin_key.clone(),
            verdict: Verdict::Open,
            started: None,
        },
    };
    let render_outdated = wanted.template != rendered;
    if wanted.number < newest {
        wanted.number = newest.saturating_add(1);
    }
    for revision in &mut revisions {
        revision.started = None;
    }
    let good_before = revisions
        .iter()
        .find(|revision| revision.is_proven())
        .map(|revision| revision.id.clone());

    // The clock of a rollout stands still while nothing can run.
    wanted.started = (!owner.suspended).then(|| wanted.started.unwrap_or(now));
    let limit = SignedDuration::try_from(owner.progress_deadline).unwrap_or(SignedDuration::MAX);
    let deadline = wanted.started.and_then(|started| started.checked_add(limit).ok());
    if let Some(Proof::Answered { digest }) = proof {
        wanted.verdict = Verdict::Proven { digest: digest.clone() };
    } else if wanted.verdict == Verdict::Open && !owner.suspended {
        let crash = good_before.as_ref().and_then(|_| crash(pods, &wanted.id));
        if let Some(finding) = crash {
            wanted.verdict = Verdict::Failed(format!("{}: {}", finding.reason, finding.message));
        } else if deadline.is_some_and(|deadline| deadline <= now) {
            wanted.verdict = Verdict::Failed(deadline_failure(pods, &wanted.id, owner, proof));
        }
    }

    let last_good = if wanted.is_proven() {
        Some(wanted.id.clone())
    } else {
        good_before
    };
    let deployed = match (&wanted.verdict, &last_good) {
        (Verdict::Failed(_), Some(good)) => revisions.iter().find(|revision| revision.id == *good).cloned(),
        _ => None,
    }
    .unwrap_or_else(|| wanted.clone());

    let keep = |revision: &Revision, kept: usize| {
        kept < HISTORY - 1 || revision.id == deployed.id || Some(&revision.id) == last_good.as_ref()
    };
    let mut kept = vec![wanted.clone()];
    for revision in revisions {
        if keep(&revision, kept.len() - 1) {
            kept.push(revision);
        }
    }
    let expired = existing
        .iter()
        .filter(|object| {
            !kept
                .iter()
                .any(|revision| object.name_any() == format!("{}-{}", owner.name, revision.id))
        })
        .map(ResourceExt::name_any)
        .collect();
    let deadline = deadline.filter(|_| wanted.verdict == Verdict::Open);
    let hold = wanted.verdict == Verdict::Open && last_good.is_some() && matches!(proof, Some(Proof::Refused(_)));
    Plan {
        wanted,
        deployed,
        revisions: kept,
        expired,
        last_good,
        render_outdated,
        deadline,
        hold,
    }
}

/// The crash of a pod of this revision, if one crashed.
fn crash(pods: &[Pod], revision: &str) -> Option<Finding> {
    pods.iter()
        .filter(|pod| pod::is_active(pod) && pod.labels().get(names::LABEL_REVISION).is_some_and(|id| id == revision))
        .filter(|pod| !pod::is_ready(pod))
        .map(pod::examine)
        .find(|finding| matches!(finding.reason, reason::ENGINE_CRASHED | reason::OUT_OF_MEMORY))
}

/// Why a revision was not proven in time, with what its pods said last.
fn deadline_failure(pods: &[Pod], revision: &str, owner: &ValidatedModelDeployment, proof: Option<&Proof>) -> String {
    let last_words = match proof {
        Some(Proof::Refused(message)) => Some(message.clone()),
        _ => pod::worst(pods, revision).map(|finding| finding.message),
    };
    let waited = owner.progress_deadline.as_secs();
    let tail = last_words.map_or_else(String::new, |words| format!("; last seen: {words}"));
    format!(
        "{}: it was not proven within {waited} s (spec.rollout.progressDeadline){tail}",
        reason::PROGRESS_DEADLINE_EXCEEDED
    )
}

#[cfg(test)]
#[path = "rollout/tests.rs"]
mod tests;
