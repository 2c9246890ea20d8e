//! `spec.engine`: the program that serves the model, ours or one of the user's.
//!
//! Ranges lie within those of windlass-server's flags: `serving/server/src/args/schema.rs` compares them.
use k8s_openapi::api::core::v1::EnvVar;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LocalReference;
use crate::quantity::Amount;

/// What serves the model.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.runtime) && self.runtime == 'Custom') == has(self.custom)")
        .message("custom goes with runtime: Custom; set both or neither"),
    validation = Rule::new("!has(self.custom) || !(has(self.contextLength) || has(self.maxSequences) || has(self.maxBatchTokens) || has(self.stepTime) || has(self.speculativeTokens) || has(self.kvCache))")
        .message("contextLength, maxSequences, maxBatchTokens, stepTime, speculativeTokens and kvCache belong to the Windlass runtime; give a Custom runtime its own flags in custom.args"),
    validation = Rule::new("!has(self.maxBatchTokens) || self.maxBatchTokens >= (has(self.maxSequences) ? self.maxSequences : 32)")
        .message("maxBatchTokens must be at least maxSequences (32 if it is not set), so that every running request moves in every step"),
    validation = Rule::new("!has(self.volumes) || self.volumes.all(v, self.volumes.exists_one(w, w.mountPath == v.mountPath))")
        .message("each of engine.volumes needs a mountPath of its own"),
    validation = Rule::new("!has(self.env) || self.env.all(e, !e.name.startsWith('WINDLASS_'))")
        .message("engine.env must not set WINDLASS_ variables, they belong to Windlass")
)]
pub struct Engine {
    /// The program. Defaults to Windlass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,

    /// The container of a Custom runtime. It finds the model at `$WINDLASS_MODEL_PATH` and must
    /// listen on `port`. Its pod is ready once the runtime has answered the request of `custom.verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Custom>,

    /// Longest prompt plus answer, in tokens. Defaults to what the model was trained for, as far as memory allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16_777_216))]
    pub context_length: Option<i64>,

    /// Requests that run at the same time in one pod. Defaults to what the engine chooses from the memory it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_sequences: Option<i32>,

    /// Tokens that one step of the engine may process, at least maxSequences. Defaults to 512, or to maxSequences if that
    /// is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_batch_tokens: Option<i64>,

    /// Target duration of a step of the engine while requests are decoded: prompts are prefilled in chunks that fit into
    /// it, which bounds the inter-token latency. Where decoding alone takes more than a third of it, the target is three
    /// times what decoding takes. `0s` sets no limit; the maximum is `1m`. A duration such as `40ms` or `1s500ms`.
    /// Defaults to 16ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$')")
        .message("stepTime must be a duration of minutes, seconds and milliseconds, for example 40ms or 1s500ms"))]
    pub step_time: Option<String>,

    /// Draft tokens of one sequence in one step, at most: prompt-lookup speculation, used while few requests are decoded.
    /// Every draft token is verified, so outputs do not change; they come faster where the output repeats the prompt or
    /// itself (edited code, quotations), and slightly slower elsewhere. 0 turns speculation off. Defaults to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 7))]
    pub speculative_tokens: Option<i32>,

    /// How the KV cache is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<KvCache>,

    /// Environment of the program, whichever the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Option<Vec<EnvVar>>,

    /// More files for the program, whichever the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub volumes: Option<Vec<EngineVolume>>,

    /// User and root filesystem of the program's container. Defaults to the restricted Pod Security profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<EngineSecurity>,

    /// How often the kubelet asks whether the program started, lives and is ready, and how many failures it tolerates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
}

/// How often the kubelet probes the program. What is asked is fixed: `custom.probePath`, or the health of the Windlass
/// engine.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Probes {
    /// Until the program has started. Defaults to every 5 seconds, 1440 times: 2 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<ProbeTiming>,
    /// While it runs; after too many failures its container is restarted. Defaults to every 10 seconds, 3 times with the
    /// Windlass runtime and 6 times with a Custom one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<ProbeTiming>,
    /// While it runs; after too many failures it gets no requests. Defaults to every 2 seconds with the Windlass runtime
    /// and every 5 seconds with a Custom one, 2 times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<ProbeTiming>,
}

/// How often a probe is sent, and how many failures it tolerates.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ProbeTiming {
    /// Seconds between two probes. Defaults to what the probe's own description says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 300))]
    pub period_seconds: Option<i32>,
    /// Seconds after which a probe without an answer has failed. Defaults to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 60))]
    pub timeout_seconds: Option<i32>,
    /// Failures in a row that count. Defaults to what the probe's own description says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub failure_threshold: Option<i32>,
}

/// How the KV cache is stored.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KvCache {
    /// Element type of the keys and values. Defaults to F16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<KvCacheType>,
}

/// Element type of the KV cache. Q8 (8-bit integers, 32 of which share a scale) takes 9/16 of the memory of F16, so that
/// more and longer requests fit, and is less exact, by how much depends on the model. The head size must be a multiple
/// of 32. Defaults to F16.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvCacheType {
    /// 16-bit floats.
    F16,
    /// 8-bit integers, 32 of which share a scale.
    Q8,
}

/// The program that serves the model: Windlass, or Custom for the container image in `custom`. Defaults to Windlass.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// The engine of Windlass.
    Windlass,
    /// A container image of the user's choice.
    Custom,
}

/// The container of a Custom runtime.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Custom {
    /// The container image.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,

    /// Replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub command: Option<Vec<String>>,

    /// Arguments of the program; `$(WINDLASS_MODEL_PATH)` and `$(WINDLASS_SERVED_NAME)` are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(max = 4096)))]
    pub args: Option<Vec<String>>,

    /// The port on which the program serves HTTP. Defaults to 8000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    #[x_kube(validation = Rule::new("self != 8081 && self != 8082").message("ports 8081 and 8082 report the model's download and the verification; choose another"))]
    pub port: Option<i32>,

    /// The path that answers 200 while the program can take requests; liveness and readiness use it. Defaults to /health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^/[!-~]*$')").message("probePath must be a path that begins with /, for example /health"))]
    pub probe_path: Option<String>,

    /// Size of the shared memory at /dev/shm. Defaults to the container runtime's own size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<Amount>,

    /// The request that the program must answer before its pod is ready. Defaults to the request of the model's task:
    /// a completion of one token, or an embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
}

/// The request that a Custom runtime must answer before its pod is ready. It is sent within the pod; a busy answer (429,
/// or 503 with Retry-After) is tried again, five other failures in a row restart the verification and, where an
/// earlier revision is verified, roll back to it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.type) && self.type == 'Request') == has(self.request)")
        .message("request goes with type: Request; set both or neither"),
    validation = Rule::new("!has(self.type) || self.type != 'None' || !(has(self.timeout) || has(self.keySecretRef))")
        .message("timeout and keySecretRef have no effect with type: None; remove them, or choose another type")
)]
pub struct Verify {
    /// Which request. Defaults to Completion, or to Embedding with task Embed.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<VerifyKind>,

    /// The request of type Request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<VerifyRequest>,

    /// How long one answer may take; a runtime that compiles kernels at its first request may need minutes. A duration
    /// such as `90s` or `10m`, at most 1h. Defaults to 2m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+h)?([0-9]+m)?([0-9]+s)?$')")
        .message("verify.timeout must be a duration of hours, minutes and seconds, for example 90s or 10m"))]
    pub timeout: Option<String>,

    /// A Secret of this namespace whose key `key` is sent as bearer token with the request. Only the pod reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret_ref: Option<LocalReference>,
}

/// Which request. Completion, Chat, Embedding and Rerank send the smallest request to `/v1/completions`,
/// `/v1/chat/completions`, `/v1/embeddings` and `/v1/rerank`, and check the answer's content; Request sends `request`,
/// whose status decides; with None the pod is ready as soon as `probePath` answers 200. Defaults to Completion, or to
/// Embedding with task Embed.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyKind {
    /// `POST /v1/completions` for one token; the answer must hold a choice.
    Completion,
    /// `POST /v1/chat/completions` for one token; the answer must hold a message.
    Chat,
    /// `POST /v1/embeddings`; the answer must hold a vector.
    Embedding,
    /// `POST /v1/rerank`; the answer must hold results.
    Rerank,
    /// The request of `request`; its status decides.
    Request,
    /// No request: the pod is ready as soon as `probePath` answers 200.
    None,
}

/// A verification request of the user's own.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VerifyRequest {
    /// The path, with its query.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^/[!-~]*$')").message("request.path must be a path that begins with /, for example /v1/score"))]
    pub path: String,

    /// The body, sent by POST as application/json. Defaults to none, which sends GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub body: Option<String>,

    /// The status that a right answer has. Defaults to 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub expect_status: Option<i32>,
}

/// A volume and where the program finds it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.type == 'ConfigMap') == has(self.configMap) && (self.type == 'Secret') == has(self.secret) && (self.type == 'PersistentVolumeClaim') == has(self.persistentVolumeClaim) && (self.type == 'EmptyDir' || !has(self.emptyDir))")
        .message("a volume has exactly the member that its type names: configMap, secret or persistentVolumeClaim (emptyDir may be left out)")
)]
pub struct EngineVolume {
    /// Name of the volume.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("a volume's name must be a DNS label, for example adapters"),
        validation = Rule::new("!(self in ['models', 'tmp', 'shm', 'ca'])").message("the volume names models, tmp, shm and ca belong to Windlass; choose another")
    )]
    pub name: String,

    /// Where the program finds it.
    #[schemars(length(min = 2, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^(/[A-Za-z0-9._-]+)+$') && !self.contains('/..') && !self.matches('^/(models|tmp|dev|proc|sys)(/.*)?$')")
        .message("mountPath must be an absolute path outside /models, /tmp, /dev, /proc and /sys"))]
    pub mount_path: String,

    /// Which member describes the volume.
    #[serde(rename = "type")]
    pub kind: VolumeKind,

    /// An empty directory that lives as long as the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirectory>,

    /// The files of a ConfigMap of this namespace, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<LocalReference>,

    /// The files of a Secret of this namespace, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<LocalReference>,

    /// A claim of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimReference>,
}

/// The kinds of volume that a runtime may have; none of them reaches the node's own files.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeKind {
    /// An empty directory that lives as long as the pod.
    EmptyDir,
    /// The files of a ConfigMap.
    ConfigMap,
    /// The files of a Secret.
    Secret,
    /// A claim.
    PersistentVolumeClaim,
}

/// An empty directory that lives as long as the pod.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirectory {
    /// The pod is evicted when it grows beyond this. Defaults to no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<Amount>,
}

/// A claim of this namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimReference {
    /// Name of the claim.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Mounts it read-only. Defaults to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
}

/// User (0 is root) and root filesystem of the program's container.
/// Capabilities stay dropped and privilege escalation stays off.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EngineSecurity {
    /// Numeric user of the program; 0 is root. Defaults to 65532.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub run_as_user: Option<i64>,
    /// Numeric group of the program. Defaults to 65532.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub run_as_group: Option<i64>,
    /// Mounts the image read-only. Defaults to true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root_filesystem: Option<bool>,
}
