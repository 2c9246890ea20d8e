//! The init container `model`: it fetches the model into the pod's volume, or checks the file on the claim.
use k8s_openapi::api::core::v1::{
    ConfigMapKeySelector, Container, ContainerPort, EnvVar, EnvVarSource, SecretKeySelector, VolumeMount,
};
use windlass_crds::model_deployment::source::Source;

use super::{pod_template::restricted, resources};
use crate::{
    context::Settings,
    model_deployment::{pins, validate::ValidatedModelDeployment},
    names,
};

/// Builds the init container.
pub fn build(owner: &ValidatedModelDeployment, settings: &Settings) -> Container {
    let mut args: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: &str| args.extend([format!("--{name}"), value.to_owned()]);
    let verb = match &owner.source {
        Source::Hub { repository, path } => {
            let path = path.as_ref().map_or_else(String::new, |path| format!("/{path}"));
            flag("source", &format!("hf://{repository}{path}"));
            flag("revision", owner.source_revision.as_deref().unwrap_or("main"));
            flag("hub-url", &settings.hub_url);
            flag("dest", &owner.model_path());
            "fetch"
        }
        Source::Https(url) => {
            flag("source", url);
            flag("dest", &owner.model_path());
            "fetch"
        }
        Source::Claim { .. } => {
            flag("file", &owner.model_path());
            "verify"
        }
    };
    if let Some(digest) = &owner.digest {
        flag("digest", digest);
    }
    // In one word each: a pattern may begin with a hyphen.
    args.extend(owner.allow_patterns.iter().map(|pattern| format!("--allow={pattern}")));
    args.extend(
        owner
            .ignore_patterns
            .iter()
            .map(|pattern| format!("--ignore={pattern}")),
    );
    let mut flag = |name: &str, value: &str| args.extend([format!("--{name}"), value.to_owned()]);
    flag("progress-listen", &format!("[::]:{}", names::PORT_PROGRESS));
    flag("report", "/dev/termination-log");
    args.insert(0, verb.to_owned());

    let mount = |name: &str, path: &str, read_only: Option<bool>| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    let mut volume_mounts = vec![
        mount("models", names::MODELS_DIR, (!owner.source.is_remote()).then_some(true)),
        mount("tmp", "/tmp", None),
    ];
    if settings.ca_config_map.is_some() {
        volume_mounts.push(mount("ca", names::CA_DIR, Some(true)));
    }
    Container {
        name: names::CONTAINER_MODEL.to_owned(),
        image: Some(settings.registry_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(args),
        env: Some(environment(owner, settings)),
        ports: Some(vec![ContainerPort {
            name: Some("progress".to_owned()),
            container_port: names::PORT_PROGRESS,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        // It streams: what it needs does not grow with the model.
        resources: Some(resources::helper(owner, settings, "100m", "64Mi", "512Mi")),
        security_context: Some(restricted()),
        termination_message_path: Some("/dev/termination-log".to_owned()),
        termination_message_policy: Some("File".to_owned()),
        volume_mounts: Some(volume_mounts),
        ..Container::default()
    }
}

fn environment(owner: &ValidatedModelDeployment, settings: &Settings) -> Vec<EnvVar> {
    let from = |name: &str, source: EnvVarSource| EnvVar {
        name: name.to_owned(),
        value_from: Some(source),
        ..EnvVar::default()
    };
    let pin = |key: String| EnvVarSource {
        config_map_key_ref: Some(ConfigMapKeySelector {
            name: owner.pins_name(),
            key,
            optional: Some(true),
        }),
        ..EnvVarSource::default()
    };
    let mut variables = Vec::new();
    if owner.digest.is_none() {
        variables.push(from("WINDLASS_PINNED_DIGEST", pin(owner.pin_key.clone())));
    }
    if matches!(owner.source, Source::Hub { .. }) {
        variables.push(from("WINDLASS_PINNED_COMMIT", pin(pins::commit_key(&owner.pin_key))));
    }
    if let Some(secret) = &owner.token_secret {
        let token = EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.clone(),
                key: names::TOKEN_KEY.to_owned(),
                optional: None,
            }),
            ..EnvVarSource::default()
        };
        variables.push(from("WINDLASS_SOURCE_TOKEN", token));
    }
    let ca_bundle = format!("{}/ca.crt", names::CA_DIR);
    let of_cluster = [
        ("HTTPS_PROXY", settings.https_proxy.as_ref()),
        ("HTTP_PROXY", settings.http_proxy.as_ref()),
        ("NO_PROXY", settings.no_proxy.as_ref()),
        (
            "WINDLASS_CA_BUNDLE",
            settings.ca_config_map.as_ref().map(|_| &ca_bundle),
        ),
    ];
    variables.extend(of_cluster.into_iter().filter_map(|(name, value)| {
        Some(EnvVar {
            name: name.to_owned(),
            value: Some(value?.clone()),
            ..EnvVar::default()
        })
    }));
    variables
}
