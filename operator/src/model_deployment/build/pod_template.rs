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
    engine::{EngineVolume, VolumeKind},
    source::Source,
};

use super::{affinity, container_engine, container_model, container_verify, resources};
use crate::{
    context::Settings,
    fingerprint::without_nulls,
    model_deployment::validate::{Engine, ValidatedModelDeployment},
    names,
};

/// User and group of our images.
const UNPRIVILEGED: i64 = 65532;
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
            termination_grace_period_seconds: Some(owner.grace_seconds),
            security_context: Some(pod_security(settings)),
            image_pull_secrets: non_empty(pull_secrets(owner, settings)),
            node_selector: (!owner.placement.node_selector.is_empty()).then(|| owner.placement.node_selector.clone()),
            tolerations: Some(tolerations(owner)),
            affinity: affinity::build(owner, settings),
            topology_spread_constraints: non_empty(spread(owner)),
            priority_class_name: owner.placement.priority_class_name.clone(),
            runtime_class_name: owner.placement.runtime_class_name.clone(),
            init_containers: Some(init_containers),
            containers,
            volumes: Some(volumes(owner, settings)),
            ..PodSpec::default()
        }),
    };
    Ok(without_nulls(serde_json::to_value(template)?))
}

/// Platforms that assign users and groups (OpenShift) refuse pods that name others.
fn pod_security(settings: &Settings) -> PodSecurityContext {
    let user = (!settings.platform_users).then_some(UNPRIVILEGED);
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: user,
        run_as_group: user,
        fs_group: user,
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// What each container is denied; `spec.engine.securityContext` may loosen user and root filesystem of the engine's.
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

/// Those of the object first, then the operator's, each once.
fn pull_secrets(owner: &ValidatedModelDeployment, settings: &Settings) -> Vec<LocalObjectReference> {
    let of_operator = settings
        .image_pull_secrets
        .iter()
        .filter(|name| !owner.image_pull_secrets.contains(name));
    let names = owner.image_pull_secrets.iter().chain(of_operator);
    names.map(|name| LocalObjectReference { name: name.clone() }).collect()
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

fn volumes(owner: &ValidatedModelDeployment, settings: &Settings) -> Vec<Volume> {
    let models = match &owner.source {
        Source::Claim { claim: name, .. } => claim("models", name, Some(true)),
        Source::Hub { .. } | Source::Https(_) => empty("models", None, resources::ephemeral_storage(owner, settings)),
    };
    let mut volumes = vec![models, empty("tmp", None, None)];
    if let Some(name) = &settings.ca_config_map {
        volumes.push(config_map("ca", name));
    }
    if let Engine::Custom(custom) = &owner.engine {
        let shm = custom.shm_size.as_ref();
        volumes.extend(shm.map(|size| empty("shm", Some("Memory"), Some(size.to_quantity()))));
    }
    volumes.extend(owner.volumes.iter().map(own_volume));
    volumes
}

fn config_map(name: &str, config_map: &str) -> Volume {
    Volume {
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.to_owned(),
            ..ConfigMapVolumeSource::default()
        }),
        ..volume(name)
    }
}

fn own_volume(theirs: &EngineVolume) -> Volume {
    match theirs.kind {
        VolumeKind::EmptyDir => {
            let limit = theirs
                .empty_dir
                .as_ref()
                .and_then(|directory| directory.size_limit.as_ref());
            empty(&theirs.name, None, limit.map(|limit| limit.to_quantity()))
        }
        VolumeKind::ConfigMap => config_map(
            &theirs.name,
            theirs
                .config_map
                .as_ref()
                .map_or("", |reference| reference.name.as_str()),
        ),
        VolumeKind::Secret => Volume {
            secret: Some(SecretVolumeSource {
                secret_name: theirs.secret.as_ref().map(|reference| reference.name.clone()),
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
