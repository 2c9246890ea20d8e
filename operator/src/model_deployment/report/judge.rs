//! The conditions. Each is judged from the same findings, so that they cannot contradict each other;
//! Reconciling and Stalled are derived from Ready, last.
use k8s_openapi::api::apps::v1::Deployment;
use windlass_crds::conditions::{Reason, condition};

use super::{Situation, deployment, desired, pods_refused};
use crate::{
    cluster::apply::Error as WriteError,
    kind::{
        conditions::{Judged, Judgement, find, is_true},
        rollout::{Plan, Replacement},
    },
    model_deployment::{
        build,
        pod::{self, Finding, Stage},
    },
    names,
};

const REFERENCES: [Reason; 4] = [
    Reason::ReferenceNotFound,
    Reason::ClaimNotUsable,
    Reason::CredentialsRequired,
    Reason::CredentialsRejected,
];
const MODEL: [Reason; 8] = [
    Reason::InvalidSource,
    Reason::ModelNotFound,
    Reason::SourceUnavailable,
    Reason::DigestMismatch,
    Reason::InvalidFile,
    Reason::NoSpace,
    Reason::VolumeFailed,
    Reason::FetchFailed,
];
/// What only an edit of the spec can correct. A missing file or Secret may still come.
const NEEDS_EDIT: [Reason; 2] = [Reason::DigestMismatch, Reason::InvalidSource];

/// Judges all conditions.
pub fn judge(situation: &Situation) -> Judged {
    let view = View::of(situation);
    let ready = ready(&view);
    let mut judged = Judged::default();
    judged.set(condition::ACCEPTED, accepted(&view));
    judged.set(condition::RESOLVED_REFS, references(&view));
    judged.set(condition::MODEL_VERIFIED, model_verified(&view));
    judged.set(condition::SCHEDULED, scheduled(&view));
    judged.set(condition::AVAILABLE, available(&view));
    let (reconciling, stalled) = progress(&view, &ready);
    judged.set(condition::READY, ready);
    judged.set(condition::RECONCILING, reconciling);
    judged.set(condition::STALLED, stalled);
    judged
}

/// The findings about the revision that is deployed.
struct View<'a> {
    situation: &'a Situation<'a>,
    plan: &'a Plan,
    deployment: Option<Deployment>,
    desired: usize,
    findings: Vec<Finding>,
    worst: Option<Finding>,
    /// Pods that take requests, of whichever revision: each has verified itself.
    serving_pods: usize,
    ready_deployed: usize,
    active_pods: usize,
    /// Objects of somebody else that have the name of a child.
    conflict: Option<String>,
    /// What the API server said about a child that it refuses.
    child_refused: Option<String>,
    /// Why the API server creates no pods.
    pods_refused: Option<String>,
}

impl<'a> View<'a> {
    fn of(situation: &'a Situation) -> Self {
        let observed = situation.observed;
        let deployed = &situation.decision.plan.deployed.id;
        let of_deployed: Vec<_> = observed.pods.iter().filter(|pod| pod::runs(pod, deployed)).collect();
        let mut findings: Vec<Finding> = of_deployed.iter().map(|pod| pod::examine(pod, observed)).collect();
        findings.sort_by(|a, b| (a.stage, &a.message).cmp(&(b.stage, &b.message)));
        let deployment = deployment(situation.valid, situation.applied);
        let conflicts = &situation.applied.conflicts;
        Self {
            situation,
            plan: &situation.decision.plan,
            findings,
            worst: pod::worst(observed, deployed),
            serving_pods: observed.pods.iter().filter(|pod| pod::is_ready(pod)).count(),
            ready_deployed: of_deployed.iter().filter(|pod| pod::is_ready(pod)).count(),
            active_pods: observed.pods.iter().filter(|pod| pod::is_active(pod)).count(),
            conflict: (!conflicts.is_empty()).then(|| conflict_message(&conflicts.join(", "))),
            child_refused: situation
                .applied
                .refused
                .iter()
                .find_map(WriteError::refusal)
                .map(refused_message),
            pods_refused: deployment
                .as_ref()
                .and_then(|deployment| pods_message(situation, deployment)),
            desired: usize::try_from(desired(situation.valid, deployment.as_ref())).unwrap_or(0),
            deployment,
        }
    }

    fn finding(&self, reasons: &[Reason]) -> Option<&Finding> {
        self.findings.iter().find(|finding| reasons.contains(&finding.reason))
    }

    /// What was True for the same revision stays so while its pods are being replaced.
    fn remembered(&self, type_: &str) -> Option<Judgement> {
        let previous = self.situation.previous;
        let desired = previous
            .revision
            .as_ref()
            .and_then(|revision| revision.desired.as_ref());
        let is_same = desired == Some(&self.plan.wanted.id);
        if !is_same || !is_true(&previous.conditions, type_) {
            return None;
        }
        Judgement::of(find(&previous.conditions, type_)?)
    }

    fn remembered_or_unknown(&self, type_: &str, message: &str) -> Judgement {
        self.remembered(type_).unwrap_or_else(|| Judgement::unknown(message))
    }

    /// Why no pods shall run, if none shall.
    fn idle(&self) -> Option<(Reason, &'static str)> {
        if self.situation.valid.suspended {
            Some((Reason::Suspended, "spec.suspend is true; set it to false to serve"))
        } else if self.desired == 0 {
            Some((
                Reason::ScaledToZero,
                "the autoscaler has set the number of pods to zero",
            ))
        } else {
            None
        }
    }
}

fn accepted(view: &View) -> Judgement {
    match (&view.conflict, view.situation.schema_skew) {
        (Some(conflict), _) => Judgement::no(Reason::NameConflict, conflict),
        (None, Some(skew)) => Judgement::yes(Reason::Valid, skew),
        (None, None) => Judgement::yes(Reason::Valid, "the spec is valid"),
    }
}

fn references(view: &View) -> Judgement {
    if let Some(finding) = view.finding(&REFERENCES) {
        Judgement::no(finding.reason, &finding.message)
    } else if view.findings.iter().any(|finding| finding.stage >= Stage::Fetching) {
        Judgement::yes(Reason::Resolved, "everything that the spec refers to was found")
    } else {
        view.remembered_or_unknown(condition::RESOLVED_REFS, "no pod has used the references yet")
    }
}

fn model_verified(view: &View) -> Judgement {
    let remembered = view.remembered(condition::MODEL_VERIFIED);
    if let Some(finding) = view.finding(&MODEL) {
        Judgement::no(finding.reason, &finding.message)
    } else if view.findings.iter().any(|finding| finding.stage >= Stage::Starting) {
        Judgement::yes(
            Reason::Verified,
            "the model's files are complete and are what was asked for",
        )
    } else if view.finding(&[Reason::Downloading]).is_some() && remembered.is_none() {
        Judgement::no(Reason::Downloading, "a pod fetches and checks the model")
    } else {
        view.remembered_or_unknown(condition::MODEL_VERIFIED, "no pod has the model yet")
    }
}

fn scheduled(view: &View) -> Judgement {
    let is_unscheduled = |finding: &&Finding| finding.stage == Stage::Scheduling && finding.is_problem();
    if let Some((reason, message)) = view.idle() {
        Judgement::no(reason, message)
    } else if let Some(finding) = view.findings.iter().find(is_unscheduled) {
        Judgement::no(finding.reason, &finding.message)
    } else if let Some(refusal) = &view.pods_refused {
        Judgement::no(Reason::PodsRefused, refusal)
    } else if !view.findings.is_empty() && view.findings.iter().all(|finding| finding.stage > Stage::Scheduling) {
        Judgement::yes(Reason::Scheduled, "every pod has a node")
    } else {
        view.remembered_or_unknown(condition::SCHEDULED, "the scheduler has not decided yet")
    }
}

fn available(view: &View) -> Judgement {
    if view.serving_pods > 0 {
        Judgement::yes(Reason::Serving, "requests are answered")
    } else if let Some((reason, message)) = view.idle() {
        Judgement::no(reason, message)
    } else {
        Judgement::no(Reason::NoReadyPods, "no pod takes requests")
    }
}

/// Whether the desired revision serves and is verified.
fn ready(view: &View) -> Judgement {
    if let Some(conflict) = &view.conflict {
        return Judgement::no(Reason::NameConflict, conflict);
    }
    if let Some((reason, message)) = view.idle() {
        return Judgement::no(reason, message);
    }
    if let Some(failure) = view.plan.wanted.failure() {
        return failed(view.plan, failure);
    }
    if view.plan.wanted.is_verified() && view.ready_deployed > 0 {
        let url = build::service::url(view.situation.valid);
        return Judgement::yes(Reason::Serving, format!("answers at {url}"));
    }
    if let Some(refusal) = &view.child_refused {
        return Judgement::no(Reason::ApplyFailed, refusal);
    }
    if let Some(refusal) = view.pods_refused.as_ref().filter(|_| view.findings.is_empty()) {
        return Judgement::no(Reason::PodsRefused, refusal);
    }
    match &view.worst {
        Some(problem) if problem.is_problem() => Judgement::no(problem.reason, &problem.message),
        Some(finding) => Judgement::no(finding.reason, format!("a pod {}", finding.message)),
        None => Judgement::no(Reason::Progressing, "waits for the Deployment's pods"),
    }
}

fn failed(plan: &Plan, failure: &str) -> Judgement {
    let is_deadline = failure.starts_with(Reason::ProgressDeadlineExceeded.as_str());
    let reason = if is_deadline {
        Reason::ProgressDeadlineExceeded
    } else {
        Reason::RevisionFailed
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
    Judgement::no(reason, message)
}

/// Reconciling and Stalled, never both.
fn progress(view: &View, ready: &Judgement) -> (Judgement, Judgement) {
    let is_stalled = view.plan.wanted.failure().is_some() || NEEDS_EDIT.contains(&ready.reason);
    let is_idle = view.idle().is_some();
    if is_stalled && !is_idle && ready.reason != Reason::NameConflict {
        let reconciling = Judgement::no(Reason::Settled, "it continues after an edit of the spec");
        return (reconciling, Judgement::yes(ready.reason, &ready.message));
    }
    let stalled = Judgement::no(Reason::Settled, "nothing prevents the spec from being reached");
    let reconciling = match unfinished(view) {
        _ if !ready.is_true() && !is_idle => Judgement::yes(ready.reason, &ready.message),
        Some((why, message)) => Judgement::yes(why, message),
        None => Judgement::no(Reason::Settled, "the spec is in place"),
    };
    (reconciling, stalled)
}

/// What is still to come although requests are answered, or although no pods shall run.
fn unfinished(view: &View) -> Option<(Reason, String)> {
    let desired = view.desired;
    if desired == 0 {
        return (view.active_pods > 0).then(|| (Reason::Progressing, "pods are being stopped".to_owned()));
    }
    if let Some(refusal) = &view.child_refused {
        return Some((Reason::ApplyFailed, refusal.clone()));
    }
    let others = view.active_pods.saturating_sub(view.findings.len());
    let is_observed = view.deployment.as_ref().is_some_and(|deployment| {
        deployment.status.as_ref().and_then(|status| status.observed_generation) >= deployment.metadata.generation
    });
    if others > 0 || !is_observed {
        let how = match (view.plan.replacement, &view.plan.wanted.no_surge) {
            (Replacement::Replace, Some(why)) => {
                format!(" without surge, because there was no room for pods of both revisions for 60 s: {why}")
            }
            _ => String::new(),
        };
        let message = format!("pods of an earlier revision are being replaced{how}");
        return Some((Reason::RollingOut, message));
    }
    if view.ready_deployed == desired && view.findings.len() == desired {
        return None;
    }
    let why = view.worst.as_ref().filter(|finding| finding.stage != Stage::Ready);
    let why = match (why, &view.pods_refused) {
        (Some(finding), _) => format!(": a pod {}", finding.message),
        (None, Some(refusal)) => format!(": {refusal}"),
        (None, None) => String::new(),
    };
    Some((Reason::ReplicasNotReady, format!("not all pods take requests yet{why}")))
}

fn refused_message(refusal: String) -> String {
    format!(
        "{}. Correct the rights, quota or policy that refuses it, or delete the child that was changed: it is created again.",
        pod::quote(&refusal)
    )
}

fn conflict_message(conflict: &str) -> String {
    format!(
        "an object that does not belong to this ModelDeployment has the name of a child: {conflict}. Remove it, or choose another name for the ModelDeployment."
    )
}

/// The API server's words, without the random names of the pods that it refused.
fn pods_message(situation: &Situation, deployment: &Deployment) -> Option<String> {
    let failure = pods_refused(deployment)?;
    let words = failure.message.as_deref().unwrap_or("no reason was given");
    let prefix = format!("{}-", situation.valid.owner.child());
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
    let words = stable.join(" ");
    let remedy = if words.contains("must specify limits") || words.contains("must specify requests") {
        "Set spec.resources (cpu, cpuLimit, memory, ephemeralStorage), give the namespace a LimitRange with defaults, or change the quota."
    } else {
        "Change the quota or policy, or create what is missing."
    };
    Some(format!(
        "the API server refuses the pods: {}. {remedy}",
        words.trim_end_matches('.')
    ))
}
