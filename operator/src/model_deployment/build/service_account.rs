//! The ServiceAccount of the pods: an identity without a token and without rights.
use serde_json::{Value, json};

use super::metadata;
use crate::model_deployment::validate::ValidatedModelDeployment;

/// Builds the ServiceAccount.
pub fn build(owner: &ValidatedModelDeployment) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(owner, &owner.name),
        "automountServiceAccountToken": false,
    })
}
