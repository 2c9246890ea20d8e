//! What a ModelDeployment becomes, one object a file. Pure: the same input gives the same bytes.
//! Objects are JSON, because a revision's pod template is applied again as it was stored, also when
//! another version of this program rendered it.
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{rollout::Plan, validate::ValidatedModelDeployment};
use crate::{args::BuildConfig, names};

mod affinity;
pub mod config_map;
pub mod container_engine;
pub mod container_model;
pub mod deployment;
pub mod network_policy;
pub mod pod_disruption_budget;
pub mod pod_template;
pub mod service;
pub mod service_account;

/// Everything that is applied for one object, in the order in which it is applied: what pods refer to
/// comes before the pods.
#[derive(Debug, Clone)]
pub struct Children {
    /// Absent when the spec names a ServiceAccount of the user's.
    pub service_account: Option<Value>,
    pub pins: Value,
    pub network_policy: Value,
    pub service: Value,
    pub pod_disruption_budget: Value,
    pub revisions: Vec<Value>,
    pub deployment: Value,
}

impl Children {
    /// All of them in order, for printing.
    pub fn into_vec(self) -> Vec<Value> {
        let Self {
            service_account,
            pins,
            network_policy,
            service,
            pod_disruption_budget,
            revisions,
            deployment,
        } = self;
        let mut all: Vec<Value> = service_account.into_iter().collect();
        all.extend([pins, network_policy, service, pod_disruption_budget]);
        all.extend(revisions);
        all.push(deployment);
        all
    }
}

/// Builds all children; `pins` are the digests that are resolved, by key.
pub fn build(
    owner: &ValidatedModelDeployment,
    config: &BuildConfig,
    plan: &Plan,
    pins: &BTreeMap<String, String>,
) -> Children {
    Children {
        service_account: owner.service_account.is_none().then(|| service_account::build(owner)),
        pins: config_map::build(owner, pins),
        network_policy: network_policy::build(owner, config),
        service: service::build(owner),
        pod_disruption_budget: pod_disruption_budget::build(owner),
        revisions: plan.revisions.iter().map(|revision| revision.write(owner)).collect(),
        deployment: deployment::build(owner, plan),
    }
}

/// Name, namespace, labels and owner of a child. The object's own labels and annotations are not
/// copied: a GitOps tool would take the child for one of its own.
pub fn metadata(owner: &ValidatedModelDeployment, name: &str) -> Value {
    json!({
        "name": name,
        "namespace": owner.namespace,
        "labels": labels(owner),
        "ownerReferences": [owner.owner],
    })
}

/// The labels of all children and pods.
pub fn labels(owner: &ValidatedModelDeployment) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name", "windlass-model".to_owned()),
        ("app.kubernetes.io/instance", owner.name.clone()),
        ("app.kubernetes.io/managed-by", names::MANAGED_BY.to_owned()),
        (names::LABEL_DEPLOYMENT, owner.name.clone()),
    ])
}

/// The labels that select the pods.
pub fn selector(owner: &ValidatedModelDeployment) -> Value {
    json!({ names::LABEL_DEPLOYMENT: owner.name })
}
