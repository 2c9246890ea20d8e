//! What a pod's status says about the model and the engine in it: one finding for each pod. Pure, and
//! the same for a container that just ended, waits to start again, or runs again after it ended, so
//! that a pod that fails over and over does not make the conditions flap.
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use windlass_api::fetch::{FetchError, FetchFailure, FetchPhase, FetchReport, ModelFacts};
use windlass_crds::conditions::reason;

use crate::names;

/// Messages of others are cut here: a status is no log.
const MAX_QUOTE: usize = 600;

/// How far a pod came, and what stands in its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub stage: Stage,
    /// One of `windlass_crds::conditions::reason`.
    pub reason: &'static str,
    /// What happened and what to do, one or two sentences.
    pub message: String,
}

/// The stages of a pod's life, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has no node.
    Scheduling,
    /// Images, volumes or references are missing.
    Preparing,
    /// The model is being fetched or checked.
    Fetching,
    /// The engine starts.
    Starting,
    /// It takes requests.
    Ready,
}

impl Finding {
    fn new(stage: Stage, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            stage,
            reason,
            message: message.into(),
        }
    }

    /// Whether somebody has to do something about it.
    pub fn is_problem(&self) -> bool {
        !matches!(
            self.reason,
            reason::PENDING
                | reason::CONTAINER_STARTING
                | reason::DOWNLOADING
                | reason::ENGINE_STARTING
                | reason::SERVING
        )
    }
}

/// Whether a pod still counts: it is not being deleted, and was not evicted.
pub fn is_active(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

/// Whether Kubernetes sends requests to a pod.
pub fn is_ready(pod: &Pod) -> bool {
    is_active(pod) && condition(pod, "Ready").is_some_and(|(status, _, _)| status == "True")
}

/// Whether a pod runs this revision and counts.
pub fn runs(pod: &Pod, revision: &str) -> bool {
    is_active(pod) && pod.labels().get(names::LABEL_REVISION).is_some_and(|id| id == revision)
}

/// Whether a node took the pod.
pub fn is_scheduled(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}

/// The finding about a revision's pods that people should hear about first: problems before progress,
/// early stages before late ones, then by text, so that the order of pods does not matter.
pub fn worst(pods: &[Pod], revision: &str) -> Option<Finding> {
    pods.iter()
        .filter(|pod| runs(pod, revision))
        .map(examine)
        .min_by(|a, b| (!a.is_problem(), a.stage, &a.message).cmp(&(!b.is_problem(), b.stage, &b.message)))
}

/// The facts about the model that a pod's init container found.
pub fn model_facts(pod: &Pod) -> Option<ModelFacts> {
    let ended = container(pod, names::CONTAINER_MODEL, true)?
        .state
        .as_ref()?
        .terminated
        .as_ref()?;
    report(ended)
        .filter(|report| report.phase == FetchPhase::Verified)?
        .model
}

/// The address at which a pod that is fetching reports its progress; `None` once it failed before,
/// since what it does then is a repetition.
pub fn progress_address(pod: &Pod) -> Option<&str> {
    let init = container(pod, names::CONTAINER_MODEL, true)?;
    let is_running = init.state.as_ref().is_some_and(|state| state.running.is_some());
    let failed_before = last_end(init).is_some_and(|ended| ended.exit_code != 0);
    (is_active(pod) && is_running && !failed_before).then(|| pod.status.as_ref()?.pod_ip.as_deref())?
}

/// What a pod's status says.
pub fn examine(pod: &Pod) -> Finding {
    if is_ready(pod) {
        return Finding::new(Stage::Ready, reason::SERVING, "takes requests");
    }
    if !is_scheduled(pod) {
        return match condition(pod, "PodScheduled") {
            Some(("False", "Unschedulable" | "SchedulerError", message)) => unschedulable(message),
            Some(("False", "SchedulingGated", _)) => Finding::new(
                Stage::Scheduling,
                reason::UNSCHEDULABLE,
                "a scheduling gate holds the pod; whoever set it must remove it",
            ),
            _ => Finding::new(Stage::Scheduling, reason::PENDING, "waits for the scheduler"),
        };
    }
    if let Some(finding) = container(pod, names::CONTAINER_MODEL, true).and_then(examine_model) {
        return finding;
    }
    match container(pod, names::CONTAINER_ENGINE, false) {
        Some(engine) => examine_engine(pod, engine),
        None => Finding::new(Stage::Preparing, reason::CONTAINER_STARTING, "waits for the kubelet"),
    }
}

fn unschedulable(message: &str) -> Finding {
    let words = quote(message);
    if message.contains("persistentvolumeclaim") || message.contains("PersistentVolumeClaims") {
        let message = format!("{words}. Create the claim in this namespace, or correct its name in the spec.");
        return Finding::new(Stage::Scheduling, reason::CLAIM_NOT_USABLE, message);
    }
    let message = format!("{words}. Add such a node, or relax spec.resources and spec.placement.");
    Finding::new(Stage::Scheduling, reason::UNSCHEDULABLE, message)
}

/// `None` when the init container is done.
fn examine_model(status: &ContainerStatus) -> Option<Finding> {
    let state = status.state.clone().unwrap_or_default();
    if state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0) {
        return None;
    }
    if let Some(finding) = examine_waiting(&state, "the model's init container") {
        return Some(finding);
    }
    if let Some(ended) = last_end(status).filter(|ended| ended.exit_code != 0) {
        return Some(fetch_failure(ended));
    }
    Some(if state.running.is_some() {
        Finding::new(Stage::Fetching, reason::DOWNLOADING, "fetches and checks the model")
    } else {
        Finding::new(
            Stage::Preparing,
            reason::CONTAINER_STARTING,
            "waits for the kubelet to prepare volumes and images",
        )
    })
}

fn examine_engine(pod: &Pod, status: &ContainerStatus) -> Finding {
    let state = status.state.clone().unwrap_or_default();
    // A kubelet writes both at once: a ready container in a pod that is not ready is the last word of one that
    // fell silent, contradicted by the cluster's node controller.
    if status.ready && !is_ready(pod) {
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .unwrap_or_default();
        let message = format!(
            "node {node} does not report any more. The pod moves to another node when its toleration ends (60 s by default); see: kubectl describe node {node}"
        );
        return Finding::new(Stage::Starting, reason::NODE_LOST, message);
    }
    if let Some(finding) = examine_waiting(&state, "the engine's container") {
        return finding;
    }
    if let Some(ended) = last_end(status).filter(|ended| was_its_own_fault(ended)) {
        let limit = engine_memory_limit(pod).map_or_else(String::new, |limit| format!(" of {limit}"));
        if ended.reason.as_deref() == Some("OOMKilled") {
            let message = format!(
                "the engine used more memory than its limit{limit}. Raise spec.resources.memory, or lower contextLength or maxSequences."
            );
            return Finding::new(Stage::Starting, reason::OUT_OF_MEMORY, message);
        }
        let words = ended.message.as_deref().map(quote).filter(|words| !words.is_empty());
        let words = words.map_or_else(String::new, |words| format!(": {words}"));
        let message = format!(
            "the engine ended with exit code {}{words}. See its log: kubectl logs --previous -c engine {}",
            ended.exit_code,
            log_target(pod)
        );
        return Finding::new(Stage::Starting, reason::ENGINE_CRASHED, message);
    }
    if state.running.is_some() {
        return Finding::new(Stage::Starting, reason::ENGINE_STARTING, "loads the model");
    }
    Finding::new(
        Stage::Preparing,
        reason::CONTAINER_STARTING,
        "waits for the kubelet to start the engine",
    )
}

/// What the kubelet says about a container that it cannot start.
fn examine_waiting(state: &ContainerState, what: &str) -> Option<Finding> {
    let waiting = state.waiting.as_ref()?;
    let words = waiting.message.as_deref().map(quote).unwrap_or_default();
    match waiting.reason.as_deref()? {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => {
            // The kubelet alternates between the error and the back-off: only what they share is told.
            let message = format!(
                "the image of {what} cannot be pulled. Check its name, spec.imagePullSecrets and the node's way to the registry."
            );
            Some(Finding::new(Stage::Preparing, reason::IMAGE_PULL_FAILED, message))
        }
        "CreateContainerConfigError" => {
            let message = format!(
                "{what} cannot be configured: {words}. Create what is missing in this namespace, or correct the reference in the spec."
            );
            Some(Finding::new(Stage::Preparing, reason::REFERENCE_NOT_FOUND, message))
        }
        "CreateContainerError" | "RunContainerError" => {
            let message = format!("{what} cannot be started: {words}. Check image, command and volumes.");
            Some(Finding::new(Stage::Preparing, reason::ENGINE_CRASHED, message))
        }
        _ => None,
    }
}

/// What a fetch met, at its end or in its last attempt.
pub fn fetch_error(error: &FetchError) -> Finding {
    let reason = match error.reason {
        FetchFailure::InvalidSource => reason::INVALID_SOURCE,
        FetchFailure::NotFound => reason::MODEL_NOT_FOUND,
        FetchFailure::CredentialsRequired => reason::CREDENTIALS_REQUIRED,
        FetchFailure::CredentialsRejected => reason::CREDENTIALS_REJECTED,
        FetchFailure::SourceUnavailable => reason::SOURCE_UNAVAILABLE,
        FetchFailure::DigestMismatch => reason::DIGEST_MISMATCH,
        FetchFailure::InvalidFile => reason::INVALID_FILE,
        FetchFailure::NoSpace => reason::NO_SPACE,
        FetchFailure::Io => reason::VOLUME_FAILED,
    };
    Finding::new(Stage::Fetching, reason, quote(&error.message))
}

fn fetch_failure(ended: &ContainerStateTerminated) -> Finding {
    if let Some(error) = report(ended).and_then(|report| report.error) {
        return fetch_error(&error);
    }
    let message = match ended.reason.as_deref() {
        Some("OOMKilled") => {
            "the init container that fetches the model ran out of memory. Report it: it should never need its limit."
                .to_owned()
        }
        _ => format!(
            "the init container that fetches the model ended with exit code {} and no report. See its log: kubectl logs -c model",
            ended.exit_code
        ),
    };
    Finding::new(Stage::Fetching, reason::FETCH_FAILED, message)
}

fn report(ended: &ContainerStateTerminated) -> Option<FetchReport> {
    serde_json::from_str(ended.message.as_deref()?).ok()
}

/// How a container last ended: now, or before it was started again.
fn last_end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    now.or_else(|| status.last_state.as_ref().and_then(|state| state.terminated.as_ref()))
}

/// A node that went away takes its containers along; that says nothing about the engine.
fn was_its_own_fault(ended: &ContainerStateTerminated) -> bool {
    !matches!(ended.reason.as_deref(), Some("ContainerStatusUnknown" | "Unknown"))
}

fn container<'a>(pod: &'a Pod, name: &str, is_init: bool) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let list = if is_init {
        &status.init_container_statuses
    } else {
        &status.container_statuses
    };
    list.as_ref()?.iter().find(|status| status.name == name)
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((
        &found.status,
        found.reason.as_deref().unwrap_or_default(),
        found.message.as_deref().unwrap_or_default(),
    ))
}

fn engine_memory_limit(pod: &Pod) -> Option<&str> {
    let engine = pod
        .spec
        .as_ref()?
        .containers
        .iter()
        .find(|container| container.name == names::CONTAINER_ENGINE)?;
    Some(engine.resources.as_ref()?.limits.as_ref()?.get("memory")?.0.as_str())
}

/// The pods by label rather than one by name: names change with every replacement, conditions should not.
fn log_target(pod: &Pod) -> String {
    let name = pod.labels().get(names::LABEL_DEPLOYMENT).map_or("", String::as_str);
    format!("-l {}={name}", names::LABEL_DEPLOYMENT)
}

/// Somebody else's words on one line, bounded, without the full stop that our sentence brings.
fn quote(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut end = line.len().min(MAX_QUOTE);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.get(..end).unwrap_or_default().trim_end_matches('.').to_owned()
}
