//! What unpinned sources were resolved to: digest and commit, recorded in a ConfigMap that the pods read through
//! optional references, so that what is learned later changes no pod template. Pure.
use std::{cmp::Reverse, collections::BTreeMap};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use windlass_api::fetch::ModelFacts;

use super::{pod, validate::ValidatedModelDeployment};
use crate::kind::{children::Observed, rollout::Plan};

/// The ConfigMap's data: `<pin key>` is a digest, `<pin key>.commit` a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins(pub BTreeMap<String, String>);

impl Pins {
    /// The digest that a revision's pods are held to.
    pub fn digest(&self, pin_key: &str) -> Option<&String> {
        self.0.get(pin_key)
    }
}

/// Where the commit of a pin is recorded.
pub fn commit_key(pin_key: &str) -> String {
    format!("{pin_key}.commit")
}

/// The pins that shall be kept: those of the revisions that stay, and the desired one's as soon as a pod has
/// reported it. A digest in the spec needs none of its own.
pub fn decide(owner: &ValidatedModelDeployment, plan: &Plan, observed: &Observed) -> Pins {
    let existing = observed.get::<ConfigMap>(&owner.pins_name());
    let existing = existing.and_then(|pins| pins.data).unwrap_or_default();
    let is_kept = |key: &str| {
        let key = key.strip_suffix(".commit").unwrap_or(key);
        plan.revisions.iter().any(|revision| revision.pin_key == key)
    };
    let mut pins: BTreeMap<String, String> = existing.into_iter().filter(|(key, _)| is_kept(key)).collect();
    if let Some(facts) = facts(observed, &plan.wanted.id) {
        if owner.digest.is_none() {
            pins.entry(owner.pin_key.clone()).or_insert(facts.digest);
        }
        if let Some(commit) = facts.commit {
            pins.entry(commit_key(&owner.pin_key)).or_insert(commit);
        }
    }
    Pins(pins)
}

/// What a pod of a revision found in the model's files; the newest pod's report counts.
pub fn facts(observed: &Observed, revision: &str) -> Option<ModelFacts> {
    let mut pods: Vec<&Pod> = observed.pods.iter().map(AsRef::as_ref).collect();
    pods.retain(|pod| pod::runs(pod, revision));
    pods.sort_by_key(|pod| Reverse((pod.creation_timestamp(), pod.name_any())));
    pods.into_iter().find_map(pod::model_facts)
}
