//! The conditions. Each is judged from the same findings, so that they cannot contradict each other;
//! Reconciling and Stalled are derived from Ready, last.
use windlass_crds::conditions::{condition, reason};

use super::{Situation, find, is_true};
use crate::{
    model_deployment::{
        build,
        pod::{self, Finding, Stage},
        prove::Proof,
        rollout::Plan,
    },
    names,
};

const REFERENCES: [&str; 4] = [
    reason::REFERENCE_NOT_FOUND,
    reason::CLAIM_NOT_USABLE,
    reason::CREDENTIALS_REQUIRED,
    reason::CREDENTIALS_REJECTED,
];
const MODEL: [&str; 8] = [
    reason::INVALID_SOURCE,
    reason::MODEL_NOT_FOUND,
    reason::SOURCE_UNAVAILABLE,
    reason::DIGEST_MISMATCH,
    reason::INVALID_FILE,
    reason::NO_SPACE,
    reason::VOLUME_FAILED,
    reason::FETCH_FAILED,
];
/// What only an edit of the spec can mend. A missing file or Secret may still come.
const NEEDS_EDIT: [&str; 2] = [reason::DIGEST_MISMATCH, reason::INVALID_SOURCE];

/// Status, reason and message for each type.
#[derive(Debug, Clone, Default)]
pub struct Judged(Vec<(&'static str, String, String, String)>);

impl Judged {
    /// Judges one type.
    pub fn set(&mut self, type_: &'static str, status: &str, reason: &str, message: &str) {
        self.0
            .push((type_, status.to_owned(), reason.to_owned(), message.to_owned()));
    }

    /// In the order in which people read them.
    pub fn in_order(&self) -> impl Iterator<Item = (&str, &str, &str, &str)> {
        condition::ALL.iter().filter_map(|type_| {
            let (type_, status, reason, message) = self.0.iter().find(|entry| entry.0 == *type_)?;
            Some((*type_, status.as_str(), reason.as_str(), message.as_str()))
        })
    }
}

/// Judges all conditions.
pub fn judge(situation: &Situation) -> Judged {
    let view = View::of(situation);
    let mut judged = Judged::default();
    accepted(&mut judged, &view);
    references(&mut judged, &view);
    model_verified(&mut judged, &view);
    scheduled(&mut judged, &view);
    available(&mut judged, &view);
    let ready = ready(&view);
    judged.set(
        condition::READY,
        if ready.0 { "True" } else { "False" },
        ready.1,
        &ready.2,
    );
    progress(&mut judged, &view, &ready);
    judged
}

/// The findings about the revision that is deployed.
struct View<'a> {
    situation: &'a Situation<'a>,
    plan: &'a Plan,
    findings: Vec<Finding>,
    worst: Option<Finding>,
    /// Pods that take requests and whose revision is proven.
    serving_pods: usize,
    ready_deployed: usize,
    active_pods: usize,
    /// Why the API server creates no pods.
    refusal: Option<String>,
}

impl<'a> View<'a> {
    fn of(situation: &'a Situation) -> Self {
        let deployed = &situation.plan.deployed.id;
        let of_deployed: Vec<_> = situation.pods.iter().filter(|pod| pod::runs(pod, deployed)).collect();
        // A running fetch tells by itself what its last attempt met.
        let trouble = situation.progress.and_then(|report| report.error.as_ref());
        let told = |finding: Finding| match trouble {
            Some(error) if finding.reason == reason::DOWNLOADING => pod::fetch_error(error),
            _ => finding,
        };
        let mut findings: Vec<Finding> = of_deployed.iter().map(|pod| told(pod::examine(pod))).collect();
        findings.sort_by(|a, b| (a.stage, &a.message).cmp(&(b.stage, &b.message)));
        Self {
            situation,
            plan: situation.plan,
            findings,
            worst: pod::worst(situation.pods, deployed).map(told),
            serving_pods: situation
                .pods
                .iter()
                .filter(|pod| pod::is_ready(pod) && situation.plan.is_proven(pod))
                .count(),
            ready_deployed: of_deployed.iter().filter(|pod| pod::is_ready(pod)).count(),
            active_pods: situation.pods.iter().filter(|pod| pod::is_active(pod)).count(),
            refusal: refusal(situation),
        }
    }

    fn finding(&self, reasons: &[&str]) -> Option<&Finding> {
        self.findings.iter().find(|finding| reasons.contains(&finding.reason))
    }

    /// What was True for the same revision stays so while its pods are being replaced.
    fn remembered(&self, type_: &str) -> Option<(&'a str, &'a str)> {
        let previous = self.situation.previous;
        let same = previous
            .revision
            .as_ref()
            .and_then(|revision| revision.current.as_ref())
            == Some(&self.plan.wanted.id);
        (same && is_true(&previous.conditions, type_))
            .then(|| find(&previous.conditions, type_))
            .flatten()
            .map(|old| (old.reason.as_str(), old.message.as_str()))
    }

    fn unknown(&self, judged: &mut Judged, type_: &'static str, message: &str) {
        match self.remembered(type_) {
            Some((reason, message)) => judged.set(type_, "True", reason, message),
            None => judged.set(type_, "Unknown", reason::PENDING, message),
        }
    }
}

fn accepted(judged: &mut Judged, view: &View) {
    match (view.situation.conflict, view.situation.schema_skew) {
        (Some(conflict), _) => judged.set(
            condition::ACCEPTED,
            "False",
            reason::NAME_CONFLICT,
            &conflict_message(conflict),
        ),
        (None, Some(skew)) => judged.set(condition::ACCEPTED, "True", reason::VALID, skew),
        (None, None) => judged.set(condition::ACCEPTED, "True", reason::VALID, "the spec is valid"),
    }
}

fn references(judged: &mut Judged, view: &View) {
    if let Some(finding) = view.finding(&REFERENCES) {
        judged.set(condition::RESOLVED_REFS, "False", finding.reason, &finding.message);
    } else if view.findings.iter().any(|finding| finding.stage >= Stage::Fetching) {
        judged.set(
            condition::RESOLVED_REFS,
            "True",
            reason::RESOLVED,
            "everything that the spec refers to was found",
        );
    } else {
        view.unknown(judged, condition::RESOLVED_REFS, "no pod has used the references yet");
    }
}

fn model_verified(judged: &mut Judged, view: &View) {
    if let Some(finding) = view.finding(&MODEL) {
        judged.set(condition::MODEL_VERIFIED, "False", finding.reason, &finding.message);
    } else if view.findings.iter().any(|finding| finding.stage >= Stage::Starting) {
        judged.set(
            condition::MODEL_VERIFIED,
            "True",
            reason::VERIFIED,
            "the file is complete and is what was asked for",
        );
    } else if view.finding(&[reason::DOWNLOADING]).is_some() && view.remembered(condition::MODEL_VERIFIED).is_none() {
        judged.set(
            condition::MODEL_VERIFIED,
            "False",
            reason::DOWNLOADING,
            "a pod fetches and checks the model",
        );
    } else {
        view.unknown(judged, condition::MODEL_VERIFIED, "no pod has the model yet");
    }
}

fn scheduled(judged: &mut Judged, view: &View) {
    let unscheduled = view
        .findings
        .iter()
        .find(|finding| finding.stage == Stage::Scheduling && finding.is_problem());
    if view.situation.owner.suspended {
        judged.set(condition::SCHEDULED, "False", reason::SUSPENDED, "spec.suspend is true");
    } else if let Some(finding) = unscheduled {
        judged.set(condition::SCHEDULED, "False", finding.reason, &finding.message);
    } else if let Some(refusal) = &view.refusal {
        judged.set(condition::SCHEDULED, "False", reason::PODS_REFUSED, refusal);
    } else if !view.findings.is_empty() && view.findings.iter().all(|finding| finding.stage > Stage::Scheduling) {
        judged.set(condition::SCHEDULED, "True", reason::SCHEDULED, "every pod has a node");
    } else {
        view.unknown(judged, condition::SCHEDULED, "the scheduler has not decided yet");
    }
}

fn available(judged: &mut Judged, view: &View) {
    if view.serving_pods > 0 {
        judged.set(condition::AVAILABLE, "True", reason::SERVING, "requests are answered");
    } else if view.situation.owner.suspended {
        judged.set(condition::AVAILABLE, "False", reason::SUSPENDED, "spec.suspend is true");
    } else {
        judged.set(
            condition::AVAILABLE,
            "False",
            reason::NO_READY_PODS,
            "no pod of a proven revision takes requests",
        );
    }
}

/// Whether the wanted revision serves and is proven; reason and message.
type Readiness = (bool, &'static str, String);

fn ready(view: &View) -> Readiness {
    let Situation {
        owner, proof, conflict, ..
    } = view.situation;
    if let Some(conflict) = conflict {
        return (false, reason::NAME_CONFLICT, conflict_message(conflict));
    }
    if owner.suspended {
        return (
            false,
            reason::SUSPENDED,
            "spec.suspend is true; set it to false to serve".to_owned(),
        );
    }
    if let Some(failure) = view.plan.wanted.failure() {
        return failed(view.plan, failure);
    }
    if view.plan.wanted.is_proven() && view.ready_deployed > 0 {
        return (
            true,
            reason::SERVING,
            format!("answers at {}", build::service::url(owner)),
        );
    }
    if let Some(refusal) = view.situation.refusal {
        return (false, reason::APPLY_FAILED, apply_message(refusal));
    }
    if let Some(refusal) = view.refusal.clone().filter(|_| view.findings.is_empty()) {
        return (false, reason::PODS_REFUSED, refusal);
    }
    if let Some(problem) = view.worst.as_ref().filter(|finding| finding.is_problem()) {
        return (false, problem.reason, problem.message.clone());
    }
    if let Some(Proof::Refused(message)) = proof {
        return (false, reason::PROOF_FAILED, message.clone());
    }
    match &view.worst {
        _ if view.ready_deployed > 0 => (
            false,
            reason::PROOF_PENDING,
            "a pod is ready and will be asked for a completion".to_owned(),
        ),
        Some(finding) => (false, finding.reason, format!("a pod {}", finding.message)),
        None => (false, reason::PROGRESSING, "waits for the Deployment's pods".to_owned()),
    }
}

fn failed(plan: &Plan, failure: &str) -> Readiness {
    let is_deadline = failure.starts_with(reason::PROGRESS_DEADLINE_EXCEEDED);
    let reason = if is_deadline {
        reason::PROGRESS_DEADLINE_EXCEEDED
    } else {
        reason::REVISION_FAILED
    };
    let instead = if plan.is_rolled_back() {
        format!("Revision {} serves instead. ", plan.deployed.id)
    } else {
        String::new()
    };
    let message = format!(
        "revision {} failed: {failure}. {instead}Correct the spec, or set the annotation {} to a new value to try again.",
        plan.wanted.id,
        names::ANNOTATION_RESTART,
    );
    (false, reason, message)
}

/// Reconciling and Stalled, never both.
fn progress(judged: &mut Judged, view: &View, ready: &Readiness) {
    let (is_ready, why, message) = ready;
    let is_stalled = view.plan.wanted.failure().is_some() || NEEDS_EDIT.contains(why);
    if is_stalled && *why != reason::SUSPENDED && *why != reason::NAME_CONFLICT {
        judged.set(condition::STALLED, "True", why, message);
        judged.set(
            condition::RECONCILING,
            "False",
            reason::SETTLED,
            "it goes on after an edit of the spec",
        );
        return;
    }
    judged.set(
        condition::STALLED,
        "False",
        reason::SETTLED,
        "nothing stands in the way for good",
    );
    match unfinished(view) {
        _ if !is_ready && *why != reason::SUSPENDED => judged.set(condition::RECONCILING, "True", why, message),
        Some((why, message)) => judged.set(condition::RECONCILING, "True", why, &message),
        None => judged.set(condition::RECONCILING, "False", reason::SETTLED, "the spec is in place"),
    }
}

/// What is still to come although requests are answered, or although it is suspended.
fn unfinished(view: &View) -> Option<(&'static str, String)> {
    let desired = usize::try_from(view.situation.owner.replicas).unwrap_or(0);
    if desired == 0 {
        return (view.active_pods > 0).then(|| (reason::PROGRESSING, "pods are being stopped".to_owned()));
    }
    if let Some(refusal) = view.situation.refusal {
        return Some((reason::APPLY_FAILED, apply_message(refusal)));
    }
    let others = view.active_pods.saturating_sub(view.findings.len());
    let is_observed = view.situation.deployment.is_some_and(|deployment| {
        deployment.status.as_ref().and_then(|status| status.observed_generation) >= deployment.metadata.generation
    });
    if others > 0 || !is_observed {
        return Some((
            reason::ROLLING_OUT,
            "pods of an earlier revision are being replaced".to_owned(),
        ));
    }
    if view.ready_deployed == desired && view.findings.len() == desired {
        return None;
    }
    let why = view.worst.as_ref().filter(|finding| finding.stage != Stage::Ready);
    let why = why.map_or_else(String::new, |finding| format!(": a pod {}", finding.message));
    Some((
        reason::REPLICAS_NOT_READY,
        format!("not all pods take requests yet{why}"),
    ))
}

fn apply_message(refusal: &str) -> String {
    let words: String = refusal
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(600)
        .collect();
    format!(
        "{words}. Mend the rights, quota or policy that refuses it, or delete the child that was changed: it is made again."
    )
}

fn conflict_message(conflict: &str) -> String {
    format!("not ours, and left alone: {conflict}. Remove it, or choose another name for the ModelDeployment.")
}

/// The API server's words, without the random names of the pods that it refused.
fn refusal(situation: &Situation) -> Option<String> {
    let conditions = situation.deployment?.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|c| c.type_.as_deref() == Some("ReplicaFailure") && c.status.as_deref() == Some("True"))?;
    let words = failure.message.as_deref().unwrap_or("no reason was given");
    let prefix = format!("{}-", situation.owner.name);
    let stable: Vec<String> = words
        .split('"')
        .map(|part| {
            if part.starts_with(&prefix) {
                format!("{prefix}…")
            } else {
                part.split_whitespace().collect::<Vec<_>>().join(" ")
            }
        })
        .collect();
    Some(format!(
        "the API server refuses the pods: {}. Change the quota or policy, or create what is missing.",
        stable.join(" ").trim_end_matches('.')
    ))
}
