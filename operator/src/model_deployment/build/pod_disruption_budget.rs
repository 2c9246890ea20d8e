//! The PodDisruptionBudget: a drain takes one pod at a time, and never waits for one that is broken.
use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::model_deployment::validate::ValidatedModelDeployment;

/// Builds the PodDisruptionBudget.
pub fn build(owner: &ValidatedModelDeployment) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: owner.owner.metadata(owner.owner.child()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            selector: Some(owner.owner.label_selector()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
