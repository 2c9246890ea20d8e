//! The container `engine`: the Windlass server, or the user's own program under the same conditions.
use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, EnvVar, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SecurityContext,
        SleepAction, VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use windlass_crds::model_deployment::engine::{Custom, KvCacheType, ProbeTiming};

use super::{pod_template::restricted, resources};
use crate::{
    context::Settings,
    model_deployment::validate::{Engine, ValidatedModelDeployment},
    names,
};

/// Endpoints lag behind a pod's end: requests still arrive for some seconds and must be accepted.
const PRE_STOP_SECONDS: i64 = 5;
/// 5 s x 1440 = 2 h: weights of any size may take their time to load, the rollout's deadline decides.
const STARTUP: (i32, i32) = (5, 1440);
/// Between the end of a drain and the kernel's: for the last answers to leave.
const DRAIN_MARGIN_SECONDS: i64 = 10;

/// Builds the container.
pub fn build(owner: &ValidatedModelDeployment, settings: &Settings) -> Container {
    let container = match &owner.engine {
        Engine::Windlass {
            context_length,
            max_sequences,
            max_batch_tokens,
            step_time,
            speculative_tokens,
            kv_cache_type,
        } => {
            let flags = [
                ("context-length", context_length.map(|n| n.to_string())),
                ("max-sequences", max_sequences.map(|n| n.to_string())),
                ("max-batch-tokens", max_batch_tokens.map(|n| n.to_string())),
                ("step-time", step_time.map(millis)),
                ("speculate", speculative_tokens.map(|n| n.to_string())),
                ("kv-cache-type", kv_cache_type.map(kv_cache_name)),
            ];
            windlass(owner, settings, &flags)
        }
        Engine::Custom(custom) => custom_runtime(owner, custom),
    };
    Container {
        name: names::CONTAINER_ENGINE.to_owned(),
        ports: Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: owner.port(),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(resources::engine(owner, settings)),
        security_context: Some(security(owner)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: PRE_STOP_SECONDS,
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        ..container
    }
}

/// The server reads one number with one unit.
fn millis(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

fn kv_cache_name(kind: KvCacheType) -> String {
    match kind {
        KvCacheType::F16 => "f16",
        KvCacheType::Q8 => "q8",
    }
    .to_owned()
}

fn windlass(owner: &ValidatedModelDeployment, settings: &Settings, flags: &[(&str, Option<String>)]) -> Container {
    let mut args = Vec::new();
    let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    flag("model", owner.model_path());
    flag("listen", format!("[::]:{}", owner.port()));
    flag("served-name", owner.served_name.clone());
    if let Some(threads) = resources::threads(owner, settings) {
        flag("threads", threads.to_string());
    }
    for (name, value) in flags {
        if let Some(value) = value {
            flag(name, value.clone());
        }
    }
    let drain = owner.grace_seconds - PRE_STOP_SECONDS - DRAIN_MARGIN_SECONDS;
    args.extend(["--drain-timeout".to_owned(), format!("{drain}s")]);
    let probes = &owner.probes;
    Container {
        image: Some(settings.server_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(args),
        env: (!owner.env.is_empty()).then(|| owner.env.clone()),
        // The last lines of the log name the reason of a crash; they hold no secret of the user's.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        startup_probe: Some(probe("/health/live", probes.startup.as_ref(), STARTUP)),
        liveness_probe: Some(probe("/health/live", probes.liveness.as_ref(), (10, 3))),
        // The server is ready once its engine has produced a token, or a vector.
        readiness_probe: Some(probe("/health/ready", probes.readiness.as_ref(), (2, 2))),
        volume_mounts: Some(mounts(owner)),
        ..Container::default()
    }
}

/// The path of a Custom runtime's own probes.
pub fn health_path(custom: &Custom) -> &str {
    custom.probe_path.as_deref().unwrap_or("/health")
}

fn custom_runtime(owner: &ValidatedModelDeployment, custom: &Custom) -> Container {
    let path = health_path(custom);
    let mut volume_mounts = mounts(owner);
    if custom.shm_size.is_some() {
        volume_mounts.push(mount("shm", "/dev/shm", None));
    }
    let theirs = &owner.env;
    let ours = [
        ("WINDLASS_MODEL_PATH", owner.model_path()),
        ("WINDLASS_SERVED_NAME", owner.served_name.clone()),
        ("HOME", "/tmp".to_owned()),
    ];
    let is_theirs = |name: &str| theirs.iter().any(|variable| variable.name == name);
    let mut environment: Vec<EnvVar> = ours
        .into_iter()
        .filter(|(name, _)| !is_theirs(name))
        .map(|(name, value)| EnvVar {
            name: name.to_owned(),
            value: Some(value),
            ..EnvVar::default()
        })
        .collect();
    environment.extend(theirs.iter().cloned());
    let probes = &owner.probes;

    Container {
        image: Some(custom.image.clone()),
        command: custom.command.clone(),
        args: custom.args.clone(),
        env: Some(environment),
        startup_probe: Some(probe(path, probes.startup.as_ref(), STARTUP)),
        liveness_probe: Some(probe(path, probes.liveness.as_ref(), (10, 6))),
        readiness_probe: Some(probe(path, probes.readiness.as_ref(), (5, 2))),
        volume_mounts: Some(volume_mounts),
        ..Container::default()
    }
}

fn security(owner: &ValidatedModelDeployment) -> SecurityContext {
    let loosened = &owner.security;
    let mut security = restricted();
    if let Some(user) = loosened.run_as_user {
        security.run_as_user = Some(user);
        security.run_as_non_root = Some(user != 0);
    }
    if let Some(group) = loosened.run_as_group {
        security.run_as_group = Some(group);
    }
    if let Some(read_only) = loosened.read_only_root_filesystem {
        security.read_only_root_filesystem = Some(read_only);
    }
    security
}

/// A probe with the object's timing, or else every so many seconds with so many failures.
fn probe(path: &str, own: Option<&ProbeTiming>, (period, failures): (i32, i32)) -> Probe {
    let own = own.cloned().unwrap_or_default();
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(own.period_seconds.unwrap_or(period)),
        timeout_seconds: Some(own.timeout_seconds.unwrap_or(5)),
        failure_threshold: Some(own.failure_threshold.unwrap_or(failures)),
        ..Probe::default()
    }
}

fn mount(name: &str, path: &str, read_only: Option<bool>) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    }
}

fn mounts(owner: &ValidatedModelDeployment) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount("models", names::MODELS_DIR, Some(true)),
        mount("tmp", "/tmp", None),
    ];
    let theirs = owner.volumes.iter();
    mounts.extend(theirs.map(|volume| mount(&volume.name, &volume.mount_path, None)));
    mounts
}
