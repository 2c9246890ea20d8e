//! The Deployment around a revision's pod template. Its number of replicas belongs to another field manager: a set
//! that drops the field would reset it to 1.
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{
    kind::{
        children::Intent,
        rollout::{Plan, Replacement},
    },
    model_deployment::validate::ValidatedModelDeployment,
};

/// A pod is ready only after it was verified; one that loses its readiness at once again replaces no other.
const MIN_READY_SECONDS: i32 = 5;

/// Builds the Deployment around the template of the deployed revision, as it was stored.
///
/// # Errors
/// When it cannot be written as JSON: a bug.
pub fn build(owner: &ValidatedModelDeployment, plan: &Plan) -> Result<Intent, serde_json::Error> {
    let deadline = i32::try_from(owner.progress_deadline.as_secs()).unwrap_or(i32::MAX);
    let deployment = Deployment {
        metadata: owner.owner.metadata(owner.owner.child()),
        spec: DeploymentSpec {
            selector: owner.owner.label_selector(),
            strategy: Some(strategy(plan.replacement)),
            // The API server wants more than minReadySeconds; the deadline that counts is the operator's own.
            progress_deadline_seconds: Some(deadline.max(MIN_READY_SECONDS + 1)),
            min_ready_seconds: Some(MIN_READY_SECONDS),
            revision_history_limit: Some(2),
            paused: Some(false),
            template: PodTemplateSpec::default(),
            replicas: None,
        },
        ..Deployment::default()
    };
    let mut intent = Intent::of(&deployment)?;
    intent.body["spec"]["template"] = plan.deployed.template.clone();
    intent.replicas = Some(owner.replicas);
    Ok(intent)
}

fn strategy(replacement: Replacement) -> DeploymentStrategy {
    let rolling = |surge: i32, unavailable: i32| DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        }),
    };
    match replacement {
        Replacement::Surge => rolling(1, 0),
        Replacement::Replace => rolling(0, 1),
        Replacement::Recreate => DeploymentStrategy {
            type_: Some("Recreate".to_owned()),
            rolling_update: None,
        },
    }
}
