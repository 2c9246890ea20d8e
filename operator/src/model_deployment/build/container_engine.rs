//! The container `engine`: the Windlass server, or the user's own program under the same conditions.
use std::time::Duration;

use serde_json::{Map, Value, json};
use windlass_crds::model_deployment::engine::{Custom, KvCacheType};

use super::pod_template::restricted;
use crate::{
    args::BuildConfig,
    model_deployment::validate::{Engine, ValidatedModelDeployment},
    names,
};

/// Endpoints lag behind a pod's end: requests still arrive for some seconds and must be accepted.
const PRE_STOP_SECONDS: i64 = 5;
/// 5 s x 1440 = 2 h: weights of any size may take their time to load, the rollout's deadline decides.
const STARTUP_PERIOD: i64 = 5;
const STARTUP_FAILURES: i64 = 1440;

/// Builds the container.
pub fn build(owner: &ValidatedModelDeployment, config: &BuildConfig) -> Value {
    let mut container = match &owner.engine {
        Engine::Windlass {
            context_length,
            max_sequences,
            max_batch_tokens,
            step_time,
            speculative_tokens,
            kv_cache_type,
        } => {
            let settings = [
                ("context-length", context_length.map(|n| n.to_string())),
                ("max-sequences", max_sequences.map(|n| n.to_string())),
                ("max-batch-tokens", max_batch_tokens.map(|n| n.to_string())),
                ("step-time", step_time.map(millis)),
                ("speculate", speculative_tokens.map(|n| n.to_string())),
                ("kv-cache-type", kv_cache_type.map(kv_cache_name)),
            ];
            windlass(owner, config, &settings)
        }
        Engine::Custom(custom) => custom_runtime(owner, custom),
    };
    container["name"] = json!(names::CONTAINER_ENGINE);
    container["ports"] = json!([{"name": "http", "containerPort": owner.port(), "protocol": "TCP"}]);
    container["resources"] = resources(owner);
    container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}});
    container
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

fn windlass(owner: &ValidatedModelDeployment, config: &BuildConfig, settings: &[(&str, Option<String>)]) -> Value {
    let mut args = Vec::new();
    let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    flag("model", owner.model_path());
    flag("listen", format!("0.0.0.0:{}", owner.port()));
    flag("served-name", owner.served_name.clone());
    if let Some(threads) = owner.threads {
        flag("threads", threads.to_string());
    }
    for (name, value) in settings {
        if let Some(value) = value {
            flag(name, value.clone());
        }
    }
    json!({
        "image": config.server_image,
        "imagePullPolicy": config.image_pull_policy,
        "args": args,
        "securityContext": restricted(),
        // The last lines of the log name the reason of a crash; they hold no secret of the user's.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "startupProbe": probe("/health/live", STARTUP_PERIOD, STARTUP_FAILURES),
        "livenessProbe": probe("/health/live", 10, 3),
        "readinessProbe": probe("/health/ready", 2, 2),
        "volumeMounts": mounts(),
    })
}

fn custom_runtime(owner: &ValidatedModelDeployment, custom: &Custom) -> Value {
    let path = custom.probe_path.as_deref().unwrap_or("/health");
    let mut volume_mounts = mounts();
    if custom.shm_size.is_some() {
        volume_mounts.push(json!({"name": "shm", "mountPath": "/dev/shm"}));
    }
    for volume in custom.volumes.iter().flatten() {
        volume_mounts.push(json!({"name": volume.name, "mountPath": volume.mount_path}));
    }
    let ours = [
        ("WINDLASS_MODEL_PATH", owner.model_path()),
        ("WINDLASS_SERVED_NAME", owner.served_name.clone()),
        ("HOME", "/tmp".to_owned()),
    ];
    let theirs: Vec<Value> = custom.env.iter().flatten().map(|variable| json!(variable)).collect();
    let is_theirs = |name: &str| theirs.iter().any(|variable| variable["name"] == name);
    let mut environment: Vec<Value> = ours
        .into_iter()
        .filter(|(name, _)| !is_theirs(name))
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    environment.extend(theirs);

    json!({
        "image": custom.image,
        "command": custom.command,
        "args": custom.args,
        "env": environment,
        "securityContext": custom_security(custom),
        "startupProbe": probe(path, STARTUP_PERIOD, STARTUP_FAILURES),
        "livenessProbe": probe(path, 10, 6),
        "readinessProbe": probe(path, 5, 2),
        "volumeMounts": volume_mounts,
    })
}

fn custom_security(custom: &Custom) -> Value {
    let wishes = custom.security_context.clone().unwrap_or_default();
    let mut security = restricted();
    if let Some(user) = wishes.run_as_user {
        security["runAsUser"] = json!(user);
        security["runAsNonRoot"] = json!(user != 0);
    }
    if let Some(group) = wishes.run_as_group {
        security["runAsGroup"] = json!(group);
    }
    if let Some(read_only) = wishes.read_only_root_filesystem {
        security["readOnlyRootFilesystem"] = json!(read_only);
    }
    security
}

fn probe(path: &str, period: i64, failures: i64) -> Value {
    json!({
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    })
}

fn mounts() -> Vec<Value> {
    vec![
        json!({"name": "models", "mountPath": names::MODELS_DIR, "readOnly": true}),
        json!({"name": "tmp", "mountPath": "/tmp"}),
    ]
}

/// Memory is reserved and limited alike, a processor only reserved (a throttled engine answers late),
/// extended resources are always both.
fn resources(owner: &ValidatedModelDeployment) -> Value {
    let mut requests = Map::new();
    let mut limits = Map::new();
    if let Some(cpu) = &owner.cpu {
        requests.insert("cpu".to_owned(), json!(cpu));
    }
    if let Some(memory) = &owner.memory {
        requests.insert("memory".to_owned(), json!(memory));
        limits.insert("memory".to_owned(), json!(memory));
    }
    if let Some(accelerator) = &owner.accelerator {
        let count = json!(accelerator.count.to_string());
        requests.insert(accelerator.resource.clone(), count.clone());
        limits.insert(accelerator.resource.clone(), count);
    }
    let non_empty = |map: Map<String, Value>| (!map.is_empty()).then_some(map);
    json!({"requests": non_empty(requests), "limits": non_empty(limits)})
}
