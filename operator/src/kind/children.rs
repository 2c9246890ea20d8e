//! The children of an object: what shall exist (`Intent`), what exists (`Observed`), and the one loop that
//! brings the second to the first. It knows API kinds only as names: a new child is one more intent.
use std::collections::BTreeMap;

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{Api, Client, Resource, api::DynamicObject, core::ApiResource};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::sync::Arc;

use super::owner::Owner;
use crate::{
    cluster::{
        apply::{Error, Writer, is_owned_by, owner_uid},
        cache::Cache,
        warnings::Warning,
    },
    fingerprint::without_nulls,
};

/// An API kind that children have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChildKind(ApiResource);

impl ChildKind {
    /// The kind of a Rust type.
    pub fn of<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>() -> Self {
        Self(ApiResource::erase::<K>(&()))
    }

    /// Its name, as in `kind: Deployment`.
    pub fn name(&self) -> &str {
        &self.0.kind
    }

    /// How the API server addresses it.
    pub fn resource(&self) -> &ApiResource {
        &self.0
    }

    /// The objects of this kind in a namespace.
    pub fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.0)
    }
}

/// Kind and name of a child, within the namespace of its owner.
pub type Key = (String, String);

/// Who decides the number of a workload's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// Windlass, and it is this many.
    Exactly(i32),
    /// Somebody else's autoscaler. Windlass only undoes a zero that it set itself, from which autoscalers do not return.
    External,
}

/// What Kubernetes makes of a workload without a number of replicas.
pub const DEFAULT_REPLICAS: i32 = 1;

/// A child that shall exist.
#[derive(Debug, Clone)]
pub struct Intent {
    pub kind: ChildKind,
    /// What is applied: everything that Windlass sets, and nothing else.
    pub body: Value,
    /// Number of pods of a workload; `None` for children that have none.
    pub replicas: Option<Replicas>,
    /// Whether what comes after it must wait until it is applied.
    pub is_prerequisite: bool,
}

impl Intent {
    /// The intent of a typed object.
    ///
    /// # Errors
    /// When the object cannot be written as JSON.
    pub fn of<K>(object: &K) -> Result<Self, serde_json::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize,
    {
        let mut body = without_nulls(serde_json::to_value(object)?);
        body["apiVersion"] = json!(K::api_version(&()));
        body["kind"] = json!(K::kind(&()));
        Ok(Self {
            kind: ChildKind::of::<K>(),
            body,
            replicas: None,
            is_prerequisite: false,
        })
    }

    /// Kind and name.
    pub fn key(&self) -> Key {
        (self.kind.name().to_owned(), self.name().to_owned())
    }

    fn name(&self) -> &str {
        self.body["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// What exists of an object: its children by kind and name, its pods, and what was read from both.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Children that carry the owner's uid.
    pub children: BTreeMap<Key, Value>,
    /// Pods with the owner's label that its workload made.
    pub pods: Vec<Arc<Pod>>,
    /// What containers reported, by the address that was read.
    pub reports: BTreeMap<String, Value>,
    /// Warnings about pods that do not start, by pod name.
    pub warnings: BTreeMap<String, Vec<Warning>>,
}

impl Observed {
    /// A child; `None` when it does not exist, or cannot be read as what it should be.
    pub fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let key = (K::kind(&()).into_owned(), name.to_owned());
        serde_json::from_value(self.children.get(&key)?.clone()).ok()
    }

    /// All children of an API kind that can be read as what they should be.
    pub fn all<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let kind = K::kind(&());
        let of_kind = self.children.iter().filter(|((name, _), _)| *name == kind);
        of_kind
            .filter_map(|(_, child)| serde_json::from_value(child.clone()).ok())
            .collect()
    }
}

/// What came of applying the intents.
#[derive(Debug, Default)]
pub struct Applied {
    /// The children as they are now.
    pub children: BTreeMap<Key, Value>,
    /// Objects of somebody else that have the name of a child, as `Kind name`.
    pub conflicts: Vec<String>,
    /// Writes that the API server refuses.
    pub refused: Vec<Error>,
}

/// Applies the intents in order, then deletes the children that nobody intends any more. With an object of
/// somebody else in the way nothing is written at all: half a set of children helps nobody. A child that the
/// API server refuses does not hold up the others, unless they need it.
///
/// # Errors
/// The first call that failed for the moment; what comes after it waits for the next attempt.
pub async fn apply(
    client: &Client,
    writer: &Writer,
    cache: &Cache,
    owner: &Owner,
    kinds: &[ChildKind],
    intents: &[Intent],
    observed: &Observed,
) -> Result<Applied, Error> {
    let mut applied = Applied {
        children: observed.children.clone(),
        ..Applied::default()
    };
    // The cache knows only objects with our labels: what it does not know is looked up before it is created.
    for intent in intents {
        if applied.children.contains_key(&intent.key()) {
            continue;
        }
        match lookup(client, owner, intent).await? {
            Some(live) if is_owned_by(&live, owner.uid()) => {
                applied.children.insert(intent.key(), live);
            }
            Some(_) => applied
                .conflicts
                .push(format!("{} {}", intent.kind.name(), intent.name())),
            None => {}
        }
    }
    if !applied.conflicts.is_empty() {
        return Ok(applied);
    }

    for intent in intents {
        let live = applied.children.get(&intent.key());
        let outcome = match writer
            .apply(&intent.kind, intent.body.clone(), intent.replicas, live)
            .await
        {
            Ok(current) => match intent.replicas {
                Some(replicas) => writer.scale(&intent.kind, current, replicas).await,
                None => Ok(current),
            },
            Err(error) => Err(error),
        };
        match outcome {
            Ok(current) => {
                cache.store(&intent.kind, &current);
                applied.children.insert(intent.key(), current);
                continue;
            }
            Err(Error::NameConflict { kind, name }) => applied.conflicts.push(format!("{kind} {name}")),
            Err(error) if error.refusal().is_some() => applied.refused.push(error),
            Err(error) => return Err(error),
        }
        if intent.is_prerequisite {
            return Ok(applied);
        }
    }
    // What was refused may still be needed in its old form, with what it refers to.
    if applied.refused.is_empty() && applied.conflicts.is_empty() {
        delete_orphans(writer, cache, owner, kinds, intents, &mut applied, observed).await?;
    }
    Ok(applied)
}

async fn delete_orphans(
    writer: &Writer,
    cache: &Cache,
    owner: &Owner,
    kinds: &[ChildKind],
    intents: &[Intent],
    applied: &mut Applied,
    observed: &Observed,
) -> Result<(), Error> {
    for (key, live) in &observed.children {
        if intents.iter().any(|intent| intent.key() == *key) || owner_uid(live) != Some(owner.uid()) {
            continue;
        }
        let Some(kind) = kinds.iter().find(|kind| kind.name() == key.0) else {
            continue;
        };
        writer.delete(kind, live).await?;
        cache.forget(kind, live);
        applied.children.remove(key);
    }
    Ok(())
}

async fn lookup(client: &Client, owner: &Owner, intent: &Intent) -> Result<Option<Value>, Error> {
    let found = intent.kind.api(client, &owner.namespace).get_opt(intent.name()).await;
    let found = found.map_err(|source| Error::Api {
        verb: "read",
        kind: intent.kind.name().to_owned(),
        name: intent.name().to_owned(),
        source,
    })?;
    found
        .map(serde_json::to_value)
        .transpose()
        .map_err(|source| Error::Json {
            kind: intent.kind.name().to_owned(),
            name: intent.name().to_owned(),
            source,
        })
}
