//! The pod template of a revision: restricted, without a token, gone from a dead node after a minute.
use k8s_openapi::api::core::v1::Toleration;
use serde_json::{Value, json};
use windlass_crds::{model_deployment::engine::VolumeKind, source::Source};

use super::{affinity, container_engine, container_model, labels};
use crate::{
    args::BuildConfig,
    fingerprint::without_nulls,
    model_deployment::validate::{Engine, ValidatedModelDeployment},
    names,
};

/// User and group of our images.
const UNPRIVILEGED: i64 = 65532;
/// preStop (5 s), then what the server's drain waits for running streams (60 s, its default), then a margin.
/// A namespace with pods is looked at 5 s after its deletion, 5 s later, and then only after half of their
/// grace: with 75 s an idle model's namespace is gone after 10 + 38 s and a few for the way through all kinds,
/// and a minute is what people wait.
const GRACE_SECONDS: i64 = 5 + 60 + 10;
/// Kubernetes' own default would leave a model without pods for 5 minutes after its node died.
const LOST_NODE_SECONDS: i64 = 60;

/// Renders the pod template of the revision that the spec asks for.
pub fn build(owner: &ValidatedModelDeployment, config: &BuildConfig) -> Value {
    let mut pod_labels: std::collections::BTreeMap<String, String> = owner.pod_labels.clone();
    pod_labels.extend(labels(owner).into_iter().map(|(key, value)| (key.to_owned(), value)));
    pod_labels.insert(names::LABEL_REVISION.to_owned(), owner.revision().to_owned());
    let mut annotations = owner.pod_annotations.clone();
    annotations.insert(
        "kubectl.kubernetes.io/default-container".to_owned(),
        names::CONTAINER_ENGINE.to_owned(),
    );
    let pull_secrets: Vec<Value> = owner
        .image_pull_secrets
        .iter()
        .map(|name| json!({ "name": name }))
        .collect();

    without_nulls(json!({
        "metadata": {"labels": pod_labels, "annotations": annotations},
        "spec": {
            "serviceAccountName": owner.service_account.as_ref().unwrap_or(&owner.name),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": UNPRIVILEGED,
                "runAsGroup": UNPRIVILEGED,
                "fsGroup": UNPRIVILEGED,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "imagePullSecrets": non_empty(pull_secrets),
            "nodeSelector": (!owner.placement.node_selector.is_empty()).then_some(&owner.placement.node_selector),
            "tolerations": tolerations(owner),
            "affinity": affinity::build(owner, config),
            "topologySpreadConstraints": non_empty(spread(owner)),
            "priorityClassName": owner.placement.priority_class_name,
            "runtimeClassName": owner.placement.runtime_class_name,
            "initContainers": [container_model::build(owner, config)],
            "containers": [container_engine::build(owner, config)],
            "volumes": volumes(owner),
        },
    }))
}

/// What each container of ours is denied; a Custom runtime may loosen user and root filesystem.
pub fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

fn non_empty(list: Vec<Value>) -> Option<Vec<Value>> {
    (!list.is_empty()).then_some(list)
}

fn tolerations(owner: &ValidatedModelDeployment) -> Vec<Toleration> {
    let mut tolerations = owner.placement.tolerations.clone();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let has_own = tolerations
            .iter()
            .any(|toleration| toleration.key.as_deref() == Some(key));
        if !has_own {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(LOST_NODE_SECONDS),
                value: None,
            });
        }
    }
    tolerations
}

/// A constraint without a selector would count no pods at all.
fn spread(owner: &ValidatedModelDeployment) -> Vec<Value> {
    let with_selector = |constraint| {
        let mut constraint = json!(constraint);
        if constraint.get("labelSelector").is_none_or(Value::is_null) {
            constraint["labelSelector"] = json!({"matchLabels": super::selector(owner)});
        }
        constraint
    };
    owner
        .placement
        .topology_spread_constraints
        .iter()
        .map(with_selector)
        .collect()
}

fn volumes(owner: &ValidatedModelDeployment) -> Vec<Value> {
    let models = match &owner.source {
        Source::Claim { claim, .. } => {
            json!({"name": "models", "persistentVolumeClaim": {"claimName": claim, "readOnly": true}})
        }
        Source::Hub { .. } | Source::Https(_) => json!({"name": "models", "emptyDir": {}}),
    };
    let mut volumes = vec![models, json!({"name": "tmp", "emptyDir": {}})];
    let Engine::Custom(custom) = &owner.engine else {
        return volumes;
    };
    if let Some(size) = &custom.shm_size {
        volumes.push(json!({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}}));
    }
    for volume in custom.volumes.iter().flatten() {
        let reference = |reference: &Option<windlass_crds::model_deployment::LocalReference>| {
            reference.as_ref().map(|r| r.name.clone())
        };
        volumes.push(match volume.kind {
            VolumeKind::EmptyDir => {
                let limit = volume
                    .empty_dir
                    .as_ref()
                    .and_then(|directory| directory.size_limit.as_ref());
                json!({"name": volume.name, "emptyDir": {"sizeLimit": limit}})
            }
            VolumeKind::ConfigMap => json!({"name": volume.name, "configMap": {"name": reference(&volume.config_map)}}),
            VolumeKind::Secret => json!({"name": volume.name, "secret": {"secretName": reference(&volume.secret)}}),
            VolumeKind::PersistentVolumeClaim => {
                let claim = volume.persistent_volume_claim.as_ref();
                json!({"name": volume.name, "persistentVolumeClaim": {
                    "claimName": claim.map(|claim| &claim.name),
                    "readOnly": claim.and_then(|claim| claim.read_only),
                }})
            }
        });
    }
    volumes
}
