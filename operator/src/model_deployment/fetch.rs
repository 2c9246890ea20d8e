//! Reads what exists: the object and its children, straight from the API server, so that no decision
//! rests on an old copy.
use std::collections::BTreeMap;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, Deployment},
        core::v1::{ConfigMap, Pod, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource,
    api::{DynamicObject, ListParams},
    core::ApiResource,
};
use serde::de::DeserializeOwned;
use windlass_crds::ModelDeployment;

use crate::{apply::is_owned_by, names};

/// The children of one object, as they are.
#[derive(Debug, Default)]
pub struct Observed {
    pub service_account: Option<ServiceAccount>,
    pub pins: Option<ConfigMap>,
    pub network_policy: Option<NetworkPolicy>,
    pub service: Option<Service>,
    pub pod_disruption_budget: Option<PodDisruptionBudget>,
    pub deployment: Option<Deployment>,
    /// Ours only.
    pub revisions: Vec<ControllerRevision>,
    /// Those of the Deployment.
    pub pods: Vec<Pod>,
}

impl Observed {
    /// Objects of somebody else that have the name of a child, as `Kind name`.
    pub fn foreign(&self, owner_uid: &str, own_service_account: bool) -> Vec<String> {
        let mut foreign = Vec::new();
        let service_account = self.service_account.as_ref().filter(|_| own_service_account);
        check(&mut foreign, owner_uid, service_account);
        check(&mut foreign, owner_uid, self.pins.as_ref());
        check(&mut foreign, owner_uid, self.network_policy.as_ref());
        check(&mut foreign, owner_uid, self.service.as_ref());
        check(&mut foreign, owner_uid, self.pod_disruption_budget.as_ref());
        check(&mut foreign, owner_uid, self.deployment.as_ref());
        foreign
    }

    /// The digests that are resolved, by key.
    pub fn pins(&self) -> BTreeMap<String, String> {
        self.pins
            .as_ref()
            .and_then(|pins| pins.data.clone())
            .unwrap_or_default()
    }
}

fn check<K: Resource<DynamicType = ()>>(foreign: &mut Vec<String>, owner_uid: &str, object: Option<&K>) {
    if let Some(object) = object.filter(|object| !is_owned_by(*object, owner_uid)) {
        foreign.push(format!(
            "{} {}",
            K::kind(&()),
            object.meta().name.as_deref().unwrap_or_default()
        ));
    }
}

/// The object itself, unparsed: one that a newer CRD allows must not stop this program.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn object(client: &Client, namespace: &str, name: &str) -> kube::Result<Option<DynamicObject>> {
    let resource = ApiResource::erase::<ModelDeployment>(&());
    Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource)
        .get_opt(name)
        .await
}

/// The children of an object.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn observe(client: &Client, namespace: &str, name: &str, uid: &str) -> kube::Result<Observed> {
    let pins_name = format!("{name}-pins");
    let ours = ListParams::default().labels(&format!("{}={name}", names::LABEL_DEPLOYMENT));
    let revisions = Api::<ControllerRevision>::namespaced(client.clone(), namespace);
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let (service_account, pins, network_policy, service, pod_disruption_budget, deployment, revisions, pods) = futures::try_join!(
        get(client, namespace, name),
        get(client, namespace, &pins_name),
        get(client, namespace, name),
        get(client, namespace, name),
        get(client, namespace, name),
        get(client, namespace, name),
        revisions.list(&ours),
        pods.list(&ours),
    )?;
    Ok(Observed {
        service_account,
        pins,
        network_policy,
        service,
        pod_disruption_budget,
        deployment,
        revisions: revisions
            .items
            .into_iter()
            .filter(|revision| is_owned_by(revision, uid))
            .collect(),
        pods: pods.items.into_iter().filter(|pod| belongs_to(pod, name)).collect(),
    })
}

/// Anybody may put our label on a pod; only the Deployment's ReplicaSets make pods that count.
fn belongs_to(pod: &Pod, deployment: &str) -> bool {
    let is_its_replica_set = |name: &str| {
        name.strip_prefix(deployment)
            .is_some_and(|rest| rest.starts_with('-') && !rest[1..].contains('-'))
    };
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners
        .iter()
        .any(|owner| owner.controller == Some(true) && owner.kind == "ReplicaSet" && is_its_replica_set(&owner.name))
}

async fn get<K>(client: &Client, namespace: &str, name: &str) -> kube::Result<Option<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    Api::<K>::namespaced(client.clone(), namespace).get_opt(name).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_with_our_label_counts_only_when_the_deployment_made_it() {
        let pod = |kind: &str, name: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}]}}))
            .expect("pod")
        };
        assert!(belongs_to(&pod("ReplicaSet", "chat-6c9f7d"), "chat"));
        assert!(!belongs_to(&pod("ReplicaSet", "chat-two-6c9f7d"), "chat"));
        assert!(!belongs_to(&pod("StatefulSet", "chat-6c9f7d"), "chat"));
        assert!(!belongs_to(&Pod::default(), "chat"));
    }
}
