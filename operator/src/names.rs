//! Every name that Windlass writes into a cluster: labels, annotations, field managers, ports. They
//! are part of the contract in ARCHITECTURE.md; selectors can never change.

/// Labels and annotations of ours begin with it.
pub const PREFIX: &str = "windlass.dev/";
/// On pods and revisions: the revision.
pub const LABEL_REVISION: &str = "windlass.dev/revision";
/// On all children and pods; its value is `MANAGED_BY`. What the watches select.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of `LABEL_MANAGED_BY`.
pub const MANAGED_BY: &str = "windlass";

/// On the object: a new value renders the pods anew, resolves the model's revision anew, and retries a failed revision.
pub const ANNOTATION_RESTART: &str = "windlass.dev/restart";
/// On children: hash of what was applied.
pub const ANNOTATION_INTENT: &str = "windlass.dev/intent";
/// On revisions: `Verified` or `Failed`.
pub const ANNOTATION_VERDICT: &str = "windlass.dev/verdict";
/// On failed revisions: reason and message.
pub const ANNOTATION_FAILURE: &str = "windlass.dev/failure";
/// On verified revisions: digest of the model that answered.
pub const ANNOTATION_DIGEST: &str = "windlass.dev/digest";
/// On the desired revision: since when it is being rolled out, or since when its deadline counts (RFC 3339).
pub const ANNOTATION_STARTED: &str = "windlass.dev/rollout-started";
/// On the desired revision: the deadline in seconds that its verdict rests on.
pub const ANNOTATION_DEADLINE: &str = "windlass.dev/progress-deadline";
/// On the desired revision: why its pods replace others without surge.
pub const ANNOTATION_NO_SURGE: &str = "windlass.dev/no-surge";

/// Where the init container finds the certificate authorities of the operator's `--ca-config-map`.
pub const CA_DIR: &str = "/etc/windlass/ca";
/// Owns everything that Windlass writes but the number of replicas.
pub const MANAGER: &str = "windlass";
/// Owns the number of replicas.
pub const MANAGER_SCALE: &str = "windlass-scale";

/// The container that fetches or checks the model.
pub const CONTAINER_MODEL: &str = "model";
/// The container that serves it.
pub const CONTAINER_ENGINE: &str = "engine";
/// The container that verifies a Custom runtime.
pub const CONTAINER_VERIFY: &str = "verify";
/// Port of the engine and of the Service.
pub const PORT_HTTP: i32 = 8000;
/// Port on which the init container reports its progress.
pub const PORT_PROGRESS: i32 = 8081;
/// Port on which the verification of a Custom runtime reports, and has its readiness probe.
pub const PORT_VERIFY: i32 = 8082;
/// Where the model's volume is mounted.
pub const MODELS_DIR: &str = "/models";
/// Key of the bearer token in the Secret that `credentialsSecretRef` names.
pub const TOKEN_KEY: &str = "token";
/// Key of the bearer token in the Secret that `verify.keySecretRef` names.
pub const RUNTIME_KEY: &str = "key";
