//! The container `engine`: the Windlass server, or the user's own program under the same conditions.
use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, EnvVar, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, ResourceRequirements,
        SecurityContext, SleepAction, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use windlass_crds::model_deployment::engine::{Custom, KvCacheType};

use super::pod_template::restricted;
use crate::{
    context::Settings,
    model_deployment::validate::{Engine, ValidatedModelDeployment},
    names,
};

/// Endpoints lag behind a pod's end: requests still arrive for some seconds and must be accepted.
const PRE_STOP_SECONDS: i64 = 5;
/// 5 s x 1440 = 2 h: weights of any size may take their time to load, the rollout's deadline decides.
const STARTUP_PERIOD: i32 = 5;
const STARTUP_FAILURES: i32 = 1440;

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
        resources: Some(resources(owner)),
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
    flag("listen", format!("0.0.0.0:{}", owner.port()));
    flag("served-name", owner.served_name.clone());
    if let Some(threads) = owner.threads {
        flag("threads", threads.to_string());
    }
    for (name, value) in flags {
        if let Some(value) = value {
            flag(name, value.clone());
        }
    }
    Container {
        image: Some(settings.server_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(args),
        security_context: Some(restricted()),
        // The last lines of the log name the reason of a crash; they hold no secret of the user's.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        startup_probe: Some(probe("/health/live", STARTUP_PERIOD, STARTUP_FAILURES)),
        liveness_probe: Some(probe("/health/live", 10, 3)),
        // The server is ready once its engine has produced a token, or a vector.
        readiness_probe: Some(probe("/health/ready", 2, 2)),
        volume_mounts: Some(mounts()),
        ..Container::default()
    }
}

/// The path of a Custom runtime's own probes.
pub fn health_path(custom: &Custom) -> &str {
    custom.probe_path.as_deref().unwrap_or("/health")
}

fn custom_runtime(owner: &ValidatedModelDeployment, custom: &Custom) -> Container {
    let path = health_path(custom);
    let mut volume_mounts = mounts();
    if custom.shm_size.is_some() {
        volume_mounts.push(mount("shm", "/dev/shm", None));
    }
    for volume in custom.volumes.iter().flatten() {
        volume_mounts.push(mount(&volume.name, &volume.mount_path, None));
    }
    let theirs = custom.env.clone().unwrap_or_default();
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
    environment.extend(theirs);

    Container {
        image: Some(custom.image.clone()),
        command: custom.command.clone(),
        args: custom.args.clone(),
        env: Some(environment),
        security_context: Some(custom_security(custom)),
        startup_probe: Some(probe(path, STARTUP_PERIOD, STARTUP_FAILURES)),
        liveness_probe: Some(probe(path, 10, 6)),
        readiness_probe: Some(probe(path, 5, 2)),
        volume_mounts: Some(volume_mounts),
        ..Container::default()
    }
}

fn custom_security(custom: &Custom) -> SecurityContext {
    let loosened = custom.security_context.clone().unwrap_or_default();
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

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
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

fn mounts() -> Vec<VolumeMount> {
    vec![
        mount("models", names::MODELS_DIR, Some(true)),
        mount("tmp", "/tmp", None),
    ]
}

/// Memory is reserved and limited alike, a processor only reserved (a throttled engine answers late),
/// extended resources are always both.
fn resources(owner: &ValidatedModelDeployment) -> ResourceRequirements {
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    if let Some(cpu) = &owner.cpu {
        requests.insert("cpu".to_owned(), cpu.clone());
    }
    if let Some(memory) = &owner.memory {
        requests.insert("memory".to_owned(), memory.clone());
        limits.insert("memory".to_owned(), memory.clone());
    }
    if let Some(accelerator) = &owner.accelerator {
        let count = Quantity(accelerator.count.to_string());
        requests.insert(accelerator.resource.clone(), count.clone());
        limits.insert(accelerator.resource.clone(), count);
    }
    let non_empty = |map: BTreeMap<String, Quantity>| (!map.is_empty()).then_some(map);
    ResourceRequirements {
        requests: non_empty(requests),
        limits: non_empty(limits),
        ..ResourceRequirements::default()
    }
}
