//! What a ModelDeployment becomes, one object a file, in Kubernetes' own types. Pure: the same input gives the same
//! bytes. A pod template becomes JSON once and is applied as it was stored, also when another version of this
//! program rendered it.
use crate::{
    context::Settings,
    kind::children::Intent,
    model_deployment::{Decision, validate::ValidatedModelDeployment},
};

mod affinity;
pub mod config_map;
pub mod container_engine;
pub mod container_model;
pub mod container_verify;
pub mod deployment;
pub mod network_policy;
pub mod pod_disruption_budget;
pub mod pod_template;
mod resources;
pub mod service;
pub mod service_account;

/// Everything that is applied for one object, in the order in which it is applied: what pods refer to
/// comes before the pods.
///
/// # Errors
/// When an object cannot be written as JSON: a bug.
pub fn build(
    owner: &ValidatedModelDeployment,
    settings: &Settings,
    decision: &Decision,
) -> Result<Vec<Intent>, serde_json::Error> {
    let plan = &decision.plan;
    let mut children = Vec::new();
    if let Some(account) = service_account::build(owner, plan) {
        children.push(Intent::of(&account)?);
    }
    if let Some(pins) = config_map::build(owner, &decision.pins) {
        children.push(Intent::of(&pins)?);
    }
    children.push(Intent::of(&network_policy::build(owner, settings, plan))?);
    children.push(Intent::of(&service::build(owner))?);
    children.push(Intent::of(&pod_disruption_budget::build(owner))?);
    for revision in &plan.revisions {
        // A verdict is on record before the Deployment follows it.
        children.push(Intent {
            is_prerequisite: true,
            ..Intent::of(&revision.write(&owner.owner))?
        });
    }
    children.push(deployment::build(owner, plan)?);
    Ok(children)
}
