//! What the init step of a model pod reports: as its termination message (at most 4,096 bytes, the
//! kubelet's limit) and, while it works, at `GET /progress`. The operator reads both.
use serde::{Deserialize, Serialize};

/// The state of one model download or verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchReport {
    /// How far it came.
    pub phase: FetchPhase,
    /// Bytes on disk so far.
    #[serde(default)]
    pub received_bytes: u64,
    /// Size of the whole file, once the source has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Why it ended, when `phase` is `Failed`; in other phases what the last attempt met, until one does better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FetchError>,
    /// Set when `phase` is `Verified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelFacts>,
}

/// The phases of a fetch, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchPhase {
    /// The source is asked for the file's size and digest.
    Resolving,
    /// Bytes are coming.
    Downloading,
    /// The digest is being computed, the header read.
    Verifying,
    /// The file is complete and is what was asked for.
    Verified,
    /// It ended without a usable file; `error` says why.
    Failed,
}

/// Why a fetch failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchError {
    /// A closed list; the operator maps each to a condition.
    pub reason: FetchFailure,
    /// One sentence with the next action; never a secret, never a URL with credentials.
    pub message: String,
}

/// The closed list of reasons for which a fetch fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchFailure {
    /// The source string does not parse, its scheme is not supported, or what it names is refused (pickles, code).
    InvalidSource,
    /// 404, or no such file on the volume.
    NotFound,
    /// 401 or 403, without credentials having been sent.
    CredentialsRequired,
    /// 401 or 403, although credentials were sent.
    CredentialsRejected,
    /// The server could not be reached, stalled, or answered 5xx, also after retries.
    SourceUnavailable,
    /// The content is not what `digest` or the recorded digest demands.
    DigestMismatch,
    /// Shorter or longer than announced, not a well-formed model file, or a listing with names that leave its folder.
    InvalidFile,
    /// The volume is full, or smaller than the announced size.
    NoSpace,
    /// Reading or writing the volume failed.
    Io,
}

/// What a verified model says about itself (GGUF header, or config.json and safetensors heads), for the status of its object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelFacts {
    /// `sha256:` and 64 hex digits of the file; of several files the SHA-256 of their manifest, the sorted lines
    /// `sha256:<hex>  <size>  <path>`.
    pub digest: String,
    /// The commit of the hub's repository from which the file was fetched, 40 hex digits; absent for other sources and
    /// for hubs that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Bytes of the file, or of all files.
    pub size_bytes: u64,
    /// `GGUF`, or `safetensors` for a folder.
    pub format: String,
    /// `general.architecture`, for example `llama`, or the first of `architectures` in config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Number of weights, summed over the tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Name of `general.file_type`, for example `Q4_K_M`, or `quant_method` of config.json; else the tensor type that
    /// takes the most bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// `<architecture>.context_length`, or `max_position_embeddings`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// `general.license`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}
