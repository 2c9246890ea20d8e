//! The Deployment around a revision's pod template. It has no `replicas`: they belong to another field
//! manager, and a set that drops the field would reset it to 1.
use serde_json::{Value, json};

use super::{metadata, selector};
use crate::model_deployment::validate::ValidatedModelDeployment;

/// Builds the Deployment; `template` is a revision's, as it was stored.
pub fn build(owner: &ValidatedModelDeployment, template: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(owner, &owner.name),
        "spec": {
            "selector": {"matchLabels": selector(owner)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": owner.progress_deadline.as_secs(),
            "revisionHistoryLimit": 2,
            "template": template,
        },
    })
}
