//! What a pod's status says about the model and the engine in it: one finding for each pod. Pure, and
//! the same for a container that just ended, waits to start again, or runs again after it ended, so
//! that a pod that fails over and over does not make the conditions flap.
use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod},
    jiff::Timestamp,
};
use kube::ResourceExt;
use windlass_api::{
    fetch::{FetchError, FetchFailure, FetchPhase, FetchReport, ModelFacts},
    verify::{RuntimePhase, RuntimeReport},
};
use windlass_crds::conditions::Reason;

use crate::{
    cluster::{progress, warnings::Warning},
    kind::children::Observed,
    names,
};

/// Messages of others are cut here: a status is no log.
const MAX_QUOTE: usize = 600;
/// Ends of the engine, by its own fault, after which its revision counts as failed.
const CRASHES: i32 = 3;
/// A kubelet prepares volumes and images in less time, or it warns.
const STUCK_SECONDS: i64 = 5;

/// How far a pod came, and what stands in its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub stage: Stage,
    pub reason: Reason,
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
    /// The runtime runs and is being verified.
    Verifying,
    /// It takes requests.
    Ready,
}

impl Finding {
    fn new(stage: Stage, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            stage,
            reason,
            message: message.into(),
        }
    }

    /// Whether somebody has to do something about it.
    pub fn is_problem(&self) -> bool {
        self.reason.is_problem()
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
pub fn worst(observed: &Observed, revision: &str) -> Option<Finding> {
    observed
        .pods
        .iter()
        .filter(|pod| runs(pod, revision))
        .map(|pod| examine(pod, observed))
        .min_by(|a, b| (!a.is_problem(), a.stage, &a.message).cmp(&(!b.is_problem(), b.stage, &b.message)))
}

/// The facts about the model that a pod's init container found.
pub fn model_facts(pod: &Pod) -> Option<ModelFacts> {
    let ended = container(pod, names::CONTAINER_MODEL)?
        .state
        .as_ref()?
        .terminated
        .as_ref()?;
    report(ended)
        .filter(|report| report.phase == FetchPhase::Verified)?
        .model
}

/// The address at which a pod reports what it does: the download while that runs (not once it failed before, since
/// what it does then is a repetition), or the verification of a runtime.
pub fn report_address(pod: &Pod) -> Option<String> {
    if !is_active(pod) {
        return None;
    }
    let host = pod.status.as_ref()?.pod_ip.as_deref()?;
    let is_running = |status: &&ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    let fetching = container(pod, names::CONTAINER_MODEL)
        .filter(is_running)
        .filter(|init| last_end(init).is_none_or(|ended| ended.exit_code == 0));
    if fetching.is_some() {
        return progress::address(host, names::PORT_PROGRESS);
    }
    let verifying = container(pod, names::CONTAINER_VERIFY).filter(is_running);
    verifying.filter(|verify| !verify.ready)?;
    progress::address(host, names::PORT_VERIFY)
}

/// The report of a download that runs in a pod.
pub fn fetch_report(pod: &Pod, observed: &Observed) -> Option<FetchReport> {
    live_report(pod, observed)
}

fn live_report<T: serde::de::DeserializeOwned>(pod: &Pod, observed: &Observed) -> Option<T> {
    let report = observed.reports.get(&report_address(pod)?)?;
    serde_json::from_value(report.clone()).ok()
}

/// Why a revision with this pod counts as failed: it ended again and again, or its runtime was refused as often as
/// the verification permits. `None` while one more try may help.
pub fn failure(pod: &Pod, observed: &Observed) -> Option<Finding> {
    if !is_active(pod) || is_ready(pod) {
        return None;
    }
    let finding = examine(pod, observed);
    let crashes = container(pod, names::CONTAINER_ENGINE).map_or(0, crashes);
    let refused = container(pod, names::CONTAINER_VERIFY).and_then(refusal).is_some();
    let is_final = match finding.reason {
        Reason::EngineCrashed | Reason::OutOfMemory => crashes >= CRASHES,
        Reason::VerificationFailed => refused,
        _ => false,
    };
    is_final.then_some(finding)
}

/// How often a container ended by its own fault, as far as its status shows.
fn crashes(status: &ContainerStatus) -> i32 {
    if !last_end(status).is_some_and(was_its_own_fault) {
        return 0;
    }
    let ended_now = status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    status.restart_count + i32::from(ended_now)
}

/// Why a pod has no room next to those of another revision, and since when.
pub fn no_room(pod: &Pod, observed: &Observed) -> Option<(String, Timestamp)> {
    if !is_active(pod) {
        return None;
    }
    if !is_scheduled(pod) {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let refused = conditions
            .iter()
            .find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
        let message = refused.message.as_deref().unwrap_or_default();
        // What goes away when a pod of the old revision ends; a missing label or taint does not.
        let scarce = [
            "Insufficient ",
            "free ports",
            "anti-affinity",
            "topology spread",
            "max volume count",
            "ReadWriteOncePod",
            "Too many pods",
        ];
        let is_scarce = scarce.iter().any(|words| message.contains(words));
        return is_scarce.then(|| Some((quote(message), refused.last_transition_time.as_ref()?.0)))?;
    }
    let attach = warnings(pod, observed)
        .iter()
        .find(|warning| warning.reason == "FailedAttachVolume")?;
    if !attach.message.contains("Multi-Attach") {
        return None;
    }
    let scheduled = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = scheduled.iter().find(|c| c.type_ == "PodScheduled")?;
    Some((quote(&attach.message), scheduled.last_transition_time.as_ref()?.0))
}

/// Whether a pod fetches the model now.
pub fn is_fetching(pod: &Pod) -> bool {
    let init = container(pod, names::CONTAINER_MODEL);
    is_active(pod) && init.is_some_and(|init| init.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// Whether a pod has a node and has started no container yet: in a while that may be worth a look at its events.
pub fn may_become_stuck(pod: &Pod) -> bool {
    is_stuck(pod, Timestamp::MAX)
}

/// Whether a pod has a node and should have started a container, but has not.
pub fn is_stuck(pod: &Pod, now: Timestamp) -> bool {
    if !is_active(pod) || !is_scheduled(pod) {
        return false;
    }
    let status = pod.status.as_ref();
    let scheduled_at = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|conditions| conditions.iter().find(|c| c.type_ == "PodScheduled"))
        .and_then(|condition| condition.last_transition_time.as_ref().map(|time| time.0));
    let is_due = scheduled_at.is_some_and(|at| now.duration_since(at).as_secs() >= STUCK_SECONDS);
    let waits_for_volumes = |status: &ContainerStatus| {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        matches!(reason, Some("ContainerCreating" | "PodInitializing")) && last_end(status).is_none()
    };
    let first = status.and_then(|status| status.init_container_statuses.as_ref()?.first());
    is_due && first.is_none_or(waits_for_volumes)
}

fn warnings<'a>(pod: &Pod, observed: &'a Observed) -> &'a [Warning] {
    let found = observed.warnings.get(&pod.name_any());
    found.map_or(&[], Vec::as_slice)
}

/// What a pod's status says.
pub fn examine(pod: &Pod, observed: &Observed) -> Finding {
    if is_ready(pod) {
        return Finding::new(Stage::Ready, Reason::Serving, "takes requests");
    }
    if !is_scheduled(pod) {
        return match condition(pod, "PodScheduled") {
            Some(("False", "Unschedulable" | "SchedulerError", message)) => unschedulable(message),
            Some(("False", "SchedulingGated", _)) => Finding::new(
                Stage::Scheduling,
                Reason::Unschedulable,
                "a scheduling gate holds the pod; whoever set it must remove it",
            ),
            _ => Finding::new(Stage::Scheduling, Reason::Pending, "waits for the scheduler"),
        };
    }
    if let Some(finding) = volumes(warnings(pod, observed)) {
        return finding;
    }
    if let Some(finding) = container(pod, names::CONTAINER_MODEL).and_then(examine_model) {
        // A running download says by itself what its last attempt met.
        let met = fetch_report(pod, observed).and_then(|report| report.error);
        return match met {
            Some(error) if finding.reason == Reason::Downloading => fetch_error(&error),
            _ => finding,
        };
    }
    match container(pod, names::CONTAINER_ENGINE) {
        Some(engine) => examine_engine(pod, engine, observed),
        None => Finding::new(Stage::Preparing, Reason::ContainerStarting, "waits for the kubelet"),
    }
}

/// What the kubelet and the attach controller warn about.
fn volumes(warnings: &[Warning]) -> Option<Finding> {
    let warning = warnings
        .iter()
        .find(|warning| ["FailedMount", "FailedAttachVolume", "FailedMapVolume"].contains(&warning.reason.as_str()))?;
    let words = quote(&warning.message);
    let is_missing = ["secret", "configmap", "references non-existent"]
        .iter()
        .any(|what| words.contains(what));
    let finding = if is_missing && words.contains("not found") || words.contains("non-existent") {
        let message =
            format!("{words}. Create what is missing in this namespace, or correct the reference in the spec.");
        (Reason::ReferenceNotFound, message)
    } else {
        let message = format!("{words}. See the events: kubectl describe pod");
        (Reason::VolumeNotMounted, message)
    };
    Some(Finding::new(Stage::Preparing, finding.0, finding.1))
}

fn unschedulable(message: &str) -> Finding {
    let words = quote(message);
    if message.contains("persistentvolumeclaim") || message.contains("PersistentVolumeClaims") {
        let message = format!("{words}. Create the claim in this namespace, or correct its name in the spec.");
        return Finding::new(Stage::Scheduling, Reason::ClaimNotUsable, message);
    }
    let message = format!("{words}. Add such a node, or relax spec.resources and spec.placement.");
    Finding::new(Stage::Scheduling, Reason::Unschedulable, message)
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
        Finding::new(Stage::Fetching, Reason::Downloading, "fetches and checks the model")
    } else {
        Finding::new(
            Stage::Preparing,
            Reason::ContainerStarting,
            "waits for the kubelet to prepare volumes and images",
        )
    })
}

fn examine_engine(pod: &Pod, status: &ContainerStatus, observed: &Observed) -> Finding {
    let state = status.state.clone().unwrap_or_default();
    if status.ready {
        return examine_rest(pod, observed);
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
            return Finding::new(Stage::Starting, Reason::OutOfMemory, message);
        }
        let words = ended.message.as_deref().map(quote).filter(|words| !words.is_empty());
        let words = words.map_or_else(String::new, |words| format!(": {words}"));
        let message = format!(
            "the engine ended with exit code {}{words}. See its log: kubectl logs --previous -c engine {}",
            ended.exit_code,
            log_target(pod)
        );
        return Finding::new(Stage::Starting, Reason::EngineCrashed, message);
    }
    // The runtime's own readiness may wait for nothing but the answer that the verification waits for.
    if let Some(finding) =
        container(pod, names::CONTAINER_VERIFY).and_then(|verify| examine_verification(pod, verify, observed))
    {
        return finding;
    }
    if state.running.is_some() {
        return Finding::new(Stage::Starting, Reason::EngineStarting, "loads the model");
    }
    Finding::new(
        Stage::Preparing,
        Reason::ContainerStarting,
        "waits for the kubelet to start the engine",
    )
}

/// What keeps a pod from being ready although its engine is.
fn examine_rest(pod: &Pod, observed: &Observed) -> Finding {
    let verify = container(pod, names::CONTAINER_VERIFY).filter(|verify| !verify.ready);
    if let Some(verify) = verify {
        return examine_verification(pod, verify, observed).unwrap_or_else(|| {
            let message = "sends the verification request to the runtime";
            Finding::new(Stage::Verifying, Reason::Verifying, message)
        });
    }
    let unready = unready_sidecars(pod);
    if !unready.is_empty() {
        let message = format!(
            "the engine is ready, but these containers of the pod are not: {}. They are not Windlass' own; see: kubectl describe pod {}",
            unready.join(", "),
            log_target(pod)
        );
        return Finding::new(Stage::Verifying, Reason::SidecarNotReady, message);
    }
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_gates.as_deref())
        .unwrap_or_default();
    let is_unmet = |gate: &&str| condition(pod, gate).is_none_or(|(status, _, _)| status != "True");
    let unmet: Vec<&str> = gates
        .iter()
        .map(|gate| gate.condition_type.as_str())
        .filter(is_unmet)
        .collect();
    if !unmet.is_empty() {
        let message = format!(
            "the engine is ready, but these readiness gates of the pod are not met: {}. Whoever set them (a load balancer's controller, for example) must meet them.",
            unmet.join(", ")
        );
        return Finding::new(Stage::Verifying, Reason::ReadinessGateNotMet, message);
    }
    // All containers are ready and the pod is not: the node controller contradicts a kubelet that fell silent.
    let node = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default();
    let message = format!(
        "node {node} does not report any more. The pod moves to another node when its toleration ends (60 s by default); see: kubectl describe node {node}"
    );
    Finding::new(Stage::Starting, Reason::NodeLost, message)
}

/// What the verification of a runtime says; `None` when it says nothing yet.
fn examine_verification(pod: &Pod, verify: &ContainerStatus, observed: &Observed) -> Option<Finding> {
    let running: Option<RuntimeReport> = live_report(pod, observed);
    if let Some(report) = running.filter(|report| report.phase != RuntimePhase::Starting) {
        let reason = if report.refusals > 0 {
            Reason::VerificationFailed
        } else {
            Reason::Verifying
        };
        return Some(Finding::new(Stage::Verifying, reason, quote(&report.message)));
    }
    let refused = refusal(verify)?;
    Some(Finding::new(
        Stage::Verifying,
        Reason::VerificationFailed,
        quote(&refused.message),
    ))
}

/// The report of a verification that gave up: its runtime was refused as often as permitted.
fn refusal(verify: &ContainerStatus) -> Option<RuntimeReport> {
    let ended = last_end(verify).filter(|ended| ended.exit_code != 0)?;
    let report: RuntimeReport = serde_json::from_str(ended.message.as_deref()?).ok()?;
    (report.phase == RuntimePhase::Refused).then_some(report)
}

/// Containers of a pod that are not ready and not ours.
fn unready_sidecars(pod: &Pod) -> Vec<String> {
    let Some(status) = pod.status.as_ref() else {
        return Vec::new();
    };
    let ours = [names::CONTAINER_MODEL, names::CONTAINER_ENGINE, names::CONTAINER_VERIFY];
    let runs_on = |status: &&ContainerStatus| status.state.as_ref().is_none_or(|state| state.terminated.is_none());
    let containers = status.container_statuses.iter().flatten();
    // Among the init containers, those that still run are native sidecars.
    let sidecars = status.init_container_statuses.iter().flatten().filter(runs_on);
    containers
        .chain(sidecars)
        .filter(|status| !status.ready && !ours.contains(&status.name.as_str()))
        .map(|status| status.name.clone())
        .collect()
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
            // The kubelet alternates between the error and the back-off: only what they share is reported.
            let message = format!(
                "the image of {what} cannot be pulled. Check its name, spec.imagePullSecrets and the node's way to the registry."
            );
            Some(Finding::new(Stage::Preparing, Reason::ImagePullFailed, message))
        }
        "CreateContainerConfigError" => {
            let message = format!(
                "{what} cannot be configured: {words}. Create what is missing in this namespace, or correct the reference in the spec."
            );
            Some(Finding::new(Stage::Preparing, Reason::ReferenceNotFound, message))
        }
        "CreateContainerError" | "RunContainerError" => {
            let message = format!("{what} cannot be started: {words}. Check image, command and volumes.");
            Some(Finding::new(Stage::Preparing, Reason::ContainerFailed, message))
        }
        _ => None,
    }
}

/// What a fetch met, at its end or in its last attempt.
pub fn fetch_error(error: &FetchError) -> Finding {
    let reason = match error.reason {
        FetchFailure::InvalidSource => Reason::InvalidSource,
        FetchFailure::NotFound => Reason::ModelNotFound,
        FetchFailure::CredentialsRequired => Reason::CredentialsRequired,
        FetchFailure::CredentialsRejected => Reason::CredentialsRejected,
        FetchFailure::SourceUnavailable => Reason::SourceUnavailable,
        FetchFailure::DigestMismatch => Reason::DigestMismatch,
        FetchFailure::InvalidFile => Reason::InvalidFile,
        FetchFailure::NoSpace => Reason::NoSpace,
        FetchFailure::Io => Reason::VolumeFailed,
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
    Finding::new(Stage::Fetching, Reason::FetchFailed, message)
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

/// The status of a container, whichever list the kubelet keeps it in.
fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
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
    let name = pod.labels().get(super::LABEL).map_or("", String::as_str);
    format!("-l {}={name}", super::LABEL)
}

/// Somebody else's words on one line, bounded, without the full stop that our sentence brings.
pub fn quote(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut end = line.len().min(MAX_QUOTE);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.get(..end).unwrap_or_default().trim_end_matches('.').to_owned()
}
