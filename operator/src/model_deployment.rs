//! Reconciles a ModelDeployment: fetch -> validate -> probe -> decide -> build -> apply -> report.
//! Fetch, probe and apply take a client; the rest is pure. No state but the cluster's decides anything.
use std::{marker::PhantomData, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Resource,
    api::DynamicObject,
    core::PartialObjectMeta,
    runtime::{
        controller::Action,
        events::{Event, EventType},
    },
};
use windlass_api::fetch::FetchReport;
use windlass_crds::{ModelDeployment, ModelDeploymentStatus, conditions::reason};

use crate::{apply::Error as WriteError, context::Context, names};

pub mod apply;
pub mod build;
pub mod fetch;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod pod;
pub mod prove;
pub mod report;
pub mod revision;
pub mod rollout;
pub mod validate;

use prove::Proof;
use report::Situation;
use revision::Revision;
use validate::ValidatedModelDeployment;

/// What is watched: an object's metadata. Its content is read when it is worked on, so that one object
/// that cannot be parsed never stops the watch of the others.
pub type Watched = PartialObjectMeta<ModelDeployment>;

/// Longest reconcile: the proof's 12 s, and as much again for a slow API server.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// A settled object is looked at again after this, in case a watch missed something.
const SETTLED_RECHECK: Duration = Duration::from_secs(600);
/// While something is on its way that no watch tells: a download, a proof to be repeated.
const BUSY_RECHECK: Duration = Duration::from_secs(10);
/// Between two looks at an object that waits for people or for the cluster.
const WAITING_RECHECK: Duration = Duration::from_secs(120);

/// Why a reconcile ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server could not be read.
    #[error("cannot read the object or its children")]
    Fetch(#[source] kube::Error),
    /// A write failed.
    #[error("cannot write")]
    Write(#[from] WriteError),
    /// A status cannot be represented; a bug.
    #[error("the status cannot be represented")]
    Status(#[source] serde_json::Error),
    /// It took too long.
    #[error("the reconcile took longer than {} s", TIME_LIMIT.as_secs())]
    TimeLimit,
}

impl Error {
    /// The reason in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Fetch(_) => "fetch",
            Self::Write(_) => "write",
            Self::Status(_) => "status",
            Self::TimeLimit => "time_limit",
        }
    }
}

/// Brings one object closer to its spec.
///
/// # Errors
/// What stopped it; `retry` says when it goes on.
pub async fn reconcile(watched: Arc<Watched>, context: Arc<Context>) -> Result<Action, Error> {
    let begun = std::time::Instant::now();
    let key = key_of(&watched);
    let outcome = match tokio::time::timeout(TIME_LIMIT, run(&watched, &context)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::TimeLimit),
    };
    context
        .metrics
        .observe_reconcile(begun.elapsed(), outcome.as_ref().err().map(Error::reason));
    if outcome.is_ok() {
        context.backoff.succeeded(&key);
    }
    outcome
}

/// When an object is tried again after a failure: later each time.
pub fn retry(watched: Arc<Watched>, _: &Error, context: Arc<Context>) -> Action {
    Action::requeue(context.backoff.failed(&key_of(&watched)))
}

fn key_of(watched: &Watched) -> String {
    format!(
        "{}/{}",
        watched.metadata.namespace.as_deref().unwrap_or_default(),
        watched.metadata.name.as_deref().unwrap_or_default()
    )
}

async fn run(watched: &Watched, context: &Context) -> Result<Action, Error> {
    let namespace = watched.metadata.namespace.as_deref().unwrap_or_default();
    let name = watched.metadata.name.as_deref().unwrap_or_default();
    let Some(raw) = fetch::object(&context.client, namespace, name)
        .await
        .map_err(Error::Fetch)?
    else {
        return Ok(Action::await_change());
    };
    if raw.metadata.deletion_timestamp.is_some() {
        // Garbage collection takes the children; what is made now would only be in its way.
        return Ok(Action::await_change());
    }
    let previous = previous_status(&raw);
    let now = Timestamp::now();
    let object: ModelDeployment = match raw.clone().try_parse() {
        Ok(object) => object,
        Err(error) => {
            let status = report::refused(&previous, &raw.metadata, reason::UNREADABLE, &error.to_string(), now);
            publish(context, &raw, &previous, &status).await?;
            return Ok(Action::requeue(SETTLED_RECHECK));
        }
    };
    let owner = match validate::validate(&object) {
        Ok(owner) => owner,
        Err(problems) => {
            let status = report::refused(&previous, &object.metadata, reason::INVALID, &problems.to_string(), now);
            publish(context, &raw, &previous, &status).await?;
            return Ok(Action::requeue(SETTLED_RECHECK));
        }
    };

    let observed = fetch::observe(&context.client, namespace, name, &owner.owner.uid)
        .await
        .map_err(Error::Fetch)?;
    let answers = probe(context, &owner, &observed).await;
    let template = build::pod_template::build(&owner, &context.config);
    let plan = rollout::decide(
        &owner,
        template,
        &observed.revisions,
        &observed.pods,
        answers.proof.as_ref(),
        now,
    );
    let pins = report::pins(&owner, &plan, &observed.pins(), &observed.pods);
    let children = build::build(&owner, &context.config, &plan, &pins);

    // With a foreign object in the way nothing is written at all: half a set of children helps nobody.
    let foreign = observed.foreign(&owner.owner.uid, owner.service_account.is_none());
    let applied = if foreign.is_empty() {
        apply::apply(&context.writer, &owner, children, &plan.expired, &observed).await?
    } else {
        apply::Applied {
            deployment: observed.deployment.clone(),
            conflicts: foreign,
            refused: Vec::new(),
        }
    };
    let conflict = (!applied.conflicts.is_empty()).then(|| applied.conflicts.join(", "));
    let refusal = applied.refused.iter().find_map(WriteError::refusal);

    let status = report::report(&Situation {
        previous: &previous,
        generation: object.metadata.generation,
        owner: &owner,
        plan: &plan,
        deployment: applied.deployment.as_ref(),
        pods: &observed.pods,
        pins: &pins,
        proof: answers.proof.as_ref(),
        progress: answers.progress.as_ref(),
        conflict: conflict.as_deref(),
        refusal: refusal.as_deref(),
        schema_skew: context.schema_skew.as_deref(),
        now,
    });
    publish(context, &raw, &previous, &status).await?;
    if let Some(error) = applied.refused.into_iter().next() {
        return Err(error.into());
    }
    Ok(Action::requeue(next_look(&status, &plan, now)))
}

/// What the pods said when they were asked.
#[derive(Default)]
struct Answers {
    proof: Option<Proof>,
    progress: Option<FetchReport>,
}

/// Asks a ready pod of an unproven revision for a completion, or a fetching pod for its progress.
async fn probe(context: &Context, owner: &ValidatedModelDeployment, observed: &fetch::Observed) -> Answers {
    if owner.suspended {
        return Answers::default();
    }
    let wanted = owner.revision();
    let is_proven = observed
        .revisions
        .iter()
        .filter_map(Revision::read)
        .any(|revision| revision.inputs == owner.inputs && revision.is_proven());
    let of_wanted = || observed.pods.iter().filter(|pod| pod::runs(pod, wanted));
    if !is_proven && let Some(ready) = of_wanted().find(|pod| pod::is_ready(pod)) {
        let address = ready
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_deref())
            .unwrap_or_default();
        let digest = pod::model_facts(ready).map(|facts| facts.digest);
        let proof = prove::complete(&context.pods, address, owner.port(), &owner.served_name, digest).await;
        return Answers {
            proof: Some(proof),
            progress: None,
        };
    }
    let fetching = of_wanted().find_map(pod::progress_address);
    let progress = match fetching {
        Some(address) => prove::progress(&context.pods, address, names::PORT_PROGRESS).await,
        None => None,
    };
    Answers { proof: None, progress }
}

/// Writes the status, if it changed, and an event for each edge.
async fn publish(
    context: &Context,
    object: &DynamicObject,
    previous: &ModelDeploymentStatus,
    status: &ModelDeploymentStatus,
) -> Result<(), Error> {
    if status == previous {
        return Ok(());
    }
    let written = serde_json::to_value(status).map_err(Error::Status)?;
    let target: Watched = Watched {
        types: None,
        metadata: object.metadata.clone(),
        _phantom: PhantomData,
    };
    context.writer.status(&target, &written).await?;
    let reference = target.object_ref(&());
    for edge in report::edges(previous, status) {
        let event = Event {
            type_: if edge.is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: edge.reason.clone(),
            note: Some(edge.note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        // An event is a courtesy: the status says the same, and stays.
        if let Err(error) = context.recorder.publish(&event, &reference).await {
            tracing::warn!(%error, reason = edge.reason, "cannot publish an event");
        }
    }
    Ok(())
}

/// The status that is there, as far as this program can read it.
fn previous_status(raw: &DynamicObject) -> ModelDeploymentStatus {
    raw.data
        .get("status")
        .and_then(|status| serde_json::from_value(status.clone()).ok())
        .unwrap_or_default()
}

/// When to look again although nothing happened.
fn next_look(status: &ModelDeploymentStatus, plan: &rollout::Plan, now: Timestamp) -> Duration {
    let ready = report::find(&status.conditions, windlass_crds::conditions::condition::READY);
    let is_settled = report::is_true(&status.conditions, windlass_crds::conditions::condition::READY);
    let look = match ready.map(|ready| ready.reason.as_str()) {
        _ if is_settled => SETTLED_RECHECK,
        Some(reason::DOWNLOADING | reason::SOURCE_UNAVAILABLE | reason::PROOF_FAILED | reason::PROOF_PENDING) => {
            BUSY_RECHECK
        }
        _ => WAITING_RECHECK,
    };
    let until_deadline = plan
        .deadline
        .map(|deadline| deadline.duration_since(now).unsigned_abs() + Duration::from_secs(1));
    until_deadline.map_or(look, |until| look.min(until))
}

#[cfg(test)]
mod tests;
