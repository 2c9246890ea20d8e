//! The only writer. Everything that changes the cluster goes through here: by server-side apply under
//! two field managers, only while this process holds the lease, never over an object of somebody else.
//!
//! - A child's first apply is not forced; later ones carry its uid; a delete carries it as precondition.
//! - One apply for a change of intent, one for a change by others; where a mutating webhook keeps the
//!   live object different from what was asked for, there is no second attempt.
//! - Every write passes `Writer::write`, the seam at which tests end the process.
use std::{
    collections::HashMap,
    fmt::Debug,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use k8s_openapi::{NamespaceResourceScope, api::apps::v1::Deployment};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{fingerprint, leader::Leadership, metrics::Metrics, names};

pub(crate) mod cover;

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object of somebody else has the name.
    #[error("the {kind} {name} exists and does not belong to this ModelDeployment")]
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
    leadership: Leadership,
    metrics: Metrics,
    fault: Option<Fault>,
    writes: AtomicU64,
    /// What an object looked like after an apply that did not bring what was asked for (intent, content).
    contested: Mutex<HashMap<Key, (String, String)>>,
}

impl Writer {
    /// A writer that writes only while `leadership` lasts.
    pub fn new(client: Client, leadership: Leadership, metrics: Metrics, fault: Option<Fault>) -> Self {
        Self {
            client,
            leadership,
            metrics,
            fault,
            writes: AtomicU64::new(0),
            contested: Mutex::default(),
        }
    }

    /// Makes the live object contain `intent`, if it does not; returns what is live then.
    ///
    /// `on_create` is added to the object only if it does not exist yet.
    ///
    /// # Errors
    /// `NameConflict`, when the object exists and has another owner; `Api` otherwise.
    pub async fn apply<K>(&self, mut intent: Value, on_create: Option<Value>, live: Option<&K>) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let target = Target::of::<K>(&intent);
        let owner_uid = intent["metadata"]["ownerReferences"][0]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let hash = fingerprint::of(&intent);
        intent["metadata"]["annotations"][names::ANNOTATION_INTENT] = json!(hash);
        if let Some(live) = live {
            if !is_owned_by(live, &owner_uid) {
                return Err(target.conflict());
            }
            let current = serde_json::to_value(live).map_err(|source| target.json(source))?;
            let is_settled = cover::covers(&current, &intent) || self.is_contested(&target, &hash, &current);
            // An object that is being deleted goes first; its end wakes us up.
            if is_settled || live.meta().deletion_timestamp.is_some() {
                return Ok(live.clone());
            }
        }

        let mut body = intent.clone();
        match live {
            Some(live) => body["metadata"]["uid"] = json!(live.uid()),
            None => merge(&mut body, on_create.unwrap_or_default()),
        }
        let mut params = PatchParams::apply(names::MANAGER);
        params.force = live.is_some();
        let send = self.write("apply", &target, async {
            self.api::<K>(&target)
                .patch(&target.name, &params, &Patch::Apply(&body))
                .await
        });
        let applied: K = match send.await {
            Ok(applied) => applied,
            Err(kube::Error::Api(status)) if live.is_none() && status.code == 409 => return Err(target.conflict()),
            Err(source) => return Err(target.api("apply", source)),
        };
        let current = serde_json::to_value(&applied).map_err(|source| target.json(source))?;
        self.remember(&target, hash, &current, cover::covers(&current, &intent));
        Ok(applied)
    }

    /// Sets the number of replicas, and nothing else, if it is not what it should be.
    ///
    /// The write carries the resourceVersion that the decision rests on. The Deployment controller
    /// touches a new Deployment within milliseconds, so that a conflict is read again, twice.
    ///
    /// # Errors
    /// `Api`.
    pub async fn scale(&self, live: &Deployment, replicas: i32) -> Result<Deployment, Error> {
        let target =
            Target::of::<Deployment>(&json!({"metadata": {"name": live.name_any(), "namespace": live.namespace()}}));
        let params = PatchParams::apply(names::MANAGER_SCALE).force();
        let mut current = live.clone();
        let mut attempts_left = 2;
        loop {
            let owners = current.managed_fields();
            let is_ours = owners
                .iter()
                .any(|entry| entry.manager.as_deref() == Some(names::MANAGER_SCALE));
            if (current.spec.replicas == Some(replicas) && is_ours) || current.metadata.deletion_timestamp.is_some() {
                return Ok(current);
            }
            let body = json!({
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {
                    "name": target.name,
                    "namespace": target.namespace,
                    "uid": current.uid(),
                    "resourceVersion": current.resource_version(),
                },
                "spec": {"replicas": replicas},
            });
            let patched = self.write("scale", &target, async {
                self.api::<Deployment>(&target)
                    .patch(&target.name, &params, &Patch::Apply(&body))
                    .await
            });
            match patched.await {
                Ok(scaled) => return Ok(scaled),
                Err(kube::Error::Api(status)) if status.code == 409 && attempts_left > 0 => {
                    attempts_left -= 1;
                    let api = self.api::<Deployment>(&target);
                    current = api
                        .get(&target.name)
                        .await
                        .map_err(|source| target.api("read", source))?;
                    if current.uid() != live.uid() {
                        return Err(target.conflict());
                    }
                }
                Err(source) => return Err(target.api("scale", source)),
            }
        }
    }

    /// Writes the status of an object; `status` is all of it.
    ///
    /// # Errors
    /// `Api`.
    pub async fn status<K>(&self, object: &K, status: &Value) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let body = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": object.name_any(), "namespace": object.namespace(), "uid": object.uid()},
            "status": status,
        });
        let target = Target::of::<K>(&body);
        let params = PatchParams::apply(names::MANAGER).force();
        // The answer is not needed, and may be an object that this program cannot read.
        let api: Api<kube::core::PartialObjectMeta<K>> = Api::namespaced(self.client.clone(), &target.namespace);
        self.write("status", &target, async {
            api.patch_status(&target.name, &params, &Patch::Apply(&body)).await
        })
        .await
        .map(drop)
        .map_err(|source| target.api("write the status of", source))
    }

    /// Deletes exactly this object; one that is gone already, or was replaced, is left alone.
    ///
    /// # Errors
    /// `Api`.
    pub async fn delete<K>(&self, live: &K) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let body = json!({"metadata": {"name": live.name_any(), "namespace": live.namespace()}});
        let target = Target::of::<K>(&body);
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: live.uid(),
            resource_version: None,
        });
        let deleted = self
            .write("delete", &target, async {
                self.api::<K>(&target).delete(&target.name, &params).await
            })
            .await;
        match deleted {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(source) => Err(target.api("delete", source)),
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

    fn api<K>(&self, target: &Target) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &target.namespace)
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
    kind: String,
    namespace: String,
    name: String,
}

impl Target {
    fn of<K: Resource<DynamicType = ()>>(body: &Value) -> Self {
        let text = |key: &str| body["metadata"][key].as_str().unwrap_or_default().to_owned();
        Self {
            kind: K::kind(&()).into_owned(),
            namespace: text("namespace"),
            name: text("name"),
        }
    }

    fn key(&self) -> Key {
        (self.kind.clone(), self.namespace.clone(), self.name.clone())
    }

    fn conflict(&self) -> Error {
        Error::NameConflict {
            kind: self.kind.clone(),
            name: self.name.clone(),
        }
    }

    fn api(&self, verb: &'static str, source: kube::Error) -> Error {
        Error::Api {
            verb,
            kind: self.kind.clone(),
            name: self.name.clone(),
            source,
        }
    }

    fn json(&self, source: serde_json::Error) -> Error {
        Error::Json {
            kind: self.kind.clone(),
            name: self.name.clone(),
            source,
        }
    }
}

/// Whether an object has this owner as its controller.
pub fn is_owned_by<K: Resource>(object: &K, owner_uid: &str) -> bool {
    let owners = object.meta().owner_references.as_ref();
    owners.is_some_and(|owners| {
        owners
            .iter()
            .any(|owner| owner.uid == owner_uid && owner.controller == Some(true))
    })
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

/// Lays `extra` over `base`, member by member.
fn merge(base: &mut Value, extra: Value) {
    match (base, extra) {
        (Value::Object(base), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, extra) => *base = extra,
    }
}

#[cfg(test)]
mod tests;
