//! The only writer. Everything that changes the cluster goes through here: by server-side apply under
//! two field managers, only while this process holds the lease, never over an object of somebody else.
//!
//! - A child's first apply is not forced; later ones carry its uid; a delete carries it as precondition.
//! - One apply for a change of intent, one for a change by others; where a mutating webhook keeps the
//!   live object different from what was applied, there is no second attempt.
//! - Every write passes `Writer::write`, the seam at which tests end the process.
use std::{
    collections::HashMap,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
    core::ApiResource,
    runtime::events::{Event, Recorder, Reporter},
};
use serde_json::{Value, json};

use super::{cover, leader::Leadership};
use crate::{
    fingerprint,
    kind::children::{ChildKind, DEFAULT_REPLICAS, Replicas},
    metrics::Metrics,
    names,
};

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object of somebody else has the name.
    #[error("the {kind} {name} exists and does not belong to this object")]
    NameConflict { kind: String, name: String },
    /// The API server refused, or could not be reached.
    #[error("cannot {verb} the {kind} {name}")]
    Api {
        verb: &'static str,
        kind: String,
        name: String,
        #[source]
        source: kube::Error,
    },
    /// A built object cannot be read back or written; a bug.
    #[error("the {kind} {name} cannot be represented")]
    Json {
        kind: String,
        name: String,
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// What the API server said about a write that it will refuse again and again, if it did; anything
    /// else is worth another try at once.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Api {
                source: kube::Error::Api(status),
                ..
            } if matches!(status.code, 400 | 403 | 404 | 422) => Some(format!("{self}: {}", status.message)),
            _ => None,
        }
    }
}

/// Ends the process around its n-th write (a test's flag).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Before the n-th write is sent.
    Before(u64),
    /// After the n-th write was answered, before anything else happens.
    After(u64),
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once(':').and_then(|(when, n)| Some((when, n.parse().ok()?)));
        match parsed {
            Some(("before", n)) => Ok(Self::Before(n)),
            Some(("after", n)) => Ok(Self::After(n)),
            _ => Err("use before:N or after:N".to_owned()),
        }
    }
}

/// Which object, across kinds.
type Key = (String, String, String);

/// The only writer.
pub struct Writer {
    client: Client,
    recorder: Recorder,
    leadership: Leadership,
    metrics: Metrics,
    fault: Option<Fault>,
    writes: AtomicU64,
    /// What an object looked like after an apply that did not bring what was applied (intent, content).
    contested: Mutex<HashMap<Key, (String, String)>>,
}

impl Writer {
    /// A writer that writes only while `leadership` lasts, and reports events as `identity`.
    pub fn new(
        client: Client,
        identity: String,
        leadership: Leadership,
        metrics: Metrics,
        fault: Option<Fault>,
    ) -> Self {
        let reporter = Reporter {
            controller: "windlass-operator".to_owned(),
            instance: Some(identity),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            leadership,
            metrics,
            fault,
            writes: AtomicU64::new(0),
            contested: Mutex::default(),
        }
    }

    /// Makes the live object contain `intent`, if it does not; returns what is live then. `replicas` are part of a
    /// workload's creation only.
    ///
    /// # Errors
    /// `NameConflict`, when the object exists and has another owner; `Api` otherwise.
    pub async fn apply(
        &self,
        kind: &ChildKind,
        mut intent: Value,
        replicas: Option<Replicas>,
        live: Option<&Value>,
    ) -> Result<Value, Error> {
        let target = Target::of(kind.resource(), &intent);
        let hash = fingerprint::of(&intent);
        let owner = owner_uid(&intent).unwrap_or_default().to_owned();
        intent["metadata"]["annotations"][names::ANNOTATION_INTENT] = json!(hash);
        if let Some(live) = live {
            if !is_owned_by(live, &owner) {
                return Err(target.conflict());
            }
            let is_settled = cover::covers(live, &intent) || self.is_contested(&target, &hash, live);
            // An object that is being deleted goes first; its end triggers the next reconcile.
            if is_settled || is_terminating(live) {
                return Ok(live.clone());
            }
        }

        let mut body = intent.clone();
        match (live, replicas) {
            (Some(live), _) => body["metadata"]["uid"] = live["metadata"]["uid"].clone(),
            // Kubernetes' own default is never removed, so that it needs no owner.
            (None, Some(Replicas::Exactly(DEFAULT_REPLICAS) | Replicas::External) | None) => {}
            (None, Some(Replicas::Exactly(number))) => body["spec"]["replicas"] = json!(number),
        }
        let mut params = PatchParams::apply(names::MANAGER);
        params.force = live.is_some();
        let send = self.write("apply", &target, async {
            target
                .api(&self.client)
                .patch(&target.name, &params, &Patch::Apply(&body))
                .await
        });
        let applied = match send.await {
            Ok(applied) => applied,
            Err(kube::Error::Api(status)) if live.is_none() && status.code == 409 => return Err(target.conflict()),
            Err(source) => return Err(target.failed("apply", source)),
        };
        let current = serde_json::to_value(applied).map_err(|source| target.json(source))?;
        self.remember(&target, hash, &current, cover::covers(&current, &intent));
        Ok(current)
    }

    /// Sets the number of a workload's replicas, and nothing else, if it is not what it should be.
    ///
    /// The write carries the resourceVersion that the decision rests on. The workload's controller touches a new
    /// object within milliseconds, so that a conflict is read again, twice.
    ///
    /// # Errors
    /// `Api`.
    pub async fn scale(&self, kind: &ChildKind, live: Value, replicas: Replicas) -> Result<Value, Error> {
        let target = Target::of(kind.resource(), &live);
        let params = PatchParams::apply(names::MANAGER_SCALE).force();
        let uid = live["metadata"]["uid"].clone();
        let mut current = live;
        let mut attempts_left = 2;
        loop {
            let managers = current["metadata"]["managedFields"].as_array();
            let is_ours = managers
                .into_iter()
                .flatten()
                .any(|entry| entry["manager"] == names::MANAGER_SCALE);
            let set = current["spec"]["replicas"].as_i64().unwrap_or(DEFAULT_REPLICAS.into());
            let number = match replicas {
                Replicas::Exactly(number) => number,
                Replicas::External if is_ours && set == 0 => DEFAULT_REPLICAS,
                Replicas::External => return Ok(current),
            };
            let is_settled = set == i64::from(number) && (is_ours || number == DEFAULT_REPLICAS);
            if is_settled || is_terminating(&current) {
                return Ok(current);
            }
            let body = json!({
                "apiVersion": kind.resource().api_version,
                "kind": kind.resource().kind,
                "metadata": {
                    "name": target.name,
                    "namespace": target.namespace,
                    "uid": uid,
                    "resourceVersion": current["metadata"]["resourceVersion"],
                },
                "spec": {"replicas": number},
            });
            let patched = self.write("scale", &target, async {
                target
                    .api(&self.client)
                    .patch(&target.name, &params, &Patch::Apply(&body))
                    .await
            });
            match patched.await {
                Ok(scaled) => return serde_json::to_value(scaled).map_err(|source| target.json(source)),
                Err(kube::Error::Api(status)) if status.code == 409 && attempts_left > 0 => {
                    attempts_left -= 1;
                    let read = target.api(&self.client).get(&target.name).await;
                    let read = read.map_err(|source| target.failed("read", source))?;
                    current = serde_json::to_value(read).map_err(|source| target.json(source))?;
                    if current["metadata"]["uid"] != uid {
                        return Err(target.conflict());
                    }
                }
                Err(source) => return Err(target.failed("scale", source)),
            }
        }
    }

    /// Writes the status of an object; `status` is all of it.
    ///
    /// # Errors
    /// `Api`.
    pub async fn status(&self, resource: &ApiResource, object: &DynamicObject, status: &Value) -> Result<(), Error> {
        let metadata = &object.metadata;
        let body = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
            "status": status,
        });
        let target = Target::of(resource, &body);
        let params = PatchParams::apply(names::MANAGER).force();
        self.write("status", &target, async {
            target
                .api(&self.client)
                .patch_status(&target.name, &params, &Patch::Apply(&body))
                .await
        })
        .await
        .map(drop)
        .map_err(|source| target.failed("write the status of", source))
    }

    /// Deletes exactly this object; one that is gone already, or was replaced, is left alone.
    ///
    /// # Errors
    /// `Api`.
    pub async fn delete(&self, kind: &ChildKind, live: &Value) -> Result<(), Error> {
        let target = Target::of(kind.resource(), live);
        if is_terminating(live) {
            return Ok(());
        }
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: live["metadata"]["uid"].as_str().map(str::to_owned),
            resource_version: None,
        });
        let deleted = self
            .write("delete", &target, async {
                target.api(&self.client).delete(&target.name, &params).await
            })
            .await;
        self.contested
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&target.key());
        match deleted {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(source) => Err(target.failed("delete", source)),
        }
    }

    /// Reports an event. The status says the same and stays, so that a failure is logged and nothing more.
    pub async fn event(&self, event: &Event, about: &ObjectReference) {
        self.leadership.assert();
        if let Err(error) = self.recorder.publish(event, about).await {
            tracing::warn!(%error, reason = event.reason, "cannot publish an event");
        }
    }

    /// The seam: one write, counted, only as leader.
    async fn write<T>(
        &self,
        verb: &'static str,
        target: &Target,
        send: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, kube::Error> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if self.fault == Some(Fault::Before(number)) {
            std::process::abort();
        }
        self.leadership.assert();
        let answer = send.await;
        if self.fault == Some(Fault::After(number)) {
            std::process::abort();
        }
        self.metrics.count_write(&target.kind, verb, answer.is_ok());
        tracing::info!(
            verb,
            kind = target.kind,
            name = target.name,
            namespace = target.namespace,
            ok = answer.is_ok(),
            "write"
        );
        answer
    }

    fn is_contested(&self, target: &Target, hash: &str, current: &Value) -> bool {
        let contested = self.contested.lock().unwrap_or_else(PoisonError::into_inner);
        contested
            .get(&target.key())
            .is_some_and(|(intent, content)| intent == hash && *content == content_of(current))
    }

    fn remember(&self, target: &Target, hash: String, current: &Value, is_covered: bool) {
        let mut contested = self.contested.lock().unwrap_or_else(PoisonError::into_inner);
        if is_covered {
            contested.remove(&target.key());
        } else {
            tracing::warn!(
                kind = target.kind,
                name = target.name,
                namespace = target.namespace,
                "the API server keeps this object different from what was applied (a mutating webhook?); it is left so"
            );
            contested.insert(target.key(), (hash, content_of(current)));
        }
    }
}

/// The object that a write is about.
struct Target {
    resource: ApiResource,
    kind: String,
    namespace: String,
    name: String,
}

impl Target {
    fn of(resource: &ApiResource, body: &Value) -> Self {
        let text = |key: &str| body["metadata"][key].as_str().unwrap_or_default().to_owned();
        Self {
            kind: resource.kind.clone(),
            namespace: text("namespace"),
            name: text("name"),
            resource: resource.clone(),
        }
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), &self.namespace, &self.resource)
    }

    fn key(&self) -> Key {
        (self.kind.clone(), self.namespace.clone(), self.name.clone())
    }

    fn json(&self, source: serde_json::Error) -> Error {
        Error::Json {
            kind: self.kind.clone(),
            name: self.name.clone(),
            source,
        }
    }

    fn conflict(&self) -> Error {
        Error::NameConflict {
            kind: self.kind.clone(),
            name: self.name.clone(),
        }
    }

    fn failed(&self, verb: &'static str, source: kube::Error) -> Error {
        Error::Api {
            verb,
            kind: self.kind.clone(),
            name: self.name.clone(),
            source,
        }
    }
}

/// The uid of an object's controller.
pub fn owner_uid(object: &Value) -> Option<&str> {
    controller(object)?["uid"].as_str()
}

/// The reference to an object's controller.
pub fn controller(object: &Value) -> Option<&Value> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == json!(true))
}

/// Whether an object has this owner as its controller.
pub fn is_owned_by(object: &Value, uid: &str) -> bool {
    owner_uid(object) == Some(uid)
}

fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// What people and webhooks can change: everything but bookkeeping and status.
fn content_of(object: &Value) -> String {
    let mut content = object.clone();
    if let Some(map) = content.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = content["metadata"].as_object_mut() {
        for bookkeeping in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(bookkeeping);
        }
    }
    fingerprint::of(&content)
}

#[cfg(test)]
mod tests;
