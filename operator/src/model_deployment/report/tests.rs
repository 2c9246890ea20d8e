//! Conditions for the situations that a pod can be in, and what holds in all of them.
use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::{apply::Error as WriteError, warnings::Warning},
    kind::{
        Kind, Status,
        conditions::{edges, find, is_true},
        revision::Verdict,
    },
    model_deployment::{
        Decision,
        fixtures::{DIGEST, at, crashed, fetching, owner, pod, ready, serving, settings, stored, verified},
        pins::Pins,
    },
};

/// A situation in which only this differs from a new object.
struct Case {
    owner: ValidatedModelDeployment,
    revisions: Vec<ControllerRevision>,
    pods: Vec<Pod>,
    deployment: Value,
    /// What a container reports, by port.
    report: Option<(i32, Value)>,
    warnings: Vec<Warning>,
    pins: BTreeMap<String, String>,
    conflict: Option<&'static str>,
    refusal: Option<&'static str>,
    previous: ModelDeploymentStatus,
    now: Timestamp,
}

impl Case {
    fn new(pods: Vec<Pod>) -> Self {
        Self {
            owner: owner(json!({})),
            revisions: vec![],
            pods,
            deployment: json!({"observedGeneration": 1}),
            report: None,
            warnings: vec![],
            pins: BTreeMap::new(),
            conflict: None,
            refusal: None,
            previous: ModelDeploymentStatus::default(),
            now: at(0),
        }
    }

    fn verified(pods: Vec<Pod>) -> Self {
        Self {
            revisions: vec![stored(&owner(json!({})), 1, verified(), None)],
            ..Self::new(pods)
        }
    }

    fn observed(&self) -> Observed {
        let deployment = json!({"metadata": {"name": "chat-model", "generation": 1},
            "spec": {"selector": {}, "template": {}}, "status": self.deployment});
        let pins = json!({"metadata": {"name": "chat-model-pins"}, "data": self.pins});
        let mut children = BTreeMap::from([
            (("Deployment".to_owned(), "chat-model".to_owned()), deployment),
            (("ConfigMap".to_owned(), "chat-model-pins".to_owned()), pins),
        ]);
        for revision in &self.revisions {
            let key = (
                "ControllerRevision".to_owned(),
                revision.metadata.name.clone().expect("name"),
            );
            children.insert(key, serde_json::to_value(revision).expect("JSON"));
        }
        let report = self.report.iter().flat_map(|(port, report)| {
            // The addresses of the fixtures' pods.
            ["10.0.0.1", "127.0.0.1"].map(|host| (format!("http://{host}:{port}/progress"), report.clone()))
        });
        let warnings = self
            .pods
            .iter()
            .map(|pod| (pod.metadata.name.clone().expect("name"), self.warnings.clone()));
        Observed {
            children,
            pods: self.pods.iter().cloned().map(Arc::new).collect(),
            reports: report.collect(),
            warnings: warnings.collect(),
        }
    }

    fn decide(&self) -> Decision {
        ModelDeployments::decide(&self.owner, &self.observed(), &settings(), self.now).expect("decision")
    }

    fn report(&self) -> ModelDeploymentStatus {
        let observed = self.observed();
        let decision = self.decide();
        let refused = self.refusal.map(|message| WriteError::Api {
            verb: "apply",
            kind: "Service".to_owned(),
            name: "chat-model".to_owned(),
            source: kube::Error::Api(Box::new(
                serde_json::from_value(json!({
                "status": "Failure", "message": message, "reason": "Forbidden", "code": 403}))
                .expect("status"),
            )),
        });
        let applied = Applied {
            children: observed.children.clone(),
            conflicts: self.conflict.map(str::to_owned).into_iter().collect(),
            refused: refused.into_iter().collect(),
        };
        let report = report(&Situation {
            previous: &self.previous,
            valid: &self.owner,
            decision: &decision,
            observed: &observed,
            applied: &applied,
            schema_skew: None,
            now: self.now,
        });
        let mut status = report.status;
        let conditions = report.conditions;
        let conditions = conditions.into_conditions(
            ModelDeployments::CONDITIONS,
            &self.previous.conditions,
            Some(1),
            self.now,
        );
        status.observe(Some(1), conditions);
        status
    }
}

fn of(status: &ModelDeploymentStatus, type_: &str) -> (String, String) {
    let found = find(&status.conditions, type_).unwrap_or_else(|| panic!("no condition {type_}"));
    (found.status.clone(), found.reason.clone())
}

fn the_pod(status: Value) -> Vec<Pod> {
    vec![pod(&owner(json!({})), status)]
}

fn failed_fetch(reason: &str) -> Vec<Pod> {
    let report = json!({"phase": "Failed", "error": {"reason": reason, "message": "what to do"}}).to_string();
    the_pod(fetching(
        json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        json!({"terminated": {"exitCode": 1, "message": report}}),
    ))
}

fn unscheduled(message: &str) -> Vec<Pod> {
    the_pod(
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}),
    )
}

fn waiting(reason: &str, message: &str) -> Vec<Pod> {
    the_pod(fetching(
        json!({"waiting": {"reason": reason, "message": message}}),
        json!({}),
    ))
}

/// A condition, its status and its reason.
type Expectation = (&'static str, &'static str, &'static str);

/// Name, situation, reason of Ready, and another condition.
fn cases() -> Vec<(&'static str, Case, &'static str, Expectation)> {
    let running = json!({"running": {}});
    // The container was ready when its kubelet fell silent; the node controller says that the pod is not.
    let mut unheard = serving(true, json!({"running": {}}), json!({}));
    unheard["conditions"][0]["status"] = json!("False");
    let crash_loop = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    let two = owner(json!({"replicas": 2}));
    let suspended = owner(json!({"suspend": true}));
    let new = owner(json!({"engine": {"contextLength": 4096}}));
    let old = owner(json!({}));
    let good_and = |verdict| vec![stored(&old, 1, verified(), None), stored(&new, 2, verdict, Some(at(0)))];
    let (reconciling, stalled) = (condition::RECONCILING, condition::STALLED);
    let mut sidecar = serving(true, json!({"running": {}}), json!({}));
    sidecar["conditions"][0]["status"] = json!("False");
    sidecar["containerStatuses"]
        .as_array_mut()
        .expect("list")
        .push(json!({"name": "istio-proxy", "image": "",
        "imageID": "", "ready": false, "restartCount": 0, "state": {"running": {}}}));
    let mut gated = pod(&old, unheard.clone());
    gated.spec.as_mut().expect("spec").readiness_gates = Some(vec![
        serde_json::from_value(json!({"conditionType": "example.com/lb"})).expect("gate"),
    ]);
    let verifying = |verify: Value| {
        let mut status = unheard.clone();
        status["initContainerStatuses"]
            .as_array_mut()
            .expect("list")
            .push(verify);
        the_pod(status)
    };
    let asks = || json!({"name": "verify", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"running": {}}});
    let runtime = |phase: &str, refusals: u32| {
        Some((
            8082,
            json!({"phase": phase, "request": "POST /v1/completions", "refusals": refusals, "since": 40,
            "message": "POST /v1/completions answered 500"}),
        ))
    };
    let mount = |message: &str| {
        vec![Warning {
            reason: "FailedMount".to_owned(),
            message: message.to_owned(),
        }]
    };
    let creating = || {
        the_pod(
            json!({"phase": "Pending", "podIP": "10.0.0.1", "initContainerStatuses": [{"name": "model", "image": "",
        "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}]}),
        )
    };
    vec![
        (
            "new",
            Case::new(vec![]),
            "Progressing",
            (condition::AVAILABLE, "False", "NoReadyPods"),
        ),
        (
            "before the scheduler",
            Case::new(the_pod(
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]}),
            )),
            "Pending",
            (condition::SCHEDULED, "Unknown", "Pending"),
        ),
        (
            "unschedulable",
            Case::new(unscheduled("0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")),
            "Unschedulable",
            (condition::SCHEDULED, "False", "Unschedulable"),
        ),
        (
            "no claim",
            Case::new(unscheduled("persistentvolumeclaim \"w\" not found")),
            "ClaimNotUsable",
            (condition::RESOLVED_REFS, "False", "ClaimNotUsable"),
        ),
        (
            "refused by quota",
            Case {
                deployment: json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "pods \"chat-model-6c9-x7z\" is forbidden: exceeded quota"}]}),
                ..Case::new(vec![])
            },
            "PodsRefused",
            (condition::SCHEDULED, "False", "PodsRefused"),
        ),
        (
            "kubelet prepares",
            Case::new(waiting("PodInitializing", "")),
            "ContainerStarting",
            (condition::SCHEDULED, "True", "Scheduled"),
        ),
        (
            "a source that does not answer, while it is tried again",
            Case {
                report: Some((
                    8081,
                    json!({"phase": "Resolving", "error": {"reason": "SourceUnavailable",
                    "message": "hub gives no usable answer: connection refused; it is tried again"}}),
                )),
                ..Case::new(the_pod(fetching(running.clone(), json!({}))))
            },
            "SourceUnavailable",
            (condition::MODEL_VERIFIED, "False", "SourceUnavailable"),
        ),
        (
            "image of the init container",
            Case::new(waiting("ImagePullBackOff", "x")),
            "ImagePullFailed",
            (reconciling, "True", "ImagePullFailed"),
        ),
        (
            "no secret",
            Case::new(waiting("CreateContainerConfigError", "secret \"t\" not found")),
            "ReferenceNotFound",
            (condition::RESOLVED_REFS, "False", "ReferenceNotFound"),
        ),
        (
            "downloading",
            Case::new(the_pod(fetching(running.clone(), json!({})))),
            "Downloading",
            (condition::MODEL_VERIFIED, "False", "Downloading"),
        ),
        (
            "404",
            Case::new(failed_fetch("NotFound")),
            "ModelNotFound",
            (reconciling, "True", "ModelNotFound"),
        ),
        (
            "wrong digest",
            Case::new(failed_fetch("DigestMismatch")),
            "DigestMismatch",
            (stalled, "True", "DigestMismatch"),
        ),
        (
            "truncated",
            Case::new(failed_fetch("InvalidFile")),
            "InvalidFile",
            (condition::MODEL_VERIFIED, "False", "InvalidFile"),
        ),
        (
            "disk full",
            Case::new(failed_fetch("NoSpace")),
            "NoSpace",
            (condition::MODEL_VERIFIED, "False", "NoSpace"),
        ),
        (
            "no credentials",
            Case::new(failed_fetch("CredentialsRequired")),
            "CredentialsRequired",
            (condition::RESOLVED_REFS, "False", "CredentialsRequired"),
        ),
        (
            "wrong credentials",
            Case::new(failed_fetch("CredentialsRejected")),
            "CredentialsRejected",
            (condition::RESOLVED_REFS, "False", "CredentialsRejected"),
        ),
        (
            "source down",
            Case::new(failed_fetch("SourceUnavailable")),
            "SourceUnavailable",
            (condition::MODEL_VERIFIED, "False", "SourceUnavailable"),
        ),
        (
            "volume broken",
            Case::new(failed_fetch("Io")),
            "VolumeFailed",
            (condition::MODEL_VERIFIED, "False", "VolumeFailed"),
        ),
        (
            "fetch without report",
            Case::new(the_pod(fetching(
                crash_loop.clone(),
                json!({"terminated": {"exitCode": 101}}),
            ))),
            "FetchFailed",
            (condition::MODEL_VERIFIED, "False", "FetchFailed"),
        ),
        (
            "loading",
            Case::new(the_pod(serving(false, running.clone(), json!({})))),
            "EngineStarting",
            (condition::MODEL_VERIFIED, "True", "Verified"),
        ),
        (
            "node lost",
            Case::new(the_pod(unheard.clone())),
            "NodeLost",
            (condition::AVAILABLE, "False", "NoReadyPods"),
        ),
        (
            "out of memory",
            Case::new(the_pod(serving(false, crash_loop.clone(), killed))),
            "OutOfMemory",
            (reconciling, "True", "OutOfMemory"),
        ),
        (
            "crash",
            Case::new(vec![crashed(&old)]),
            "EngineCrashed",
            (condition::MODEL_VERIFIED, "True", "Verified"),
        ),
        (
            "bad command",
            Case::new(the_pod(serving(
                false,
                json!({"waiting": {"reason": "RunContainerError", "message": "no such file"}}),
                json!({}),
            ))),
            "ContainerFailed",
            (reconciling, "True", "ContainerFailed"),
        ),
        (
            "a sidecar of somebody else",
            Case::new(the_pod(sidecar)),
            "SidecarNotReady",
            (reconciling, "True", "SidecarNotReady"),
        ),
        (
            "a readiness gate",
            Case::new(vec![gated]),
            "ReadinessGateNotMet",
            (reconciling, "True", "ReadinessGateNotMet"),
        ),
        (
            "a volume that cannot be mounted",
            Case {
                warnings: mount("MountVolume.SetUp failed for volume \"models\": rpc error"),
                ..Case::new(creating())
            },
            "VolumeNotMounted",
            (reconciling, "True", "VolumeNotMounted"),
        ),
        (
            "a secret that is missing",
            Case {
                warnings: mount("MountVolume.SetUp failed for volume \"x\": secret \"files\" not found"),
                ..Case::new(creating())
            },
            "ReferenceNotFound",
            (condition::RESOLVED_REFS, "False", "ReferenceNotFound"),
        ),
        (
            "verification begins",
            Case::new(verifying(asks())),
            "Verifying",
            (condition::AVAILABLE, "False", "NoReadyPods"),
        ),
        (
            "verification waits for an answer",
            Case {
                report: runtime("Asking", 0),
                ..Case::new(verifying(asks()))
            },
            "Verifying",
            (reconciling, "True", "Verifying"),
        ),
        (
            "verification is refused",
            Case {
                report: runtime("Refused", 2),
                ..Case::new(verifying(asks()))
            },
            "VerificationFailed",
            (reconciling, "True", "VerificationFailed"),
        ),
        (
            "ready at once",
            Case::new(vec![ready(&old)]),
            "Serving",
            (condition::AVAILABLE, "True", "Serving"),
        ),
        (
            "serving",
            Case::verified(vec![ready(&old)]),
            "Serving",
            (reconciling, "False", "Settled"),
        ),
        (
            "one of two",
            Case {
                owner: two.clone(),
                ..Case::verified(vec![ready(&old)])
            },
            "Serving",
            (reconciling, "True", "ReplicasNotReady"),
        ),
        (
            "Deployment behind",
            Case {
                deployment: json!({}),
                ..Case::verified(vec![ready(&old)])
            },
            "Serving",
            (reconciling, "True", "RollingOut"),
        ),
        (
            "old pods left",
            Case {
                owner: new.clone(),
                revisions: good_and(verified()),
                ..Case::new(vec![ready(&new), ready(&old)])
            },
            "Serving",
            (reconciling, "True", "RollingOut"),
        ),
        (
            "new revision starts",
            Case {
                owner: new.clone(),
                revisions: good_and(Verdict::Open),
                ..Case::new(vec![ready(&old)])
            },
            "Progressing",
            (condition::AVAILABLE, "True", "Serving"),
        ),
        (
            "rolled back",
            Case {
                owner: new.clone(),
                revisions: good_and(Verdict::Open),
                ..Case::new(vec![crashed(&new), ready(&old)])
            },
            "RevisionFailed",
            (stalled, "True", "RevisionFailed"),
        ),
        (
            "deadline",
            Case {
                revisions: vec![stored(&old, 1, Verdict::Open, Some(at(-9999)))],
                ..Case::new(vec![])
            },
            "ProgressDeadlineExceeded",
            (stalled, "True", "ProgressDeadlineExceeded"),
        ),
        (
            "suspending",
            Case {
                owner: suspended.clone(),
                ..Case::verified(vec![ready(&old)])
            },
            "Suspended",
            (reconciling, "True", "Progressing"),
        ),
        (
            "suspended",
            Case {
                owner: suspended,
                ..Case::verified(vec![])
            },
            "Suspended",
            (reconciling, "False", "Settled"),
        ),
        (
            "name taken",
            Case {
                conflict: Some("Service chat"),
                ..Case::new(vec![])
            },
            "NameConflict",
            (condition::ACCEPTED, "False", "NameConflict"),
        ),
        (
            "child refused",
            Case {
                refusal: Some("cannot apply the Service chat: no"),
                ..Case::new(vec![])
            },
            "ApplyFailed",
            (reconciling, "True", "ApplyFailed"),
        ),
        (
            "child refused while serving",
            Case {
                refusal: Some("no"),
                ..Case::verified(vec![ready(&old)])
            },
            "Serving",
            (reconciling, "True", "ApplyFailed"),
        ),
    ]
}

#[test]
fn each_situation_is_reported_by_its_reason() {
    for (name, case, ready_reason, (type_, expected, reason)) in cases() {
        let status = case.report();
        assert_eq!(of(&status, condition::READY).1, ready_reason, "{name}: {status:#?}");
        assert_eq!(
            of(&status, type_),
            (expected.to_owned(), reason.to_owned()),
            "{name}: {status:#?}"
        );
    }
}

#[test]
fn kstatus_holds_in_every_situation() {
    for (name, case, ..) in cases() {
        let status = case.report();
        let is = |type_| is_true(&status.conditions, type_);
        assert!(!(is(condition::RECONCILING) && is(condition::STALLED)), "{name}: both");
        assert!(
            !(is(condition::READY) && is(condition::STALLED)),
            "{name}: ready and stalled"
        );
        let settled = !is(condition::RECONCILING) && !is(condition::STALLED);
        let is_suspended = of(&status, condition::READY).1 == "Suspended";
        assert!(
            !settled || is(condition::READY) || is_suspended,
            "{name}: not ready, and nothing is said to happen"
        );
        assert_eq!(status.observed_generation, Some(1), "{name}");
        let types: Vec<&str> = status
            .conditions
            .iter()
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!(types, ModelDeployments::CONDITIONS, "{name}");
        for condition in &status.conditions {
            let Condition { reason, message, .. } = condition;
            assert!(Reason::parse(reason).is_some(), "{name}: {reason}");
            assert!(!message.is_empty() && message.len() < 1500, "{name}: {message}");
        }
    }
}

#[test]
fn the_same_situation_is_reported_the_same_way_later() {
    for (name, mut case, ..) in cases() {
        case.previous = case.report();
        case.now = at(5);
        assert_eq!(case.report(), case.previous, "{name}");
        assert_eq!(
            edges(&case.previous.conditions, &case.report().conditions),
            vec![],
            "{name}"
        );
    }
}

#[test]
fn a_problem_makes_one_warning_and_progress_none() {
    for (name, case, ready_reason, _) in cases() {
        let edges = edges(&[], &case.report().conditions);
        let warnings = edges.iter().filter(|edge| edge.is_warning).count();
        let expected =
            usize::from(Reason::parse(ready_reason).is_some_and(Reason::is_problem) || case.refusal.is_some());
        assert_eq!(warnings, expected, "{name}: {edges:?}");
    }
}

#[test]
fn a_failing_pod_is_reported_the_same_way_in_all_phases_of_its_loop() {
    let ended = json!({"terminated": {"exitCode": 3, "reason": "Error", "message": "bad magic"}});
    let phases = [
        (ended.clone(), json!({})),
        (json!({"waiting": {"reason": "CrashLoopBackOff"}}), ended.clone()),
        (json!({"running": {}}), ended.clone()),
    ];
    let engine: Vec<_> = phases
        .iter()
        .map(|(state, last)| {
            Case::new(the_pod(serving(false, state.clone(), last.clone())))
                .report()
                .conditions
        })
        .collect();
    assert!(engine.windows(2).all(|pair| pair[0] == pair[1]), "{engine:#?}");
    let report = json!({"phase": "Failed", "error": {"reason": "NotFound", "message": "x"}}).to_string();
    let ended = json!({"terminated": {"exitCode": 1, "message": report}});
    let phases = [
        (ended.clone(), json!({})),
        (json!({"waiting": {"reason": "CrashLoopBackOff"}}), ended.clone()),
        (json!({"running": {}}), ended),
    ];
    let fetch: Vec<_> = phases
        .iter()
        .map(|(state, last)| Case::new(the_pod(fetching(state.clone(), last.clone()))).report())
        .collect();
    assert!(fetch.windows(2).all(|pair| pair[0] == pair[1]), "{fetch:#?}");
}

#[test]
fn the_random_names_of_refused_pods_are_not_reported() {
    let reported = |name: &str| {
        let message = format!("pods \"{name}\" is forbidden: exceeded quota");
        Case {
            deployment: json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": message}]}),
            ..Case::new(vec![])
        }
        .report()
    };
    assert_eq!(reported("chat-model-6c9-aaaaa"), reported("chat-model-6c9-bbbbb"));
}

#[test]
fn the_order_of_pods_does_not_matter() {
    let old = owner(json!({}));
    let mut pods = vec![
        crashed(&old),
        pod(&old, fetching(json!({"running": {}}), json!({}))),
        unscheduled("no").remove(0),
    ];
    let one = Case::new(pods.clone()).report();
    pods.reverse();
    assert_eq!(Case::new(pods).report(), one);
}

#[test]
fn the_models_facts_and_its_pin_come_from_the_pod() {
    let owner = owner(json!({}));
    let mut case = Case::verified(vec![ready(&owner)]);
    let model = case.report().model.expect("model");
    assert_eq!(
        (model.digest.as_deref(), model.architecture.as_deref(), model.size_bytes),
        (Some(DIGEST), Some("llama"), Some(10))
    );
    case.pins = BTreeMap::from([("other".to_owned(), "sha256:x".to_owned())]);
    let pin = |digest: &str| Pins(BTreeMap::from([(owner.pin_key.clone(), digest.to_owned())]));
    assert_eq!(case.decide().pins, pin(DIGEST));
    case.pins = pin("sha256:first").0;
    assert_eq!(
        case.decide().pins,
        pin("sha256:first"),
        "a recorded digest does not follow the source"
    );
}

#[test]
fn a_commit_is_pinned_next_to_the_digest() {
    let owner = owner(json!({}));
    let mut pod = ready(&owner);
    let init = &mut pod
        .status
        .as_mut()
        .expect("status")
        .init_container_statuses
        .as_mut()
        .expect("list")[0];
    let ended = init
        .state
        .as_mut()
        .expect("state")
        .terminated
        .as_mut()
        .expect("terminated");
    let commit = "0123456789012345678901234567890123456789";
    let facts = json!({"digest": DIGEST, "sizeBytes": 10, "format": "GGUF", "commit": commit});
    ended.message = Some(json!({"phase": "Verified", "model": facts}).to_string());
    let case = Case::verified(vec![pod]);
    let Pins(pins) = case.decide().pins;
    assert_eq!(
        pins.get(&format!("{}.commit", owner.pin_key)).map(String::as_str),
        Some(commit)
    );
    assert_eq!(case.report().model.expect("model").commit.as_deref(), Some(commit));
}

#[test]
fn a_digest_in_the_spec_is_not_pinned_twice() {
    let owner = owner(json!({"model": {"source": "https://h/m.gguf", "digest": DIGEST}}));
    let case = Case {
        owner: owner.clone(),
        ..Case::new(vec![ready(&owner)])
    };
    assert_eq!(case.decide().pins, Pins::default());
}

#[test]
fn progress_is_reported_every_ten_seconds_and_removed_at_the_end() {
    let report = |received: u64| {
        Some((
            8081,
            json!({"phase": "Downloading", "receivedBytes": received, "totalBytes": 100}),
        ))
    };
    let fetching_pod = || the_pod(fetching(json!({"running": {}}), json!({})));
    let mut case = Case {
        report: report(10),
        ..Case::new(fetching_pod())
    };
    let received = |status: &ModelDeploymentStatus| {
        status
            .model
            .as_ref()
            .and_then(|model| model.download.as_ref()?.received_bytes)
    };
    case.previous = case.report();
    assert_eq!(received(&case.previous), Some(10));
    case.report = report(20);
    case.now = at(9);
    assert_eq!(received(&case.report()), Some(10));
    case.now = at(10);
    assert_eq!(received(&case.report()), Some(20));
    case.pods = vec![ready(&owner(json!({})))];
    assert_eq!(received(&case.report()), None);
}

#[test]
fn what_was_true_stays_true_while_a_pod_is_replaced() {
    let mut case = Case::verified(vec![ready(&owner(json!({})))]);
    case.previous = case.report();
    case.pods = the_pod(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]}));
    case.pins = BTreeMap::from([(case.owner.pin_key.clone(), DIGEST.to_owned())]);
    let status = case.report();
    for type_ in [condition::MODEL_VERIFIED, condition::RESOLVED_REFS] {
        assert!(is_true(&status.conditions, type_), "{type_}");
    }
    assert_eq!(status.model, case.previous.model);
    assert!(!is_true(&status.conditions, condition::READY));
}

#[test]
fn a_transition_time_moves_only_with_the_status() {
    let mut case = Case::new(vec![]);
    case.previous = case.report();
    case.pods = vec![crashed(&owner(json!({})))];
    case.now = at(60);
    let status = case.report();
    let time = |status: &ModelDeploymentStatus, type_| {
        find(&status.conditions, type_).map(|condition| condition.last_transition_time.clone())
    };
    assert_eq!(time(&status, condition::READY), time(&case.previous, condition::READY));
    assert_ne!(
        time(&status, condition::MODEL_VERIFIED),
        time(&case.previous, condition::MODEL_VERIFIED)
    );
}
