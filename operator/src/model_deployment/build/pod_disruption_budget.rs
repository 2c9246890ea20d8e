//! The PodDisruptionBudget: a drain takes one pod at a time, and never waits for one that is broken.
use serde_json::{Value, json};

use super::{metadata, selector};
use crate::model_deployment::validate::ValidatedModelDeployment;

/// Builds the PodDisruptionBudget.
pub fn build(owner: &ValidatedModelDeployment) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, &owner.name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(owner)},
        },
    })
}
