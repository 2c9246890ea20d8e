//! What every kind shares: the trait that a kind implements, and the machinery that takes its objects from a
//! change to a status. Nothing here names a kind but `registered`.
use std::{collections::BTreeSet, fmt::Debug, future::Future, pin::Pin, sync::Arc, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope, api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp,
};
use kube::{CustomResourceExt, Resource, core::PartialObjectMeta};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::mpsc;
use windlass_crds::schema::{self, Contract};

use crate::{
    cluster::{
        cache::ObjectKey,
        schema_skew::BuiltSchema,
        watch::{Running, controller},
    },
    context::{Context, Settings},
    model_deployment::ModelDeployments,
};

pub mod children;
pub mod conditions;
pub mod driver;
pub mod owner;
pub mod revision;
pub mod rollout;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;

use children::{Applied, ChildKind, Intent, Observed};
use conditions::Judged;
use owner::Owner;

/// What is watched of an object: its metadata. Its content is read when it is worked on, so that one object
/// that cannot be parsed never stops the watch of the others.
pub type Watched<K> = PartialObjectMeta<<K as Kind>::Object>;

/// What is wrong with a spec, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Problems(pub Vec<String>);

/// The status of a kind.
pub trait Status: Serialize + DeserializeOwned + Default + PartialEq + Clone + Send + Sync {
    /// Its conditions.
    fn conditions(&self) -> &[Condition];
    /// Sets what every status has.
    fn observe(&mut self, generation: Option<i64>, conditions: Vec<Condition>);
}

/// One kind of object. Every function is pure: what it needs is an argument, and equal
/// arguments give equal results, so that nothing is written at rest.
pub trait Kind: Sized + Send + Sync + 'static {
    /// The object as people write it.
    type Object: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + CustomResourceExt
        + Contract
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static;
    /// The object once it was parsed: later stages never reach back into the spec.
    type Valid: Send + Sync;
    /// What shall be, given what is.
    type Decision: Send + Sync;
    /// What is reported.
    type Status: Status;

    /// Names of children end in it. No kind's suffix is a role of another kind's children.
    const SUFFIX: &'static str;
    /// Label of children and pods; its value is the object's name.
    const LABEL: &'static str;
    /// Types of conditions, in the order in which people read them.
    const CONDITIONS: &'static [&'static str];

    /// The API kinds that its children have, in any order.
    fn children_kinds() -> Vec<ChildKind>;

    /// Checks an object.
    ///
    /// # Errors
    /// Every problem at once.
    fn validate(object: &Self::Object, owner: Owner) -> Result<Self::Valid, Problems>;

    /// Whether a pod with the owner's label was made by its workload. Anybody may put a label on a pod.
    fn made(owner: &Owner, pod: &Pod) -> bool;

    /// Decides from what was observed.
    ///
    /// # Errors
    /// When a pod template cannot be written as JSON: a bug.
    fn decide(
        valid: &Self::Valid,
        observed: &Observed,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Self::Decision, serde_json::Error>;

    /// What shall exist, in the order in which it is applied: what others refer to comes first.
    ///
    /// # Errors
    /// When a child cannot be written as JSON: a bug.
    fn children(
        valid: &Self::Valid,
        decision: &Self::Decision,
        settings: &Settings,
    ) -> Result<Vec<Intent>, serde_json::Error>;

    /// What is reported.
    fn report(situation: &Situation<Self>) -> Report<Self::Status>;

    /// Addresses at which containers report how far they are.
    fn reporters(valid: &Self::Valid, decision: &Self::Decision, observed: &Observed) -> BTreeSet<String>;

    /// The pod whose warnings are worth a read: one that should have started and has not.
    fn stuck<'a>(valid: &Self::Valid, observed: &'a Observed, now: Timestamp) -> Option<&'a Pod>;
}

/// Everything that a status is computed from.
pub struct Situation<'a, K: Kind> {
    pub previous: &'a K::Status,
    pub valid: &'a K::Valid,
    pub decision: &'a K::Decision,
    pub observed: &'a Observed,
    pub applied: &'a Applied,
    /// What is to be said about the installed CRD, when it is not the one of this build.
    pub schema_skew: Option<&'a str>,
    pub now: Timestamp,
}

/// What a kind reports.
pub struct Report<S> {
    /// All but conditions and generation.
    pub status: S,
    pub conditions: Judged,
    pub look: Look,
}

/// When to look again although nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// In case a watch missed something.
    Settled,
    /// While something is under way that no watch shows.
    Busy,
    /// While people or the cluster have to act.
    Waiting,
    /// At a moment at which a decision changes, at the latest.
    Within(Duration),
}

/// A kind that the operator runs, without its type.
pub struct Registered {
    /// Its name.
    pub kind: &'static str,
    /// Group and version.
    pub api_version: &'static str,
    /// `Kind::LABEL`.
    pub label: &'static str,
    /// `Kind::children_kinds`.
    pub children: fn() -> Vec<ChildKind>,
    /// Its CRD.
    pub schema: fn() -> BuiltSchema,
    /// What an API server would refuse of an object before it runs the rules.
    pub violations: fn(&Value) -> Vec<String>,
    /// What would be applied for an object in a cluster where nothing exists yet.
    pub render: fn(Value, &Settings) -> anyhow::Result<Vec<Value>>,
    /// Its controller.
    pub run: Controller,
}

/// Starts a controller: context, namespace or all, queue, how it runs.
pub type Controller =
    fn(Arc<Context>, Option<String>, mpsc::Receiver<ObjectKey>, Running) -> Pin<Box<dyn Future<Output = ()> + Send>>;

impl Registered {
    /// The entry of a kind; `kind` is its name, `crd` that of its CRD.
    const fn of<K: Kind>(kind: &'static str) -> Self {
        Self {
            kind,
            api_version: "windlass.dev/v1alpha1",
            violations: schema::violations::<K::Object>,
            label: K::LABEL,
            children: K::children_kinds,
            schema: || BuiltSchema {
                kind: "",
                crd: K::Object::crd_name(),
                hash: schema::schema_hash::<K::Object>().ok(),
            },
            render: driver::render::<K>,
            run: |context, namespace, queue, running| Box::pin(controller::<K>(context, namespace, queue, running)),
        }
    }

    /// Its CRD, with the kind's name.
    pub fn built_schema(&self) -> BuiltSchema {
        BuiltSchema {
            kind: self.kind,
            ..(self.schema)()
        }
    }
}

/// The kinds that this operator runs.
pub static REGISTERED: [Registered; 1] = [Registered::of::<ModelDeployments>("ModelDeployment")];
