//! The ConfigMap of resolved digests. Pods read it through an optional reference, so that a digest
//! that is learned later changes no pod template.
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::metadata;
use crate::model_deployment::validate::ValidatedModelDeployment;

/// Builds the ConfigMap; `pins` are digests by the hash of source and revision.
pub fn build(owner: &ValidatedModelDeployment, pins: &BTreeMap<String, String>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, &owner.pins_name()),
        "data": pins,
    })
}
