//! What is reported about an object: from what was observed and decided to conditions and numbers.
//! Pure; equal situations give equal statuses, so that nothing is written at rest.
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition},
    jiff::Timestamp,
};
use windlass_api::fetch::{FetchPhase, ModelFacts};
use windlass_crds::{
    ModelDeploymentStatus,
    conditions::{Reason, condition},
    model_deployment::status::{DownloadStatus, ModelStatus, ReplicaStatus, RevisionStatus},
};

use super::{LABEL, ModelDeployments, build, pins, pod, validate::ValidatedModelDeployment};
use crate::kind::{
    Look, Report, Situation as OfKind,
    children::{Applied, DEFAULT_REPLICAS, Observed, Replicas},
};

mod judge;

/// Everything that a status is computed from.
pub type Situation<'a> = OfKind<'a, ModelDeployments>;

/// Seconds between two writes of the download's progress.
const PROGRESS_INTERVAL: i64 = 10;

/// The status of a valid object.
pub fn report(situation: &Situation) -> Report<ModelDeploymentStatus> {
    let Situation {
        valid,
        decision,
        observed,
        ..
    } = situation;
    let plan = &decision.plan;
    let conditions = judge::judge(situation);
    let ready = observed.pods.iter().filter(|pod| pod::is_ready(pod)).count();
    let current = observed.pods.iter().filter(|pod| pod::is_active(pod)).count();
    let desired = desired(valid, deployment(valid, situation.applied).as_ref());
    let look = look(
        situation,
        conditions
            .get(condition::READY)
            .map(|ready| (ready.is_true(), ready.reason)),
    );
    let status = ModelDeploymentStatus {
        model: model(situation),
        replicas: Some(ReplicaStatus {
            summary: Some(format!("{ready}/{desired}")),
            current: i32::try_from(current).ok(),
            desired: Some(desired),
            ready: i32::try_from(ready).ok(),
        }),
        selector: Some(format!("{LABEL}={}", valid.owner.name())),
        url: situation
            .applied
            .conflicts
            .is_empty()
            .then(|| build::service::url(valid)),
        revision: Some(RevisionStatus {
            desired: Some(plan.wanted.id.clone()),
            serving: serving_revision(situation),
            last_verified: plan.last_verified.clone(),
            strategy: Some(plan.replacement.as_str().to_owned()),
            render_outdated: Some(plan.render_outdated),
        }),
        ..ModelDeploymentStatus::default()
    };
    Report {
        status,
        conditions,
        look,
    }
}

/// When to look again although nothing happened.
fn look(situation: &Situation, ready: Option<(bool, Reason)>) -> Look {
    let until = situation.decision.plan.next_change();
    let until = until.map(|at| at.duration_since(situation.now).unsigned_abs() + std::time::Duration::from_secs(1));
    let stuck = situation.observed.pods.iter().any(|pod| pod::may_become_stuck(pod));
    match (ready, until) {
        (Some((true, _)), None) => Look::Settled,
        (Some((false, Reason::SourceUnavailable)), _) => Look::Busy,
        _ if stuck => Look::Busy,
        (_, Some(until)) => Look::Within(until),
        _ => Look::Waiting,
    }
}

/// The newest verified revision with a pod that takes requests.
fn serving_revision(situation: &Situation) -> Option<String> {
    let pods = &situation.observed.pods;
    let serves = |id: &str| pods.iter().any(|pod| pod::runs(pod, id) && pod::is_ready(pod));
    let verified = situation
        .decision
        .plan
        .revisions
        .iter()
        .filter(|revision| revision.is_verified());
    verified.map(|revision| revision.id.clone()).find(|id| serves(id))
}

/// The Deployment as it is after applying.
fn deployment(valid: &ValidatedModelDeployment, applied: &Applied) -> Option<Deployment> {
    let key = ("Deployment".to_owned(), valid.owner.child());
    serde_json::from_value(applied.children.get(&key)?.clone()).ok()
}

/// How many pods there shall be: where an autoscaler decides, as many as it has set.
pub fn desired(valid: &ValidatedModelDeployment, deployment: Option<&Deployment>) -> i32 {
    match valid.replicas {
        Replicas::Exactly(number) => number,
        Replicas::External => deployment
            .and_then(|deployment| deployment.spec.replicas)
            .unwrap_or(DEFAULT_REPLICAS),
    }
}

/// The condition with which a Deployment says that the API server refuses its pods.
fn pods_refused(deployment: &Deployment) -> Option<&DeploymentCondition> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| {
        condition.type_.as_deref() == Some("ReplicaFailure") && condition.status.as_deref() == Some("True")
    })
}

/// A quota that leaves no room for pods of two revisions, and since when.
pub fn quota_refusal(valid: &ValidatedModelDeployment, observed: &Observed) -> Option<(String, Timestamp)> {
    let deployment: Deployment = observed.get(&valid.owner.child())?;
    let refused = pods_refused(&deployment)?;
    let message = refused.message.as_deref()?;
    if !message.contains("exceeded quota") {
        return None;
    }
    Some((pod::quote(message), refused.last_transition_time.as_ref()?.0))
}

fn model(situation: &Situation) -> Option<ModelStatus> {
    let Situation {
        previous,
        valid,
        decision,
        observed,
        ..
    } = situation;
    let deployed = &decision.plan.deployed;
    let facts = pins::facts(observed, &deployed.id).map(model_status);
    let expected = valid
        .digest
        .as_ref()
        .filter(|_| !decision.plan.is_rolled_back())
        .or_else(|| decision.pins.digest(&deployed.pin_key));
    let remembered = previous
        .model
        .clone()
        .filter(|model| expected.is_some() && model.digest.as_ref() == expected);
    let mut model = facts.or(remembered).unwrap_or_default();
    model.download = download(situation);
    (model != ModelStatus::default()).then_some(model)
}

fn model_status(facts: ModelFacts) -> ModelStatus {
    let number = |number: u64| i64::try_from(number).ok();
    ModelStatus {
        digest: Some(facts.digest),
        commit: facts.commit,
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
    let deployed = &situation.decision.plan.deployed.id;
    let fetching = situation
        .observed
        .pods
        .iter()
        .find(|pod| pod::runs(pod, deployed) && pod::is_fetching(pod))?;
    let before = situation
        .previous
        .model
        .as_ref()
        .and_then(|model| model.download.clone());
    let read_at = before
        .as_ref()
        .and_then(|before| before.observed_at.as_ref()?.parse::<Timestamp>().ok());
    let is_fresh = read_at.is_some_and(|at| situation.now.duration_since(at).as_secs() < PROGRESS_INTERVAL);
    let Some(report) = pod::fetch_report(fetching, situation.observed).filter(|_| !is_fresh) else {
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
