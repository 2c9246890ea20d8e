//! The Deployment around a revision's pod template. It has no `replicas`: they belong to another field
//! manager, and a set that drops the field would reset it to 1.
use serde_json::{Value, json};

use super::{metadata, selector};
use crate::model_deployment::{rollout::Plan, validate::ValidatedModelDeployment};

/// A new pod must have been ready for so long before an old one goes: time enough to ask it for a
/// completion, and to hold the rollout if it has none to give.
const MIN_READY_SECONDS: u64 = 10;

/// Builds the Deployment around the template of the deployed revision, as it was stored.
pub fn build(owner: &ValidatedModelDeployment, plan: &Plan) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(owner, &owner.name),
        "spec": {
            "selector": {"matchLabels": selector(owner)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            // Kubernetes refuses one that is not longer than minReadySeconds; our own deadline is kept by us.
            "progressDeadlineSeconds": owner.progress_deadline.as_secs().max(MIN_READY_SECONDS + 1),
            "minReadySeconds": MIN_READY_SECONDS,
            "revisionHistoryLimit": 2,
            "paused": plan.hold,
            "template": plan.deployed.template,
        },
    })
}
