//! The pod template of a revision: restricted, without a token, gone from a dead node after a minute.
use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, EmptyDirVolumeSource, LocalObjectReference,
        PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile,
        SecretVolumeSource, SecurityContext, Toleration, TopologySpreadConstraint, Volume,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use serde_json::Value;
use windlass_crds::model_deployment::{
    LocalReference,
    engine::{Custom, CustomVolume, VolumeKind},
    source::Source,
};

use super::{affinity, container_engine, container_model, container_verify};
use crate::{
    context::Settings,
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

/// Renders the pod template of the revision that the spec demands.
///
/// # Errors
/// When it cannot be written as JSON: a bug.
pub fn build(owner: &ValidatedModelDeployment, settings: &Settings) -> Result<Value, serde_json::Error> {
    let mut labels = owner.pod_labels.clone();
    labels.extend(owner.owner.labels());
    labels.insert(names::LABEL_REVISION.to_owned(), owner.revision().to_owned());
    let mut annotations = owner.pod_annotations.clone();
    annotations.insert(
        "kubectl.kubernetes.io/default-container".to_owned(),
        names::CONTAINER_ENGINE.to_owned(),
    );

    let mut init_containers = vec![container_model::build(owner, settings)];
    let mut containers = vec![container_engine::build(owner, settings)];
    if let (Engine::Custom(custom), Some(verification)) = (&owner.engine, &owner.verification) {
        let path = container_engine::health_path(custom);
        let verify = container_verify::build(owner, settings, verification, path);
        if settings.native_sidecars {
            init_containers.push(verify);
        } else {
            containers.push(verify);
        }
    }
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(owner.service_account_name()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(pod_security()),
            image_pull_secrets: non_empty(owner.image_pull_secrets.iter().map(|name| reference(name)).collect()),
            node_selector: (!owner.placement.node_selector.is_empty()).then(|| owner.placement.node_selector.clone()),
            tolerations: Some(tolerations(owner)),
            affinity: affinity::build(owner, settings),
            topology_spread_constraints: non_empty(spread(owner)),
            priority_class_name: owner.placement.priority_class_name.clone(),
            runtime_class_name: owner.placement.runtime_class_name.clone(),
            init_containers: Some(init_containers),
            containers,
            volumes: Some(volumes(owner)),
            ..PodSpec::default()
        }),
    };
    Ok(without_nulls(serde_json::to_value(template)?))
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(UNPRIVILEGED),
        run_as_group: Some(UNPRIVILEGED),
        fs_group: Some(UNPRIVILEGED),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// What each container of ours is denied; a Custom runtime may loosen user and root filesystem.
pub fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn reference(name: &str) -> LocalObjectReference {
    LocalObjectReference { name: name.to_owned() }
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
fn spread(owner: &ValidatedModelDeployment) -> Vec<TopologySpreadConstraint> {
    let mut constraints = owner.placement.topology_spread_constraints.clone();
    for constraint in &mut constraints {
        constraint
            .label_selector
            .get_or_insert_with(|| owner.owner.label_selector());
    }
    constraints
}

fn volume(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        ..Volume::default()
    }
}

fn empty(name: &str, medium: Option<&str>, limit: Option<Quantity>) -> Volume {
    Volume {
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: limit,
            ..EmptyDirVolumeSource::default()
        }),
        ..volume(name)
    }
}

fn claim(name: &str, claim: &str, read_only: Option<bool>) -> Volume {
    Volume {
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only,
        }),
        ..volume(name)
    }
}

fn volumes(owner: &ValidatedModelDeployment) -> Vec<Volume> {
    let models = match &owner.source {
        Source::Claim { claim: name, .. } => claim("models", name, Some(true)),
        Source::Hub { .. } | Source::Https(_) => empty("models", None, None),
    };
    let mut volumes = vec![models, empty("tmp", None, None)];
    if let Engine::Custom(custom) = &owner.engine {
        volumes.extend(custom_volumes(custom));
    }
    volumes
}

fn custom_volumes(custom: &Custom) -> Vec<Volume> {
    let shm = custom
        .shm_size
        .as_ref()
        .map(|size| empty("shm", Some("Memory"), Some(size.to_quantity())));
    let theirs = custom.volumes.iter().flatten().map(custom_volume);
    shm.into_iter().chain(theirs).collect()
}

fn custom_volume(theirs: &CustomVolume) -> Volume {
    let name = |reference: &Option<LocalReference>| reference.as_ref().map(|reference| reference.name.clone());
    match theirs.kind {
        VolumeKind::EmptyDir => {
            let limit = theirs
                .empty_dir
                .as_ref()
                .and_then(|directory| directory.size_limit.as_ref());
            empty(&theirs.name, None, limit.map(|limit| limit.to_quantity()))
        }
        VolumeKind::ConfigMap => Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: name(&theirs.config_map).unwrap_or_default(),
                ..ConfigMapVolumeSource::default()
            }),
            ..volume(&theirs.name)
        },
        VolumeKind::Secret => Volume {
            secret: Some(SecretVolumeSource {
                secret_name: name(&theirs.secret),
                ..SecretVolumeSource::default()
            }),
            ..volume(&theirs.name)
        },
        VolumeKind::PersistentVolumeClaim => {
            let reference = theirs.persistent_volume_claim.as_ref();
            claim(
                &theirs.name,
                reference.map_or("", |claim| claim.name.as_str()),
                reference.and_then(|claim| claim.read_only),
            )
        }
    }
}
