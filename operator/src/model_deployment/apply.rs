//! Brings the children to what was built, in an order in which nothing refers to what is not there
//! yet; then removes what nothing refers to any more.
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::json;

use super::{build::Children, fetch::Observed, validate::ValidatedModelDeployment};
use crate::apply::{Error, Writer};

/// Applies all children; returns the Deployment.
///
/// # Errors
/// The first write that failed; what comes after it waits for the next attempt.
pub async fn apply(
    writer: &Writer,
    owner: &ValidatedModelDeployment,
    children: Children,
    expired: &[String],
    observed: &Observed,
) -> Result<Deployment, Error> {
    let Children {
        service_account,
        pins,
        network_policy,
        service,
        pod_disruption_budget,
        revisions,
        deployment,
    } = children;
    match (service_account, &observed.service_account) {
        (Some(intent), live) => {
            writer.apply(intent, None, live.as_ref()).await?;
        }
        (None, Some(live)) if crate::apply::is_owned_by(live, &owner.owner.uid) => writer.delete(live).await?,
        (None, _) => {}
    }
    writer.apply(pins, None, observed.pins.as_ref()).await?;
    writer
        .apply(network_policy, None, observed.network_policy.as_ref())
        .await?;
    writer.apply(service, None, observed.service.as_ref()).await?;
    writer
        .apply(pod_disruption_budget, None, observed.pod_disruption_budget.as_ref())
        .await?;
    // A verdict is on record before the Deployment follows it.
    for revision in revisions {
        let name = revision["metadata"]["name"].as_str().unwrap_or_default();
        let live = observed.revisions.iter().find(|live| live.name_any() == name).cloned();
        writer.apply(revision, None, live.as_ref()).await?;
    }
    let on_create = json!({"spec": {"replicas": owner.replicas}});
    let applied = writer
        .apply(deployment, Some(on_create), observed.deployment.as_ref())
        .await?;
    let applied = writer.scale(&applied, owner.replicas).await?;
    for name in expired {
        if let Some(live) = observed.revisions.iter().find(|live| live.name_any() == *name) {
            writer.delete(live).await?;
        }
    }
    Ok(applied)
}
