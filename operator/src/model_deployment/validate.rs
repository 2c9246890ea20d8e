//! From an object as the cluster holds it to one that can be built: parsed once, all problems at
//! once. Pure. Later stages never reach back into the spec.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Affinity, EnvVar, Toleration, TopologySpreadConstraint};
use kube::ResourceExt;
use serde_json::json;
use windlass_crds::{
    ModelDeployment,
    model_deployment::{
        self as spec, ScalingMode,
        engine::{Custom, EngineSecurity, EngineVolume, KvCacheType, Probes, VerifyKind},
        model::Task,
        resources::{Accelerator, Resources},
        source::Source,
        validate,
    },
    schema,
};

use crate::{
    fingerprint,
    kind::{
        Problems,
        children::{DEFAULT_REPLICAS, Replicas},
        owner::Owner,
        rollout::Strategy,
    },
    names,
};

/// Labels of accelerators give memory in MiB; vendors subtract what the device reserves. Of 24,576 MiB an L4
/// shows 23,034 and an A10 22,731, which is 92.5 %: 92 % of what was asked for is enough.
const MEMORY_ENOUGH_PERCENT: u128 = 92;

/// preStop (5 s), then what the server's drain waits for running requests (60 s), then a margin.
/// A namespace with pods is looked at 5 s after its deletion, 5 s later, and then only after half of their
/// grace: with 75 s an idle model's namespace is gone after 10 + 38 s and a few for the way through all kinds,
/// and a minute is what people wait.
const DEFAULT_GRACE_SECONDS: i64 = 75;

/// A ModelDeployment that can be built.
#[derive(Debug, Clone)]
pub struct ValidatedModelDeployment {
    pub owner: Owner,
    pub source: Source,
    /// Branch, tag or commit; `hf://` sources only.
    pub source_revision: Option<String>,
    pub digest: Option<String>,
    /// Files of a whole repository that are fetched, and that are not.
    pub allow_patterns: Vec<String>,
    pub ignore_patterns: Vec<String>,
    pub token_secret: Option<String>,
    pub served_name: String,
    pub engine: Engine,
    /// What the engine's container has whichever the runtime.
    pub env: Vec<EnvVar>,
    pub volumes: Vec<EngineVolume>,
    pub security: EngineSecurity,
    pub probes: Probes,
    pub resources: Resources,
    pub accelerator: Option<ValidatedAccelerator>,
    pub placement: Placement,
    pub service_account: Option<String>,
    pub image_pull_secrets: Vec<String>,
    pub pod_labels: BTreeMap<String, String>,
    pub pod_annotations: BTreeMap<String, String>,
    pub suspended: bool,
    /// Number of pods that shall exist; zero when suspended.
    pub replicas: Replicas,
    /// How long a pod may take to end, in seconds.
    pub grace_seconds: i64,
    pub progress_deadline: Duration,
    pub strategy: Strategy,
    /// What a Custom runtime must answer before its pod is ready; our own server verifies itself.
    pub verification: Option<Verification>,
    /// Hash of everything that the pod template is rendered from, operator settings excepted.
    pub inputs: String,
    /// Key of the resolved digest in the ConfigMap of pins.
    pub pin_key: String,
}

/// The program that serves the model.
#[derive(Debug, Clone)]
pub enum Engine {
    Windlass {
        context_length: Option<i64>,
        max_sequences: Option<i32>,
        max_batch_tokens: Option<i64>,
        step_time: Option<Duration>,
        speculative_tokens: Option<i32>,
        kv_cache_type: Option<KvCacheType>,
    },
    Custom(Box<Custom>),
}

/// Accelerators of each pod.
#[derive(Debug, Clone)]
pub struct ValidatedAccelerator {
    pub resource: String,
    pub count: i32,
    pub products: Vec<String>,
    /// Least value of the memory label, in MiB, tolerance included.
    pub memory_floor_mib: Option<u128>,
}

/// On which nodes the pods may run.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub affinity: Affinity,
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    pub priority_class_name: Option<String>,
    pub runtime_class_name: Option<String>,
}

/// The request that a Custom runtime must answer before its pod is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    pub request: VerificationRequest,
    /// How long one answer may take.
    pub timeout: Duration,
    /// Secret with the runtime's key.
    pub key_secret: Option<String>,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerificationRequest {
    /// The request of a task, as `windlass-registry verify-runtime --task` names it.
    Task(&'static str),
    /// A request of the user's own.
    Own {
        path: String,
        body: Option<String>,
        expect_status: i32,
    },
}

/// A revision needs to reach the model's source, or whatever a Custom runtime reaches.
pub const NEEDS_EGRESS: &str = "egress";
/// A revision runs as the ServiceAccount that is the object's own.
pub const NEEDS_SERVICE_ACCOUNT: &str = "serviceAccount";

impl ValidatedModelDeployment {
    /// The name of the revision that the spec asks for: the beginning of the inputs' hash.
    pub fn revision(&self) -> &str {
        self.inputs.get(..10).unwrap_or(&self.inputs)
    }

    /// Name of the ConfigMap with the resolved digests.
    pub fn pins_name(&self) -> String {
        self.owner.child_for("pins")
    }

    /// Name of the ServiceAccount of the pods.
    pub fn service_account_name(&self) -> String {
        self.service_account.clone().unwrap_or_else(|| self.owner.child())
    }

    /// What the desired revision needs of the children that all revisions share.
    pub fn needs(&self) -> BTreeSet<String> {
        let is_local = matches!(self.source, Source::Claim { .. }) && matches!(self.engine, Engine::Windlass { .. });
        let mut needs = BTreeSet::new();
        if !is_local {
            needs.insert(NEEDS_EGRESS.to_owned());
        }
        if self.service_account.is_none() {
            needs.insert(NEEDS_SERVICE_ACCOUNT.to_owned());
        }
        needs
    }

    /// The port on which the engine's container serves HTTP.
    pub fn port(&self) -> i32 {
        match &self.engine {
            Engine::Windlass { .. } => names::PORT_HTTP,
            Engine::Custom(custom) => custom.port.unwrap_or(names::PORT_HTTP),
        }
    }

    /// Where the engine finds the model: a file, or the folder of a whole repository.
    pub fn model_path(&self) -> String {
        match &self.source {
            Source::Claim { path, .. } => format!("{}/{path}", names::MODELS_DIR),
            Source::Hub { path: None, .. } => format!("{}/repository", names::MODELS_DIR),
            // The parts of a model in several files keep their names: each names the others.
            Source::Hub { path: Some(path), .. } if is_first_of_several(path) => {
                let name = path.rsplit('/').next().unwrap_or(path);
                format!("{}/{name}", names::MODELS_DIR)
            }
            Source::Hub { .. } | Source::Https(_) => format!("{}/model.gguf", names::MODELS_DIR),
        }
    }
}

/// Checks an object against the CRD's own rules and those that CEL cannot say.
///
/// # Errors
/// Every problem at once.
pub fn validate(object: &ModelDeployment, owner: Owner) -> Result<ValidatedModelDeployment, Problems> {
    let as_json = serde_json::to_value(object).map_err(|error| Problems(vec![error.to_string()]))?;
    let broken_rules = schema::check_rules::<ModelDeployment>(&as_json, None);
    let mut problems = broken_rules.err().unwrap_or_default();
    problems.extend(validate::problems(&object.spec));
    let source = Source::parse(&object.spec.model.source);
    let deadline = validate::progress_deadline(&object.spec);
    let step_time = validate::step_time(&object.spec);
    let custom = object.spec.engine.as_ref().and_then(|engine| engine.custom.as_ref());
    let task = object.spec.model.task.unwrap_or(Task::Generate);
    let verification = custom.map(|custom| verification(custom, task)).transpose();
    // Whatever cannot be parsed is among the problems already.
    let (Ok(source), Ok(progress_deadline), Ok(step_time), Ok(verification)) =
        (source, deadline, step_time, verification)
    else {
        return Err(Problems(problems));
    };
    if !problems.is_empty() {
        return Err(Problems(problems));
    }

    let spec = object.spec.clone();
    let inputs = inputs(object);
    let mut resources = spec.resources.unwrap_or_default();
    let engine = spec.engine.unwrap_or_default();
    let placement = spec.placement.unwrap_or_default();
    let suspended = spec.suspend.unwrap_or(false);
    let is_hub = matches!(source, Source::Hub { .. });
    let source_revision = is_hub.then(|| spec.model.revision.clone().unwrap_or_else(|| "main".to_owned()));
    // A restart resolves anew: what is pinned belongs to it.
    let restart = object.annotations().get(names::ANNOTATION_RESTART);
    let pin = [
        Some(spec.model.source.as_str()),
        source_revision.as_deref(),
        restart.map(String::as_str),
    ];
    let pin = pin.into_iter().flatten().collect::<Vec<_>>().join("\n");
    let strategy = spec.rollout.as_ref().and_then(|rollout| rollout.strategy);
    Ok(ValidatedModelDeployment {
        owner,
        source,
        source_revision,
        digest: spec.model.digest,
        allow_patterns: spec.model.allow_patterns.unwrap_or_default(),
        ignore_patterns: spec.model.ignore_patterns.unwrap_or_default(),
        token_secret: spec.model.credentials_secret_ref.map(|reference| reference.name),
        served_name: spec.model.served_name.unwrap_or_else(|| object.name_any()),
        env: engine.env.unwrap_or_default(),
        volumes: engine.volumes.unwrap_or_default(),
        security: engine.security_context.unwrap_or_default(),
        probes: engine.probes.unwrap_or_default(),
        engine: match engine.custom {
            Some(custom) => Engine::Custom(Box::new(custom)),
            None => Engine::Windlass {
                context_length: engine.context_length,
                max_sequences: engine.max_sequences,
                max_batch_tokens: engine.max_batch_tokens,
                step_time,
                speculative_tokens: engine.speculative_tokens,
                kv_cache_type: engine.kv_cache.and_then(|cache| cache.dtype),
            },
        },
        accelerator: resources.accelerator.take().map(accelerator),
        resources,
        placement: Placement {
            node_selector: placement.node_selector.unwrap_or_default(),
            tolerations: placement.tolerations.unwrap_or_default(),
            affinity: placement.affinity.unwrap_or_default(),
            topology_spread_constraints: placement.topology_spread_constraints.unwrap_or_default(),
            priority_class_name: placement.priority_class_name,
            runtime_class_name: placement.runtime_class_name,
        },
        service_account: spec.service_account_name,
        image_pull_secrets: spec
            .image_pull_secrets
            .into_iter()
            .flatten()
            .map(|secret| secret.name)
            .collect(),
        pod_labels: spec.pod_labels.unwrap_or_default(),
        pod_annotations: spec.pod_annotations.unwrap_or_default(),
        suspended,
        replicas: match spec.scaling.and_then(|scaling| scaling.mode) {
            _ if suspended => Replicas::Exactly(0),
            Some(ScalingMode::External) => Replicas::External,
            Some(ScalingMode::Fixed) | None => Replicas::Exactly(spec.replicas.unwrap_or(DEFAULT_REPLICAS)),
        },
        grace_seconds: spec
            .termination_grace_period_seconds
            .map_or(DEFAULT_GRACE_SECONDS, i64::from),
        progress_deadline,
        strategy: match strategy {
            None | Some(spec::Strategy::Auto) => Strategy::Auto,
            Some(spec::Strategy::Surge) => Strategy::Surge,
            Some(spec::Strategy::Recreate) => Strategy::Recreate,
        },
        verification: verification.flatten(),
        inputs,
        pin_key: fingerprint::of_bytes(pin.as_bytes()).chars().take(32).collect(),
    })
}

/// The hash of what a revision consists of: the spec without the fields that never reach a pod, and
/// the restart annotation. No setting of the operator, so that its upgrade re-rolls nothing.
fn inputs(object: &ModelDeployment) -> String {
    let mut spec = object.spec.clone();
    spec.suspend = None;
    spec.replicas = None;
    spec.scaling = None;
    spec.rollout = None;
    let restart = object.annotations().get(names::ANNOTATION_RESTART);
    fingerprint::of(&fingerprint::without_nulls(
        json!({"name": object.name_any(), "spec": spec, "restart": restart}),
    ))
}

/// The verification of a Custom runtime; `None` when the user wants none.
fn verification(custom: &Custom, task: Task) -> Result<Option<Verification>, String> {
    let timeout = validate::verify_timeout(custom)?;
    let verify = custom.verify.clone().unwrap_or_default();
    let of_task = match task {
        Task::Generate => VerifyKind::Completion,
        Task::Embed => VerifyKind::Embedding,
    };
    let request = match verify.kind.unwrap_or(of_task) {
        VerifyKind::None => return Ok(None),
        VerifyKind::Completion => VerificationRequest::Task("completion"),
        VerifyKind::Chat => VerificationRequest::Task("chat"),
        VerifyKind::Embedding => VerificationRequest::Task("embed"),
        VerifyKind::Rerank => VerificationRequest::Task("rerank"),
        VerifyKind::Request => {
            let request = verify.request.ok_or("verify.request is missing")?;
            VerificationRequest::Own {
                path: request.path,
                body: request.body,
                expect_status: request.expect_status.unwrap_or(200),
            }
        }
    };
    Ok(Some(Verification {
        request,
        timeout,
        key_secret: verify.key_secret_ref.map(|reference| reference.name),
    }))
}

/// Whether a file is the first of a model in several: `…-00001-of-00003.gguf`.
fn is_first_of_several(path: &str) -> bool {
    let parts = path
        .strip_suffix(".gguf")
        .and_then(|stem| stem.rsplit_once("-00001-of-"));
    parts.is_some_and(|(_, count)| count.len() == 5 && count.bytes().all(|b| b.is_ascii_digit()))
}

fn accelerator(spec: Accelerator) -> ValidatedAccelerator {
    let mib = |bytes: u128| bytes / (1 << 20) * MEMORY_ENOUGH_PERCENT / 100;
    ValidatedAccelerator {
        resource: spec.resource,
        count: spec.count.unwrap_or(1),
        products: spec.products.unwrap_or_default(),
        memory_floor_mib: spec.memory.and_then(|amount| amount.units().ok()).map(mib),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::model_deployment::ModelDeployments;

    fn object(spec: Value, annotations: Value) -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "chat", "namespace": "ns", "uid": "owner", "annotations": annotations}, "spec": spec,
        }))
        .expect("object")
    }

    fn validate(object: &ModelDeployment) -> Result<ValidatedModelDeployment, Problems> {
        super::validate(object, Owner::of::<ModelDeployments>(object).expect("owner"))
    }

    fn valid(spec: Value) -> ValidatedModelDeployment {
        validate(&object(spec, json!({}))).expect("valid")
    }

    const SOURCE: &str = "hf://org/repo/model.gguf";

    #[test]
    fn what_never_reaches_a_pod_does_not_change_the_revision() {
        let plain = valid(json!({"model": {"source": SOURCE}}));
        for extra in [
            json!({"suspend": true}),
            json!({"replicas": 3}),
            json!({"scaling": {"mode": "External"}}),
            json!({"rollout": {"progressDeadline": "1h", "strategy": "Recreate"}}),
        ] {
            let mut spec = json!({"model": {"source": SOURCE}});
            spec.as_object_mut()
                .expect("object")
                .extend(extra.as_object().expect("object").clone());
            assert_eq!(valid(spec).revision(), plain.revision(), "{extra}");
        }
        let other = valid(json!({"model": {"source": SOURCE}, "podLabels": {"a": "b"}}));
        assert_ne!(other.revision(), plain.revision());
    }

    #[test]
    fn the_restart_annotation_asks_for_a_new_revision_and_other_annotations_do_not() {
        let spec = json!({"model": {"source": SOURCE}});
        let revision = |annotations| validate(&object(spec.clone(), annotations)).expect("valid").inputs;
        assert_eq!(revision(json!({})), revision(json!({"team": "a"})));
        let restart = json!({names::ANNOTATION_RESTART: "1"});
        assert_ne!(revision(json!({})), revision(restart.clone()));
        let pin = |annotations| validate(&object(spec.clone(), annotations)).expect("valid").pin_key;
        assert_eq!(pin(json!({})), pin(json!({"team": "a"})));
        assert_ne!(
            pin(json!({})),
            pin(restart),
            "a restart resolves the model's revision anew"
        );
    }

    #[test]
    fn suspension_means_no_pods_and_keeps_the_rest() {
        let suspended = valid(json!({"model": {"source": SOURCE}, "replicas": 3, "suspend": true}));
        assert_eq!((suspended.replicas, suspended.suspended), (Replicas::Exactly(0), true));
        assert_eq!(
            valid(json!({"model": {"source": SOURCE}})).replicas,
            Replicas::Exactly(1)
        );
        let mut external = json!({"model": {"source": SOURCE}, "scaling": {"mode": "External"}});
        assert_eq!(valid(external.clone()).replicas, Replicas::External);
        external["suspend"] = json!(true);
        assert_eq!(valid(external).replicas, Replicas::Exactly(0));
    }

    #[test]
    fn memory_of_accelerators_is_matched_with_tolerance() {
        let spec = json!({"model": {"source": SOURCE}, "resources": {"cpu": "2500m",
            "accelerator": {"resource": "nvidia.com/gpu", "memory": "24Gi"}}});
        let validated = valid(spec);
        // 24 GiB = 24,576 MiB; 92 % of it is less than what any card of 24 GiB shows (A10: 22,731).
        assert_eq!(validated.accelerator.and_then(|a| a.memory_floor_mib), Some(22_609));
    }

    #[test]
    fn a_model_lies_where_its_source_says_how_many_files_it_has() {
        let path = |spec: Value| valid(spec).model_path();
        assert_eq!(path(json!({"model": {"source": SOURCE}})), "/models/model.gguf");
        let several = json!({"model": {"source": "hf://org/repo/q4/m-00001-of-00003.gguf"}});
        assert_eq!(path(several), "/models/m-00001-of-00003.gguf");
        let folder = json!({"model": {"source": "hf://org/repo", "task": "Embed"}});
        assert_eq!(path(folder), "/models/repository");
        assert_eq!(
            path(json!({"model": {"source": "pvc://claim/encoder", "task": "Embed"}})),
            "/models/encoder"
        );
    }

    #[test]
    fn all_problems_come_at_once() {
        let spec = json!({"model": {"source": "ftp://x"}, "resources": {"cpu": "0"}, "replicas": 0});
        let Problems(problems) = validate(&object(spec, json!({}))).expect_err("valid");
        assert!(problems.len() >= 3, "{problems:?}");
    }
}
