//! What is told about an object: from what was observed and decided to conditions, numbers and events.
//! Pure; equal situations give equal statuses, so that nothing is written at rest.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::ResourceExt;
use windlass_api::fetch::{FetchPhase, FetchReport, ModelFacts};
use windlass_crds::{
    ModelDeploymentStatus,
    conditions::{condition, reason},
    model_deployment::status::{DownloadStatus, ModelStatus, ReplicaStatus, RevisionStatus},
};

use super::{build, pod, prove::Proof, rollout::Plan, validate::ValidatedModelDeployment};
use crate::names;

mod judge;

/// Seconds between two writes of the download's progress.
const PROGRESS_INTERVAL: i64 = 10;

/// Everything that a status is computed from.
pub struct Situation<'a> {
    pub previous: &'a ModelDeploymentStatus,
    pub generation: Option<i64>,
    pub owner: &'a ValidatedModelDeployment,
    pub plan: &'a Plan,
    pub deployment: Option<&'a Deployment>,
    pub pods: &'a [Pod],
    pub pins: &'a BTreeMap<String, String>,
    pub proof: Option<&'a Proof>,
    pub progress: Option<&'a FetchReport>,
    /// Objects of somebody else that have the name of a child.
    pub conflict: Option<&'a str>,
    /// What the API server said about a child that it refuses.
    pub refusal: Option<&'a str>,
    pub schema_skew: Option<&'a str>,
    pub now: Timestamp,
}

/// An edge that people may want to hear about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    pub is_warning: bool,
    pub reason: String,
    pub note: String,
}

/// The status of a valid object.
pub fn report(situation: &Situation) -> ModelDeploymentStatus {
    let Situation {
        previous,
        owner,
        plan,
        pods,
        ..
    } = situation;
    let judged = judge::judge(situation);
    let ready = pods.iter().filter(|pod| pod::is_ready(pod)).count();
    let current = pods.iter().filter(|pod| pod::is_active(pod)).count();
    ModelDeploymentStatus {
        observed_generation: situation.generation,
        conditions: conditions(&previous.conditions, &judged, situation.generation, situation.now),
        model: model(situation),
        replicas: Some(ReplicaStatus {
            summary: Some(format!("{ready}/{}", owner.replicas)),
            current: i32::try_from(current).ok(),
            desired: Some(owner.replicas),
            ready: i32::try_from(ready).ok(),
        }),
        selector: Some(format!("{}={}", names::LABEL_DEPLOYMENT, owner.name)),
        url: situation.conflict.is_none().then(|| build::service::url(owner)),
        revision: Some(RevisionStatus {
            current: Some(plan.wanted.id.clone()),
            ready: plan
                .revisions
                .iter()
                .map(|revision| &revision.id)
                .find(|id| pods.iter().any(|pod| pod::runs(pod, id) && pod::is_ready(pod)))
                .cloned(),
            last_good: plan.last_good.clone(),
            render_outdated: Some(plan.render_outdated),
        }),
    }
}

/// The status of an object that cannot be built; its children stay as they are, and so does what is
/// known about them.
pub fn refused(
    previous: &ModelDeploymentStatus,
    metadata: &ObjectMeta,
    reason: &'static str,
    message: &str,
    now: Timestamp,
) -> ModelDeploymentStatus {
    let message = match reason {
        reason::UNREADABLE => format!(
            "this operator cannot read the object ({message}). Upgrade the operator, or remove what it does not know."
        ),
        _ => message.to_owned(),
    };
    let mut judged = judge::Judged::default();
    judged.set(condition::READY, "False", reason, &message);
    judged.set(condition::ACCEPTED, "False", reason, &message);
    judged.set(condition::STALLED, "True", reason, &message);
    judged.set(
        condition::RECONCILING,
        "False",
        reason::SETTLED,
        "nothing is done until the spec is corrected",
    );
    for kept in [
        condition::AVAILABLE,
        condition::RESOLVED_REFS,
        condition::MODEL_VERIFIED,
        condition::SCHEDULED,
    ] {
        match find(&previous.conditions, kept) {
            Some(old) => judged.set(kept, &old.status, &old.reason, &old.message),
            None => judged.set(kept, "Unknown", reason::PENDING, "not observed yet"),
        }
    }
    ModelDeploymentStatus {
        observed_generation: metadata.generation,
        conditions: conditions(&previous.conditions, &judged, metadata.generation, now),
        ..previous.clone()
    }
}

/// The resolved digests that shall be kept: those of the revisions that stay, and the wanted one's as
/// soon as a pod has told it. A digest in the spec needs no pin.
pub fn pins(
    owner: &ValidatedModelDeployment,
    plan: &Plan,
    existing: &BTreeMap<String, String>,
    pods: &[Pod],
) -> BTreeMap<String, String> {
    let is_kept = |key: &str| plan.revisions.iter().any(|revision| revision.pin_key == key);
    let mut pins: BTreeMap<String, String> = existing
        .iter()
        .filter(|(key, _)| is_kept(key))
        .map(|(key, digest)| (key.clone(), digest.clone()))
        .collect();
    if owner.digest.is_none()
        && let Some(facts) = facts(pods, &plan.wanted.id)
    {
        pins.entry(owner.pin_key.clone()).or_insert(facts.digest);
    }
    pins
}

/// What changed that is worth an event: a condition that became bad for a new reason, or good.
pub fn edges(previous: &ModelDeploymentStatus, next: &ModelDeploymentStatus) -> Vec<Edge> {
    let mut edges: Vec<Edge> = Vec::new();
    for now in &next.conditions {
        let before = find(&previous.conditions, &now.type_);
        if before.is_some_and(|before| before.status == now.status && before.reason == now.reason) {
            continue;
        }
        let is_good =
            [condition::READY, condition::MODEL_VERIFIED].contains(&now.type_.as_str()) && now.status == "True";
        let is_abnormal = [condition::RECONCILING, condition::STALLED].contains(&now.type_.as_str());
        let is_bad = now.status == if is_abnormal { "True" } else { "False" } && reason::is_problem(&now.reason);
        if !(is_good || is_bad) || edges.iter().any(|edge| edge.reason == now.reason) {
            continue;
        }
        let reason = if is_good { now.type_.clone() } else { now.reason.clone() };
        // The API allows a note of 1 KiB.
        let note = now.message.chars().take(900).collect();
        edges.push(Edge {
            is_warning: is_bad,
            reason,
            note,
        });
    }
    edges
}

/// The condition of a type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a condition is there and True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// All conditions in their order; the transition time moves only with the status.
fn conditions(
    previous: &[Condition],
    judged: &judge::Judged,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let whole_seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let entry = |(type_, status, reason, message): (&str, &str, &str, &str)| {
        let before = find(previous, type_).filter(|before| before.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: generation,
            last_transition_time: before.map_or(Time(whole_seconds), |before| before.last_transition_time.clone()),
        }
    };
    judged.in_order().map(entry).collect()
}

/// What a pod of a revision found in the model's file.
fn facts(pods: &[Pod], revision: &str) -> Option<ModelFacts> {
    let newest_first = |pod: &&Pod| std::cmp::Reverse((pod.creation_timestamp(), pod.name_any()));
    let mut pods: Vec<&Pod> = pods.iter().filter(|pod| pod::runs(pod, revision)).collect();
    pods.sort_by_key(newest_first);
    pods.into_iter().find_map(pod::model_facts)
}

fn model(situation: &Situation) -> Option<ModelStatus> {
    let Situation {
        previous,
        owner,
        plan,
        pods,
        pins,
        ..
    } = situation;
    let deployed = &plan.deployed;
    let observed = facts(pods, &deployed.id).map(model_status);
    let expected = owner
        .digest
        .as_ref()
        .filter(|_| !plan.is_rolled_back())
        .or_else(|| pins.get(&deployed.pin_key));
    let remembered = previous
        .model
        .clone()
        .filter(|model| expected.is_some() && model.digest.as_ref() == expected);
    let mut model = observed.or(remembered).unwrap_or_default();
    model.download = download(situation);
    (model != ModelStatus::default()).then_some(model)
}

fn model_status(facts: ModelFacts) -> ModelStatus {
    let number = |number: u64| i64::try_from(number).ok();
    ModelStatus {
        digest: Some(facts.digest),
        format: Some(facts.format),
        architecture: facts.architecture,
        parameters: facts.parameters.and_then(number),
        quantization: facts.quantization,
        context_length: facts.context_length.and_then(number),
        license: facts.license,
        size_bytes: number(facts.size_bytes),
        download: None,
    }
}

/// The progress of the download; the numbers that are there stay until they are old enough.
fn download(situation: &Situation) -> Option<DownloadStatus> {
    let is_fetching = situation
        .pods
        .iter()
        .any(|pod| pod::runs(pod, &situation.plan.deployed.id) && pod::progress_address(pod).is_some());
    let before = situation
        .previous
        .model
        .as_ref()
        .and_then(|model| model.download.clone());
    if !is_fetching {
        return None;
    }
    let read_at = before
        .as_ref()
        .and_then(|before| before.observed_at.as_ref()?.parse::<Timestamp>().ok());
    let is_fresh = read_at.is_some_and(|at| situation.now.duration_since(at).as_secs() < PROGRESS_INTERVAL);
    let Some(report) = situation.progress.filter(|_| !is_fresh) else {
        return before;
    };
    let phase = match report.phase {
        FetchPhase::Resolving => "Resolving",
        FetchPhase::Downloading => "Downloading",
        FetchPhase::Verifying => "Verifying",
        FetchPhase::Verified | FetchPhase::Failed => return before,
    };
    let seconds = Timestamp::from_second(situation.now.as_second()).unwrap_or(situation.now);
    Some(DownloadStatus {
        phase: Some(phase.to_owned()),
        received_bytes: i64::try_from(report.received_bytes).ok(),
        total_bytes: report.total_bytes.and_then(|total| i64::try_from(total).ok()),
        observed_at: Some(seconds.to_string()),
    })
}

#[cfg(test)]
mod tests;
