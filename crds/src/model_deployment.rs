//! `ModelDeployment`: one model, served under one name by a number of equal pods.
//!
//! Every field is permanent once released. Optional fields stay absent when they are not given: the
//! schema has no defaults, each field's description says what it defaults to.
use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod engine;
pub mod model;
pub mod placement;
pub mod resources;
pub mod source;
pub mod status;
pub mod validate;

use engine::Engine;
use model::Model;
use placement::Placement;
use resources::Resources;
use status::ModelDeploymentStatus;

use crate::{conditions::condition, schema::Contract};

/// Serves one model behind an OpenAI-compatible endpoint.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "windlass.dev",
    version = "v1alpha1",
    kind = "ModelDeployment",
    plural = "modeldeployments",
    shortname = "wmd",
    category = "windlass",
    namespaced,
    cel,
    derive = "PartialEq",
    status = "ModelDeploymentStatus",
    doc = "A ModelDeployment serves one model behind an OpenAI-compatible endpoint.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label that begins with a letter and has at most 40 characters, because the names of its Service and pods are derived from it"),
    validation = Rule::new("(has(self.spec.engine) && has(self.spec.engine.custom)) || self.spec.model.source.startsWith('pvc://') || (has(self.spec.model.task) && self.spec.model.task == 'Embed') == self.spec.model.source.matches('^hf://[^/]+/[^/]+$')")
        .message("the Windlass runtime serves whole repositories (hf://org/repo) with task: Embed and GGUF files with task: Generate; correct model.source or model.task"),
    validation = Rule::new("!(has(self.spec.model.task) && self.spec.model.task == 'Embed' && has(self.spec.engine)) || !(has(self.spec.engine.contextLength) || has(self.spec.engine.maxSequences) || has(self.spec.engine.maxBatchTokens) || has(self.spec.engine.stepTime) || has(self.spec.engine.speculativeTokens) || has(self.spec.engine.kvCache))")
        .message("contextLength, maxSequences, maxBatchTokens, stepTime, speculativeTokens and kvCache have no effect with task: Embed; remove them"),
    validation = Rule::new("!(has(self.spec.scaling) && has(self.spec.scaling.mode) && self.spec.scaling.mode == 'External' && has(self.spec.replicas))")
        .message("replicas must be left out with scaling.mode: External, where an autoscaler decides it"),
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas.current", label_selector_path = ".status.selector"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Replicas", type_ = "string", json_path = ".status.replicas.summary"),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model.source"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.model.digest", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentSpec {
    /// Stops all pods and keeps everything else. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,

    /// Which model is served.
    pub model: Model,

    /// What serves it. Defaults to the Windlass engine with the model's own limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,

    /// What each pod requests of its node. Defaults to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// On which nodes the pods may run. Defaults to any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,

    /// An existing ServiceAccount for the pods; its token is not mounted. Defaults to one of the object's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,

    /// Secrets with registry credentials for the images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Option<Vec<LocalReference>>,

    /// Labels of the pods in addition to Windlass' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema_of_labels")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('windlass.dev/') && !k.startsWith('app.kubernetes.io/'))")
        .message("podLabels must not set windlass.dev/ or app.kubernetes.io/ keys, they belong to Windlass; choose another prefix"))]
    pub pod_labels: Option<BTreeMap<String, String>>,

    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema_of_annotations")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('windlass.dev/'))")
        .message("podAnnotations must not set windlass.dev/ keys, they belong to Windlass; choose another prefix"))]
    pub pod_annotations: Option<BTreeMap<String, String>>,

    /// How long a pod may take to end, in seconds: 5 until no new requests arrive, then requests that run may finish until
    /// 10 before the end. Defaults to 75.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 20, max = 86_400))]
    pub termination_grace_period_seconds: Option<i32>,

    /// Number of pods. Defaults to 1. `kubectl scale` and a HorizontalPodAutoscaler whose target is the ModelDeployment
    /// write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    #[x_kube(validation = Rule::new("self >= 1").message("replicas must be at least 1; set spec.suspend to true to stop all pods"))]
    pub replicas: Option<i32>,

    /// Who decides the number of pods. Defaults to `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,

    /// How a change reaches the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// Who decides the number of pods.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Defaults to Fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ScalingMode>,
}

/// Who decides the number of pods: Fixed for `spec.replicas`, External for an autoscaler whose target is the Deployment
/// `<name>-model`. Defaults to Fixed.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalingMode {
    /// `spec.replicas`.
    Fixed,
    /// An autoscaler (HorizontalPodAutoscaler, KEDA) whose target is the Deployment `<name>-model`: Windlass starts with one
    /// pod and does not write the number again, except for `suspend`. An autoscaler may go to zero.
    External,
}

/// The name of an object in the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct LocalReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How a change reaches the pods.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// How a new revision replaces the one before it. Defaults to Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,

    /// How long a new revision may take until it is verified before it counts as failed and the last verified
    /// revision returns. A model download that makes progress extends it; a new value gives a failed revision another
    /// try. A duration such as `45m` or `1h30m`. Defaults to 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+h)?([0-9]+m)?([0-9]+s)?$')")
        .message("progressDeadline must be a duration of hours, minutes and seconds, for example 45m or 1h30m"))]
    pub progress_deadline: Option<String>,
}

/// How a new revision replaces the one before it. Surge starts one pod more than desired and ends an old one when the new
/// one is ready. Recreate ends all old pods before new ones start: requests fail in between. Auto is Surge until pods
/// of the new revision could not be placed for 60 seconds because nodes, a quota or a volume have no room for both
/// revisions: then one old pod at a time ends before a new one starts, until the next edit. Defaults to Auto.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Surge, until pods of the new revision could not be placed for 60 seconds because nodes, a quota or a volume have no
    /// room for both revisions: then one pod of the old revision gives way at a time, until the next edit.
    Auto,
    /// One pod more than desired is started, and an old one ends when the new one is ready.
    Surge,
    /// All old pods end before new ones start: requests fail in between.
    Recreate,
}

/// The condition types of a ModelDeployment, in the order in which people read them.
pub const CONDITIONS: &[&str] = &[
    condition::READY,
    condition::RECONCILING,
    condition::STALLED,
    condition::AVAILABLE,
    condition::ACCEPTED,
    condition::RESOLVED_REFS,
    condition::MODEL_VERIFIED,
    condition::SCHEDULED,
];

impl Contract for ModelDeployment {
    const EMBEDDED: &'static [&'static str] = &[
        "/properties/placement/properties/tolerations/items",
        "/properties/placement/properties/affinity",
        "/properties/placement/properties/topologySpreadConstraints/items",
        "/properties/engine/properties/env/items",
    ];
}

fn schema_of_labels(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    // 63 is the length of a label value.
    schemars::json_schema!({"type": "object", "maxProperties": 32, "additionalProperties": {"type": "string", "maxLength": 63}})
}

fn schema_of_annotations(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "maxProperties": 32, "additionalProperties": {"type": "string", "maxLength": 4096}})
}
