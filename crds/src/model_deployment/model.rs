//! `spec.model`: where the weights come from and under which name they answer.
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LocalReference;

/// Which model is served.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.source.startsWith('hf://') || !has(self.revision)")
        .message("revision belongs to hf:// sources; remove it, or pin the file with digest"),
    validation = Rule::new("!self.source.startsWith('pvc://') || !has(self.credentialsSecretRef)")
        .message("a pvc:// source needs no credentials; remove credentialsSecretRef")
)]
pub struct Model {
    /// One GGUF file: `hf://org/repo/path/file.gguf` (a model hub), `https://host/path/file.gguf`,
    /// or `pvc://claim/path/file.gguf` (a PersistentVolumeClaim of this namespace, already filled).
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("self.matches('^(hf://[A-Za-z0-9._+=,-]+/[A-Za-z0-9._+=,-]+(/[A-Za-z0-9._+=,-]+)+|https://[A-Za-z0-9.:\\\\[\\\\]-]+/[!-\"$-~]+|pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[A-Za-z0-9._+=,-]+)+)$')")
            .message("source must name one file: hf://org/repo/path/file.gguf, https://host/path/file.gguf or pvc://claim/path/file.gguf; a token goes into the Secret named by credentialsSecretRef"),
        validation = Rule::new("self.startsWith('https://') || !self.matches('/[.][.]?(/|$)')")
            .message("source must not contain the path segments . or ..; write the path out")
    )]
    pub source: String,

    /// Branch, tag or commit of an `hf://` source. A branch or tag is resolved to a commit once, and that commit is kept until the
    /// annotation `windlass.dev/restart` gets a new value. Defaults to `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._/-]*$') && !self.contains('..') && !self.contains('//')")
        .message("revision must be a branch, tag or commit of the repository, for example main"))]
    pub revision: Option<String>,

    /// Pins the file: `sha256:` and 64 hex digits. Defaults to the digest of the first fetch, which is recorded and kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')")
        .message("digest must be sha256: followed by 64 lower-case hex digits, as sha256sum prints them"))]
    pub digest: Option<String>,

    /// A Secret of this namespace whose key `token` is sent as bearer token to the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<LocalReference>,

    /// The model's name in requests. Defaults to the object's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9._:/-]*[A-Za-z0-9])?$')")
        .message("servedName may have letters, digits and . _ : / - inside, for example chat-small"))]
    pub served_name: Option<String>,

    /// What the model does. Defaults to Generate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
}

/// What the model does. Generate completes text and chats. Defaults to Generate.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Completes text and chats.
    Generate,
}
