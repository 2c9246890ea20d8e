//! Conditions for the situations that a pod can be in, and what holds in all of them.
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::{Value, json};
use windlass_api::fetch::{FetchError, FetchFailure};

use super::*;
use crate::model_deployment::{
    fixtures::{DIGEST, at, crashed, fetching, object, owner, pod, proven, ready, serving, stored, template},
    revision::Verdict,
    rollout,
};

/// A situation in which only this differs from a new object.
struct Case {
    owner: ValidatedModelDeployment,
    revisions: Vec<ControllerRevision>,
    pods: Vec<Pod>,
    deployment: Value,
    proof: Option<Proof>,
    progress: Option<FetchReport>,
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
            proof: None,
            progress: None,
            pins: BTreeMap::new(),
            conflict: None,
            refusal: None,
            previous: ModelDeploymentStatus::default(),
            now: at(0),
        }
    }

    fn proven(pods: Vec<Pod>) -> Self {
        Self {
            revisions: vec![stored(&owner(json!({})), 1, proven(), Some(at(0)))],
            ..Self::new(pods)
        }
    }

    fn report(&self) -> ModelDeploymentStatus {
        let plan = rollout::decide(
            &self.owner,
            template(&self.owner),
            &self.revisions,
            &self.pods,
            self.proof.as_ref(),
            self.now,
        );
        let deployment: Deployment = serde_json::from_value(json!({"metadata": {"name": "chat", "generation": 1},
            "spec": {"selector": {}, "template": {}}, "status": self.deployment}))
        .expect("Deployment");
        let pins = pins(&self.owner, &plan, &self.pins, &self.pods);
        report(&Situation {
            previous: &self.previous,
            generation: Some(1),
            owner: &self.owner,
            plan: &plan,
            deployment: Some(&deployment),
            pods: &self.pods,
            pins: &pins,
            proof: self.proof.as_ref(),
            progress: self.progress.as_ref(),
            conflict: self.conflict,
            refusal: self.refusal,
            schema_skew: None,
            now: self.now,
        })
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
    let good_and = |verdict| vec![stored(&old, 1, proven(), None), stored(&new, 2, verdict, Some(at(0)))];
    let (ready_type, reconciling, stalled) = (condition::READY, condition::RECONCILING, condition::STALLED);
    let refused = |message: &str| Some(Proof::Refused(message.to_owned()));
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
                deployment: json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "pods \"chat-6c9-x7z\" is forbidden: exceeded quota"}]}),
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
                progress: Some(FetchReport {
                    phase: FetchPhase::Resolving,
                    received_bytes: 0,
                    total_bytes: None,
                    error: Some(FetchError {
                        reason: FetchFailure::SourceUnavailable,
                        message: "hub gives no usable answer: connection refused; it is tried again".to_owned(),
                    }),
                    model: None,
                }),
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
            Case::new(the_pod(unheard)),
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
            "EngineCrashed",
            (reconciling, "True", "EngineCrashed"),
        ),
        (
            "ready, unproven",
            Case::new(vec![ready(&old)]),
            "ProofPending",
            (condition::AVAILABLE, "False", "NoReadyPods"),
        ),
        (
            "ready, silent",
            Case {
                proof: refused("answered 500"),
                ..Case::new(vec![ready(&old)])
            },
            "ProofFailed",
            (ready_type, "False", "ProofFailed"),
        ),
        (
            "serving",
            Case::proven(vec![ready(&old)]),
            "Serving",
            (reconciling, "False", "Settled"),
        ),
        (
            "one of two",
            Case {
                owner: two.clone(),
                ..Case::proven(vec![ready(&old)])
            },
            "Serving",
            (reconciling, "True", "ReplicasNotReady"),
        ),
        (
            "Deployment behind",
            Case {
                deployment: json!({}),
                ..Case::proven(vec![ready(&old)])
            },
            "Serving",
            (reconciling, "True", "RollingOut"),
        ),
        (
            "old pods left",
            Case {
                owner: new.clone(),
                revisions: good_and(proven()),
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
                ..Case::proven(vec![ready(&old)])
            },
            "Suspended",
            (reconciling, "True", "Progressing"),
        ),
        (
            "suspended",
            Case {
                owner: suspended,
                ..Case::proven(vec![])
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
                ..Case::proven(vec![ready(&old)])
            },
            "Serving",
            (reconciling, "True", "ApplyFailed"),
        ),
    ]
}

#[test]
fn each_situation_is_told_by_its_reason() {
    for (name, case, ready_reason, (type_, status, reason)) in cases() {
        let told = case.report();
        assert_eq!(of(&told, condition::READY).1, ready_reason, "{name}: {told:#?}");
        assert_eq!(
            of(&told, type_),
            (status.to_owned(), reason.to_owned()),
            "{name}: {told:#?}"
        );
    }
}

#[test]
fn kstatus_holds_in_every_situation() {
    for (name, case, ..) in cases() {
        let told = case.report();
        let is = |type_| is_true(&told.conditions, type_);
        assert!(!(is(condition::RECONCILING) && is(condition::STALLED)), "{name}: both");
        assert!(
            !(is(condition::READY) && is(condition::STALLED)),
            "{name}: ready and stalled"
        );
        let settled = !is(condition::RECONCILING) && !is(condition::STALLED);
        let is_suspended = of(&told, condition::READY).1 == reason::SUSPENDED;
        assert!(
            !settled || is(condition::READY) || is_suspended,
            "{name}: not ready, and nothing is said to happen"
        );
        assert_eq!(told.observed_generation, Some(1), "{name}");
        let types: Vec<&str> = told
            .conditions
            .iter()
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!(types, condition::ALL, "{name}");
        for told in &told.conditions {
            assert!(reason::ALL.contains(&told.reason.as_str()), "{name}: {}", told.reason);
            assert!(
                !told.message.is_empty() && told.message.len() < 1500,
                "{name}: {}",
                told.message
            );
        }
    }
}

#[test]
fn the_same_situation_is_told_the_same_way_later() {
    for (name, mut case, ..) in cases() {
        case.previous = case.report();
        case.now = at(5);
        assert_eq!(case.report(), case.previous, "{name}");
        assert_eq!(edges(&case.previous, &case.report()), vec![], "{name}");
    }
}

#[test]
fn a_problem_makes_one_warning_and_progress_none() {
    for (name, case, ready_reason, _) in cases() {
        let edges = edges(&ModelDeploymentStatus::default(), &case.report());
        let warnings = edges.iter().filter(|edge| edge.is_warning).count();
        let expected = usize::from(reason::is_problem(ready_reason) || case.refusal.is_some());
        assert_eq!(warnings, expected, "{name}: {edges:?}");
    }
}

#[test]
fn a_failing_pod_is_told_the_same_way_in_all_phases_of_its_loop() {
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
fn the_random_names_of_refused_pods_are_not_told() {
    let told = |name: &str| {
        let message = format!("pods \"{name}\" is forbidden: exceeded quota");
        Case {
            deployment: json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": message}]}),
            ..Case::new(vec![])
        }
        .report()
    };
    assert_eq!(told("chat-6c9-aaaaa"), told("chat-6c9-bbbbb"));
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
    let told = Case::proven(vec![ready(&owner(json!({})))]).report();
    let model = told.model.expect("model");
    assert_eq!(
        (model.digest.as_deref(), model.architecture.as_deref(), model.size_bytes),
        (Some(DIGEST), Some("llama"), Some(10))
    );
    let owner = owner(json!({}));
    let plan = rollout::decide(&owner, template(&owner), &[], &[], None, at(0));
    let kept = pins(
        &owner,
        &plan,
        &BTreeMap::from([("other".to_owned(), "sha256:x".to_owned())]),
        &[ready(&owner)],
    );
    assert_eq!(kept, BTreeMap::from([(owner.pin_key.clone(), DIGEST.to_owned())]));
    let moved = BTreeMap::from([(owner.pin_key.clone(), "sha256:first".to_owned())]);
    assert_eq!(
        pins(&owner, &plan, &moved, &[ready(&owner)]),
        moved,
        "a recorded digest does not follow the source"
    );
}

#[test]
fn a_digest_in_the_spec_is_not_pinned_twice() {
    let owner = owner(json!({"model": {"source": "https://h/m.gguf", "digest": DIGEST}}));
    let plan = rollout::decide(&owner, template(&owner), &[], &[], None, at(0));
    assert!(pins(&owner, &plan, &BTreeMap::new(), &[ready(&owner)]).is_empty());
}

#[test]
fn progress_is_told_every_ten_seconds_and_removed_at_the_end() {
    let report = |received| FetchReport {
        phase: FetchPhase::Downloading,
        received_bytes: received,
        total_bytes: Some(100),
        error: None,
        model: None,
    };
    let fetching_pod = || the_pod(fetching(json!({"running": {}}), json!({})));
    let mut case = Case {
        progress: Some(report(10)),
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
    case.progress = Some(report(20));
    case.now = at(9);
    assert_eq!(received(&case.report()), Some(10));
    case.now = at(10);
    assert_eq!(received(&case.report()), Some(20));
    case.pods = vec![ready(&owner(json!({})))];
    assert_eq!(received(&case.report()), None);
}

#[test]
fn what_was_true_stays_true_while_a_pod_is_replaced() {
    let mut case = Case::proven(vec![ready(&owner(json!({})))]);
    case.previous = case.report();
    case.pods = the_pod(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]}));
    case.pins = BTreeMap::from([(case.owner.pin_key.clone(), DIGEST.to_owned())]);
    let told = case.report();
    assert!(
        is_true(&told.conditions, condition::MODEL_VERIFIED) && is_true(&told.conditions, condition::RESOLVED_REFS)
    );
    assert_eq!(told.model, case.previous.model);
    assert!(!is_true(&told.conditions, condition::READY));
}

#[test]
fn a_transition_time_moves_only_with_the_status() {
    let mut case = Case::new(vec![]);
    case.previous = case.report();
    case.pods = vec![crashed(&owner(json!({})))];
    case.now = at(60);
    let told = case.report();
    let time = |status: &ModelDeploymentStatus, type_| {
        find(&status.conditions, type_).map(|condition| condition.last_transition_time.clone())
    };
    assert_eq!(time(&told, condition::READY), time(&case.previous, condition::READY));
    assert_ne!(
        time(&told, condition::MODEL_VERIFIED),
        time(&case.previous, condition::MODEL_VERIFIED)
    );
}

#[test]
fn a_refused_object_is_stalled_and_keeps_what_is_known_about_its_pods() {
    let serving = Case::proven(vec![ready(&owner(json!({})))]).report();
    for reason in [reason::INVALID, reason::UNREADABLE] {
        let told = refused(&serving, &object(json!({})).metadata, reason, "spec.x: no", at(5));
        assert_eq!(of(&told, condition::READY), ("False".to_owned(), reason.to_owned()));
        assert_eq!(of(&told, condition::STALLED).0, "True");
        assert_eq!(of(&told, condition::RECONCILING).0, "False");
        assert_eq!(of(&told, condition::AVAILABLE).0, "True");
        assert_eq!(
            (told.model.clone(), told.url.clone()),
            (serving.model.clone(), serving.url.clone())
        );
        assert_eq!(
            refused(&told, &object(json!({})).metadata, reason, "spec.x: no", at(9)),
            told
        );
    }
}
