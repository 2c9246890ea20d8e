//! Objects and pods for tests: parsed and validated as the real ones are.
use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::Pod},
    jiff::Timestamp,
};
use serde_json::{Value, json};
use windlass_crds::ModelDeployment;

use super::{
    ModelDeployments, build,
    validate::{ValidatedModelDeployment, validate},
};
use crate::{
    args::DefaultResources,
    context::Settings,
    kind::{
        owner::Owner,
        revision::{Revision, Verdict},
    },
};

pub const SOURCE: &str = "hf://org/repo/model.gguf";
pub const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

pub fn settings() -> Settings {
    Settings {
        server_image: "windlass-server:test".into(),
        registry_image: "windlass-registry:test".into(),
        hub_url: "https://hub.example".into(),
        image_pull_policy: "IfNotPresent".into(),
        product_label: "nvidia.com/gpu.product".into(),
        memory_label: "nvidia.com/gpu.memory".into(),
        operator_namespace: Some("windlass-system".into()),
        client_namespaces: vec![],
        native_sidecars: true,
        platform_users: false,
        image_pull_secrets: vec![],
        image_architectures: vec![],
        https_proxy: None,
        http_proxy: None,
        no_proxy: None,
        ca_config_map: None,
        defaults: DefaultResources::default(),
    }
}

/// `chat` with these members of the spec in addition to the model.
pub fn object(extra: Value) -> ModelDeployment {
    let mut spec = json!({"model": {"source": SOURCE}});
    spec.as_object_mut()
        .expect("object")
        .extend(extra.as_object().expect("object").clone());
    serde_json::from_value(json!({
        "apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "chat", "namespace": "ns", "uid": "owner", "generation": 1}, "spec": spec,
    }))
    .expect("object")
}

pub fn owner(extra: Value) -> ValidatedModelDeployment {
    of(&object(extra))
}

pub fn of(object: &ModelDeployment) -> ValidatedModelDeployment {
    let owner = Owner::of::<ModelDeployments>(object).expect("owner");
    validate(object, owner).expect("valid")
}

pub fn template(owner: &ValidatedModelDeployment) -> Value {
    build::pod_template::build(owner, &settings()).expect("template")
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("time")
}

/// The ControllerRevision of a revision, as the cluster holds it.
pub fn stored(
    owner: &ValidatedModelDeployment,
    number: i64,
    verdict: Verdict,
    started: Option<Timestamp>,
) -> ControllerRevision {
    let revision = Revision {
        id: owner.revision().to_owned(),
        number,
        inputs: owner.inputs.clone(),
        template: template(owner),
        pin_key: owner.pin_key.clone(),
        needs: owner.needs(),
        verdict,
        started,
        deadline: Some(owner.progress_deadline.as_secs()),
        no_surge: None,
    };
    revision.write(&owner.owner)
}

pub fn verified() -> Verdict {
    Verdict::Verified {
        digest: Some(DIGEST.to_owned()),
    }
}

/// A pod of the owner's revision with this status.
pub fn pod(owner: &ValidatedModelDeployment, status: Value) -> Pod {
    let is_scheduled = status["conditions"][0]["type"] != "PodScheduled" || status["conditions"][0]["status"] == "True";
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("chat-model-{}-x", owner.revision()),
            "namespace": "ns",
            "labels": {"windlass.dev/model-deployment": "chat", "windlass.dev/revision": owner.revision()},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "chat-model-abc", "uid": "rs", "controller": true}],
        },
        "spec": {
            "nodeName": is_scheduled.then_some("n1"),
            "containers": [{"name": "engine", "resources": {"limits": {"memory": "2Gi"}}}],
        },
        "status": status,
    }))
    .expect("pod")
}

/// The status of a pod whose init container is in this state.
pub fn fetching(state: Value, last_state: Value) -> Value {
    json!({"phase": "Pending", "podIP": "10.0.0.1", "initContainerStatuses": [
        {"name": "model", "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last_state}]})
}

/// The status of a pod whose model is verified and whose engine is in this state.
pub fn serving(is_ready: bool, state: Value, last_state: Value) -> Value {
    serving_after(3, is_ready, state, last_state)
}

/// As `serving`, after so many restarts of the engine.
pub fn serving_after(restarts: i32, is_ready: bool, state: Value, last_state: Value) -> Value {
    let report = json!({"phase": "Verified", "model": {"digest": DIGEST, "sizeBytes": 10, "format": "GGUF", "architecture": "llama"}});
    json!({
        "phase": "Running",
        "podIP": "127.0.0.1",
        "conditions": [{"type": "Ready", "status": if is_ready { "True" } else { "False" }}],
        "initContainerStatuses": [{"name": "model", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "message": report.to_string()}}}],
        "containerStatuses": [{"name": "engine", "image": "", "imageID": "", "ready": is_ready, "restartCount": restarts,
            "state": state, "lastState": last_state}],
    })
}

pub fn ready(owner: &ValidatedModelDeployment) -> Pod {
    pod(owner, serving(true, json!({"running": {}}), json!({})))
}

/// A pod whose engine ended so often that its revision counts as failed.
pub fn crashed(owner: &ValidatedModelDeployment) -> Pod {
    crashed_times(owner, 3)
}

/// A pod whose engine ended so many times.
pub fn crashed_times(owner: &ValidatedModelDeployment, times: i32) -> Pod {
    pod(
        owner,
        serving_after(
            times,
            false,
            json!({"waiting": {"reason": "CrashLoopBackOff"}}),
            json!({"terminated": {"exitCode": 3, "reason": "Error", "message": "bad magic"}}),
        ),
    )
}
