//! One reconcile for every kind: fetch -> parse -> validate -> observe -> decide -> apply -> report. It never sleeps,
//! calls no pod, swallows no error, and ends in time. No state but the cluster's decides anything.
use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Resource,
    api::DynamicObject,
    core::ApiResource,
    runtime::{
        controller::Action,
        events::{Event, EventType},
    },
};
use serde_json::{Value, json};
use windlass_crds::conditions::Reason;

use super::{
    Kind, Look, Problems, Situation, Status, Watched, children,
    children::{Applied, Observed, Replicas},
    conditions,
    owner::Owner,
};
use crate::{
    cluster::{apply::Error as WriteError, cache::ObjectKey, warnings},
    context::{Context, Settings},
    names,
};

/// Longest reconcile: some calls to a slow API server.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Why a reconcile ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server could not be read.
    #[error("cannot read the object")]
    Fetch(#[source] kube::Error),
    /// Events about a pod could not be read.
    #[error("cannot read the events of a pod")]
    Warnings(#[source] kube::Error),
    /// A write failed.
    #[error("cannot write")]
    Write(#[from] WriteError),
    /// A child or a status cannot be represented; a bug.
    #[error("a child or the status cannot be represented")]
    Represent(#[source] serde_json::Error),
    /// It took too long.
    #[error("the reconcile took longer than {} s", TIME_LIMIT.as_secs())]
    TimeLimit,
}

impl Error {
    /// The reason in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Fetch(_) => "fetch",
            Self::Warnings(_) => "warnings",
            Self::Write(_) => "write",
            Self::Represent(_) => "represent",
            Self::TimeLimit => "time_limit",
        }
    }
}

/// Brings one object closer to its spec.
///
/// # Errors
/// What stopped it; `retry` says when it goes on.
pub async fn reconcile<K: Kind>(watched: Arc<Watched<K>>, context: Arc<Context>) -> Result<Action, Error> {
    let begun = std::time::Instant::now();
    let key = key_of::<K>(&watched);
    let outcome = match tokio::time::timeout(TIME_LIMIT, run::<K>(&key, &context)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::TimeLimit),
    };
    let failure = outcome.as_ref().err().map(Error::reason);
    context.metrics.observe_reconcile(&key.kind, begun.elapsed(), failure);
    if outcome.is_ok() {
        context.backoff.succeeded(&key);
    }
    outcome
}

/// When an object is tried again after a failure: later each time.
pub fn retry<K: Kind>(watched: Arc<Watched<K>>, _: &Error, context: Arc<Context>) -> Action {
    Action::requeue(context.backoff.failed(&key_of::<K>(&watched)))
}

fn key_of<K: Kind>(watched: &Watched<K>) -> ObjectKey {
    ObjectKey {
        kind: K::Object::kind(&()).into_owned(),
        namespace: watched.metadata.namespace.clone().unwrap_or_default(),
        name: watched.metadata.name.clone().unwrap_or_default(),
    }
}

async fn run<K: Kind>(key: &ObjectKey, context: &Context) -> Result<Action, Error> {
    context.cache.complete().await;
    let resource = ApiResource::erase::<K::Object>(&());
    // Straight from the API server and unparsed: one object that a newer CRD allows must not stop the others.
    let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), &key.namespace, &resource);
    let raw = api.get_opt(&key.name).await.map_err(Error::Fetch)?;
    // Of a deleted object garbage collection takes the children; what is made now would only be in its way.
    let Some(raw) = raw.filter(|raw| raw.metadata.deletion_timestamp.is_none()) else {
        context.progress.follow(key, Default::default());
        return Ok(Action::await_change());
    };
    let now = Timestamp::now();
    let previous: K::Status = previous_status(&raw);
    let valid = match parse::<K>(raw.clone()) {
        Ok((owner, valid)) => (owner, valid),
        Err((reason, message)) => {
            let judged = conditions::refused(reason, &message);
            let mut status = previous.clone();
            let generation = raw.metadata.generation;
            let conditions = judged.into_conditions(K::CONDITIONS, previous.conditions(), generation, now);
            status.observe(generation, conditions);
            publish::<K>(context, &resource, &raw, &previous, &status).await?;
            return Ok(Action::requeue(context.pace.of(Look::Settled)));
        }
    };
    let (owner, valid) = valid;

    let observed = observe::<K>(key, context, &owner, &valid, now).await?;
    let decision = K::decide(&valid, &observed, &context.settings, now).map_err(Error::Represent)?;
    let intents = K::children(&valid, &decision, &context.settings).map_err(Error::Represent)?;
    let kinds = K::children_kinds();
    let applied = children::apply(
        &context.client,
        &context.writer,
        &context.cache,
        &owner,
        &kinds,
        &intents,
        &observed,
    )
    .await?;
    let skew = context.skew.message(&key.kind);
    let report = K::report(&Situation {
        previous: &previous,
        valid: &valid,
        decision: &decision,
        observed: &observed,
        applied: &applied,
        schema_skew: skew.as_deref(),
        now,
    });
    let generation = raw.metadata.generation;
    let conditions = report
        .conditions
        .into_conditions(K::CONDITIONS, previous.conditions(), generation, now);
    let mut status = report.status;
    status.observe(generation, conditions);
    publish::<K>(context, &resource, &raw, &previous, &status).await?;
    context.progress.follow(key, K::reporters(&valid, &decision, &observed));
    let Applied { refused, .. } = applied;
    match refused.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(Action::requeue(context.pace.of(report.look))),
    }
}

/// What exists: from the cache, but for the warnings about a pod that is stuck.
async fn observe<K: Kind>(
    key: &ObjectKey,
    context: &Context,
    owner: &Owner,
    valid: &K::Valid,
    now: Timestamp,
) -> Result<Observed, Error> {
    let mut pods = context.cache.pods_of(key);
    pods.retain(|pod| K::made(owner, pod));
    let mut observed = Observed {
        children: context.cache.children_of(owner.uid()),
        pods,
        reports: context.progress.reports(key),
        ..Observed::default()
    };
    if let Some(pod) = K::stuck(valid, &observed, now) {
        let warnings = warnings::about(&context.client, pod).await.map_err(Error::Warnings)?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        observed.warnings.insert(name, warnings);
    }
    Ok(observed)
}

/// Parses and validates an object.
fn parse<K: Kind>(raw: DynamicObject) -> Result<(Owner, K::Valid), (Reason, String)> {
    let object: K::Object = raw.try_parse().map_err(|error| {
        let message = format!(
            "this operator cannot read the object ({error}). Upgrade the operator, or remove the fields that it does not know."
        );
        (Reason::Unreadable, message)
    })?;
    let owner = Owner::of::<K>(&object).ok_or_else(|| {
        let message = "metadata: the object has no name, namespace or uid";
        (Reason::Invalid, message.to_owned())
    })?;
    let invalid = |problems: Problems| (Reason::Invalid, problems.to_string());
    let valid = K::validate(&object, owner.clone()).map_err(invalid)?;
    Ok((owner, valid))
}

/// Writes the status, if it changed, and an event for each change that people may want to hear about.
async fn publish<K: Kind>(
    context: &Context,
    resource: &ApiResource,
    object: &DynamicObject,
    previous: &K::Status,
    status: &K::Status,
) -> Result<(), Error> {
    if status == previous {
        return Ok(());
    }
    let written = serde_json::to_value(status).map_err(Error::Represent)?;
    context.writer.status(resource, object, &written).await?;
    let about = object.object_ref(resource);
    for edge in conditions::edges(previous.conditions(), status.conditions()) {
        let event = Event {
            type_: if edge.is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: edge.reason,
            note: Some(edge.note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        context.writer.event(&event, &about).await;
    }
    Ok(())
}

/// The status that is stored, as far as this program can read it; one that it cannot read is written anew.
fn previous_status<S: Status>(raw: &DynamicObject) -> S {
    let stored = raw.data.get("status");
    stored
        .and_then(|status| serde_json::from_value(status.clone()).ok())
        .unwrap_or_default()
}

/// The children of an object in a file, for a cluster in which nothing exists yet.
///
/// # Errors
/// When the object is refused.
pub fn render<K: Kind>(mut value: Value, settings: &Settings) -> anyhow::Result<Vec<Value>> {
    let metadata = &mut value["metadata"];
    for (key, stand_in) in [
        ("namespace", "default"),
        ("uid", "00000000-0000-0000-0000-000000000000"),
    ] {
        if metadata[key].is_null() {
            metadata[key] = json!(stand_in);
        }
    }
    let raw: DynamicObject = serde_json::from_value(value)?;
    let (_, valid) = parse::<K>(raw).map_err(|(_, message)| anyhow::anyhow!(message))?;
    let decision = K::decide(&valid, &Observed::default(), settings, Timestamp::UNIX_EPOCH)?;
    let intents = K::children(&valid, &decision, settings)?;
    let body = |intent: children::Intent| {
        let mut body = intent.body;
        // The beginning of a rollout is not known before it begins.
        let annotations = body.pointer_mut("/metadata/annotations");
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.remove(names::ANNOTATION_STARTED);
        }
        if let Some(Replicas::Exactly(number)) = intent.replicas {
            body["spec"]["replicas"] = json!(number);
        }
        body
    };
    Ok(intents.into_iter().map(body).collect())
}
