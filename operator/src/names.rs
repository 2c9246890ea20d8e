//! Every name that Windlass writes into a cluster: labels, annotations, field managers, ports. They
//! are part of the contract in ARCHITECTURE.md; selectors can never change.

/// The selector of a ModelDeployment's pods, alone; its value is the object's name.
pub const LABEL_DEPLOYMENT: &str = "windlass.dev/model-deployment";
/// On pods: the revision that they run.
pub const LABEL_REVISION: &str = "windlass.dev/revision";
/// Value of `app.kubernetes.io/managed-by` on all children.
pub const MANAGED_BY: &str = "windlass";

/// On the object: a new value asks for a new rendering of the pods, and retries a failed revision.
pub const ANNOTATION_RESTART: &str = "windlass.dev/restart";
/// On children: hash of what was asked for.
pub const ANNOTATION_INTENT: &str = "windlass.dev/intent";
/// On revisions: `Proven` or `Failed`.
pub const ANNOTATION_VERDICT: &str = "windlass.dev/verdict";
/// On failed revisions: reason and message.
pub const ANNOTATION_FAILURE: &str = "windlass.dev/failure";
/// On proven revisions: digest of the model that answered.
pub const ANNOTATION_DIGEST: &str = "windlass.dev/digest";
/// On the wanted revision: since when it is being rolled out (RFC 3339).
pub const ANNOTATION_STARTED: &str = "windlass.dev/rollout-started";

/// Owns everything that Windlass writes but the number of replicas.
pub const MANAGER: &str = "windlass";
/// Owns the number of replicas.
pub const MANAGER_SCALE: &str = "windlass-scale";

/// The container that fetches or checks the model.
pub const CONTAINER_MODEL: &str = "model";
/// The container that serves it.
pub const CONTAINER_ENGINE: &str = "engine";
/// Port of the engine and of the Service.
pub const PORT_HTTP: i32 = 8000;
/// Port on which the init container reports its progress.
pub const PORT_PROGRESS: i32 = 8081;
/// Where the model's volume is mounted.
pub const MODELS_DIR: &str = "/models";
/// Key of the bearer token in the Secret that `credentialsSecretRef` names.
pub const TOKEN_KEY: &str = "token";
