//! Brings the children to what was built, in an order in which nothing refers to what is not there
//! yet; then removes what nothing refers to any more. A child that the API server refuses is told and
//! does not hold up the others.
use std::fmt::Debug;

use k8s_openapi::{NamespaceResourceScope, api::apps::v1::Deployment};
use kube::{Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{build::Children, fetch::Observed, validate::ValidatedModelDeployment};
use crate::apply::{Error, Writer};

/// What came of it.
#[derive(Debug, Default)]
pub struct Applied {
    /// The Deployment as it is now.
    pub deployment: Option<Deployment>,
    /// Objects of somebody else that have the name of a child, as `Kind name`.
    pub conflicts: Vec<String>,
    /// Writes that the API server refuses.
    pub refused: Vec<Error>,
}

impl Applied {
    /// Applies one child; `None` when it has the name of somebody else's object, or is refused.
    async fn child<K>(
        &mut self,
        writer: &Writer,
        intent: Value,
        on_create: Option<Value>,
        live: Option<&K>,
    ) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        match writer.apply(intent, on_create, live).await {
            Ok(applied) => return Ok(Some(applied)),
            Err(Error::NameConflict { kind, name }) => self.conflicts.push(format!("{kind} {name}")),
            Err(error) if error.refusal().is_some() => self.refused.push(error),
            Err(error) => return Err(error),
        }
        Ok(None)
    }
}

/// Applies all children.
///
/// # Errors
/// The first write that failed for the moment; what comes after it waits for the next attempt.
pub async fn apply(
    writer: &Writer,
    owner: &ValidatedModelDeployment,
    children: Children,
    expired: &[String],
    observed: &Observed,
) -> Result<Applied, Error> {
    let Children {
        service_account,
        pins,
        network_policy,
        service,
        pod_disruption_budget,
        revisions,
        deployment,
    } = children;
    let mut applied = Applied {
        deployment: observed.deployment.clone(),
        ..Applied::default()
    };
    match (service_account, &observed.service_account) {
        (Some(intent), live) => {
            applied.child(writer, intent, None, live.as_ref()).await?;
        }
        (None, Some(live)) if crate::apply::is_owned_by(live, &owner.owner.uid) => writer.delete(live).await?,
        (None, _) => {}
    }
    applied.child(writer, pins, None, observed.pins.as_ref()).await?;
    applied
        .child(writer, network_policy, None, observed.network_policy.as_ref())
        .await?;
    applied.child(writer, service, None, observed.service.as_ref()).await?;
    applied
        .child(
            writer,
            pod_disruption_budget,
            None,
            observed.pod_disruption_budget.as_ref(),
        )
        .await?;

    // A verdict is on record before the Deployment follows it.
    for revision in revisions {
        let name = revision["metadata"]["name"].as_str().unwrap_or_default();
        let live = observed.revisions.iter().find(|live| live.name_any() == name).cloned();
        if applied.child(writer, revision, None, live.as_ref()).await?.is_none() {
            return Ok(applied);
        }
    }
    let on_create = json!({"spec": {"replicas": owner.replicas}});
    if let Some(current) = applied
        .child(writer, deployment, Some(on_create), observed.deployment.as_ref())
        .await?
    {
        applied.deployment = Some(writer.scale(&current, owner.replicas).await?);
    }
    for name in expired {
        if let Some(live) = observed.revisions.iter().find(|live| live.name_any() == *name) {
            writer.delete(live).await?;
        }
    }
    Ok(applied)
}
