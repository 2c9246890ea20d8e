//! The init container `model`: it fills the volume with a verified file, or checks the one on a claim,
//! and reports while it works and when it ends.
use serde_json::{Value, json};
use windlass_crds::source::Source;

use super::pod_template::restricted;
use crate::{args::BuildConfig, model_deployment::validate::ValidatedModelDeployment, names};

/// Builds the init container.
pub fn build(owner: &ValidatedModelDeployment, config: &BuildConfig) -> Value {
    let mut args: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: &str| args.extend([format!("--{name}"), value.to_owned()]);
    let verb = match &owner.source {
        Source::Hub { repository, path } => {
            flag("source", &format!("hf://{repository}/{path}"));
            flag("revision", owner.source_revision.as_deref().unwrap_or("main"));
            flag("hub-url", &config.hub_url);
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
    flag("progress-listen", &format!("0.0.0.0:{}", names::PORT_PROGRESS));
    flag("report", "/dev/termination-log");
    args.insert(0, verb.to_owned());

    json!({
        "name": names::CONTAINER_MODEL,
        "image": config.registry_image,
        "imagePullPolicy": config.image_pull_policy,
        "args": args,
        "env": environment(owner),
        "ports": [{"name": "progress", "containerPort": names::PORT_PROGRESS, "protocol": "TCP"}],
        // It streams: what it needs does not grow with the model.
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": restricted(),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "models", "mountPath": names::MODELS_DIR, "readOnly": (!owner.source.is_remote()).then_some(true)},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    })
}

fn environment(owner: &ValidatedModelDeployment) -> Vec<Value> {
    let mut variables = Vec::new();
    if owner.digest.is_none() {
        let pin = json!({"name": owner.pins_name(), "key": owner.pin_key, "optional": true});
        variables.push(json!({"name": "WINDLASS_PINNED_DIGEST", "valueFrom": {"configMapKeyRef": pin}}));
    }
    if let Some(secret) = &owner.token_secret {
        let token = json!({"name": secret, "key": names::TOKEN_KEY});
        variables.push(json!({"name": "WINDLASS_SOURCE_TOKEN", "valueFrom": {"secretKeyRef": token}}));
    }
    variables
}
