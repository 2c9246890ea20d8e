//! Which revision is desired, which one the workload runs, how one replaces the other, and what becomes of both.
//! Pure: time and what pods showed are arguments.
//!
//! A pod is ready only once it has verified itself, so traffic never reaches a revision that does not work. A
//! revision that fails again and again, or is not verified before its deadline, gives way to the last verified one;
//! either verdict is recorded, so that nothing is tried twice, until a deadline changes or a restart is asked for.
use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{
    api::apps::v1::ControllerRevision,
    jiff::{SignedDuration, Timestamp},
};
use serde_json::Value;
use windlass_crds::conditions::Reason;

use super::revision::{Revision, Verdict};

/// Revisions that are kept for a return to them.
const HISTORY: usize = 5;
/// For so long pods of both revisions may lack room before the old ones give way.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(60);

/// The revision that a spec demands.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub id: String,
    /// Hash of everything that it is rendered from.
    pub inputs: String,
    /// As this program renders it now.
    pub template: Value,
    pub pin_key: String,
    pub needs: BTreeSet<String>,
    /// How long it may take until it is verified.
    pub deadline: Duration,
    pub suspended: bool,
    pub strategy: Strategy,
}

/// How one revision may replace another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// With surge, until there proves to be no room for it.
    Auto,
    Surge,
    Recreate,
}

/// How one revision replaces another now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacement {
    /// A new pod starts before an old one ends.
    Surge,
    /// An old pod ends before a new one starts, one at a time.
    Replace,
    /// All old pods end before new ones start.
    Recreate,
}

impl Replacement {
    /// As the status names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Surge => "Surge",
            Self::Replace => "Replace",
            Self::Recreate => "Recreate",
        }
    }
}

/// What the pods of the wanted revision showed.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// A pod verified itself and is ready; with the digest of its model.
    pub verified: Option<Option<String>>,
    /// It failed again and again; the text begins with the reason and a colon.
    pub failure: Option<String>,
    /// What its pods said last.
    pub last_words: Option<String>,
    /// Something long is under way and makes progress: a download.
    pub makes_progress: bool,
    /// Why its pods cannot be placed, and since when, while pods of other revisions run.
    pub no_room: Option<(String, Timestamp)>,
}

/// What shall be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The revision that the spec demands.
    pub wanted: Revision,
    /// The revision whose template the workload gets: the wanted one, or the last verified one.
    pub deployed: Revision,
    /// All revisions that stay, the wanted one first.
    pub revisions: Vec<Revision>,
    /// The newest verified revision.
    pub last_verified: Option<String>,
    /// Whether this program would render the wanted revision differently.
    pub render_outdated: bool,
    /// When an unverified revision counts as failed.
    pub deadline: Option<Timestamp>,
    pub replacement: Replacement,
    /// When lack of room will make old pods give way.
    pub gives_way_at: Option<Timestamp>,
}

impl Plan {
    /// Whether the wanted revision failed and another one runs in its place.
    pub fn is_rolled_back(&self) -> bool {
        self.wanted.id != self.deployed.id
    }

    /// Whether some revision that stays needs this.
    pub fn needs(&self, what: &str) -> bool {
        self.revisions.iter().any(|revision| revision.needs.contains(what))
    }

    /// When a decision changes by itself, if it does.
    pub fn next_change(&self) -> Option<Timestamp> {
        self.deadline.into_iter().chain(self.gives_way_at).min()
    }
}

/// Decides from what was observed.
pub fn decide(wanted: &Wanted, existing: &[ControllerRevision], evidence: &Evidence, now: Timestamp) -> Plan {
    let mut revisions: Vec<Revision> = existing.iter().filter_map(Revision::read).collect();
    revisions.sort_by(|a, b| b.number.cmp(&a.number).then_with(|| a.id.cmp(&b.id)));
    let newest = revisions.first().map_or(0, |revision| revision.number);
    let recorded = revisions.iter().position(|revision| revision.inputs == wanted.inputs);
    let mut current = match recorded {
        Some(index) => revisions.remove(index),
        None => Revision {
            id: wanted.id.clone(),
            number: newest.saturating_add(1),
            inputs: wanted.inputs.clone(),
            template: wanted.template.clone(),
            pin_key: wanted.pin_key.clone(),
            needs: wanted.needs.clone(),
            verdict: Verdict::Open,
            started: None,
            deadline: None,
            no_surge: None,
        },
    };
    let render_outdated = current.template != wanted.template;
    if current.number < newest {
        current.number = newest.saturating_add(1);
    }
    for revision in &mut revisions {
        revision.started = None;
        revision.deadline = None;
        revision.no_surge = None;
    }
    let verified_before = revisions.iter().find(|revision| revision.is_verified());
    let verified_before = verified_before.map(|revision| revision.id.clone());

    let deadline = judge(&mut current, wanted, evidence, verified_before.is_some(), now);
    let gives_way_at = give_way(&mut current, wanted, evidence, now);
    let last_verified = if current.is_verified() {
        Some(current.id.clone())
    } else {
        verified_before
    };
    let deployed = match (&current.verdict, &last_verified) {
        (Verdict::Failed(_), Some(good)) => revisions.iter().find(|revision| revision.id == *good).cloned(),
        _ => None,
    }
    .unwrap_or_else(|| current.clone());

    let replacement = match wanted.strategy {
        Strategy::Recreate => Replacement::Recreate,
        Strategy::Auto if current.no_surge.is_some() => Replacement::Replace,
        Strategy::Auto | Strategy::Surge => Replacement::Surge,
    };
    let mut kept = vec![current.clone()];
    for revision in revisions {
        let is_needed = revision.id == deployed.id || Some(&revision.id) == last_verified.as_ref();
        if kept.len() < HISTORY || is_needed {
            kept.push(revision);
        }
    }
    Plan {
        wanted: current,
        deployed,
        revisions: kept,
        last_verified,
        render_outdated,
        deadline,
        replacement,
        gives_way_at,
    }
}

/// Brings the verdict up to date; returns when an open one counts as failed.
fn judge(
    current: &mut Revision,
    wanted: &Wanted,
    evidence: &Evidence,
    has_alternative: bool,
    now: Timestamp,
) -> Option<Timestamp> {
    let seconds = wanted.deadline.as_secs();
    // A changed deadline is another try.
    if current.failure().is_some() && current.deadline.is_some_and(|recorded| recorded != seconds) {
        current.verdict = Verdict::Open;
        current.started = None;
    }
    current.deadline = Some(seconds);
    // The clock of a rollout stands still while nothing can run.
    if wanted.suspended {
        current.started = None;
    }
    if let Some(digest) = &evidence.verified {
        current.verdict = Verdict::Verified { digest: digest.clone() };
    }
    if current.verdict != Verdict::Open || wanted.suspended {
        current.started = None;
        return None;
    }
    let limit = SignedDuration::try_from(wanted.deadline).unwrap_or(SignedDuration::MAX);
    let started = current.started.unwrap_or(now);
    let elapsed = now.duration_since(started);
    // Recorded only now and then: each record is a write.
    let started = if evidence.makes_progress && elapsed > limit / 2 {
        now
    } else {
        started
    };
    current.started = Some(started);
    let deadline = started.checked_add(limit).ok();
    if let Some(failure) = evidence.failure.as_ref().filter(|_| has_alternative) {
        current.verdict = Verdict::Failed(failure.clone());
    } else if deadline.is_some_and(|deadline| deadline <= now) {
        let last = evidence.last_words.as_ref().map_or_else(String::new, |words| {
            format!("; last seen: {}", words.trim_end_matches('.'))
        });
        current.verdict = Verdict::Failed(format!(
            "{}: it was not verified within {seconds} s (spec.rollout.progressDeadline){last}",
            Reason::ProgressDeadlineExceeded,
        ));
    }
    if current.verdict == Verdict::Open {
        return deadline;
    }
    current.started = None;
    None
}

/// Records that surge has no room; returns when it will, if it has none now.
fn give_way(current: &mut Revision, wanted: &Wanted, evidence: &Evidence, now: Timestamp) -> Option<Timestamp> {
    if wanted.strategy != Strategy::Auto {
        current.no_surge = None;
        return None;
    }
    let (why, since) = evidence.no_room.as_ref()?;
    if current.no_surge.is_some() {
        return None;
    }
    let at = since.checked_add(PATIENCE).ok()?;
    if at > now {
        return Some(at);
    }
    current.no_surge = Some(why.clone());
    None
}

#[cfg(test)]
#[path = "rollout/tests.rs"]
mod tests;
