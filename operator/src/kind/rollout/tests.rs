//! Revisions and verdicts, from what was observed of ModelDeployments.
use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::{
    kind::{Kind, children::Observed},
    model_deployment::{
        ModelDeployments, fixtures,
        fixtures::{at, crashed, crashed_times, object, owner, pod, ready, settings, stored, template, verified},
        validate::ValidatedModelDeployment,
    },
    names,
};

fn plan(owner: &ValidatedModelDeployment, existing: &[ControllerRevision], pods: &[Pod], second: i64) -> Plan {
    let children = existing.iter().map(|revision| {
        let key = (
            "ControllerRevision".to_owned(),
            revision.metadata.name.clone().expect("name"),
        );
        (key, serde_json::to_value(revision).expect("JSON"))
    });
    let observed = Observed {
        children: children.collect(),
        pods: pods.iter().cloned().map(Arc::new).collect(),
        ..Observed::default()
    };
    let decided = ModelDeployments::decide(owner, &observed, &settings(), at(second));
    decided.expect("decision").plan
}

fn old() -> ValidatedModelDeployment {
    owner(json!({}))
}

fn new() -> ValidatedModelDeployment {
    owner(json!({"engine": {"contextLength": 4096}}))
}

#[test]
fn the_first_revision_is_rendered_and_its_clock_starts() {
    let plan = plan(&old(), &[], &[], 0);
    assert_eq!(
        (plan.wanted.number, plan.wanted.started, plan.wanted.verdict.clone()),
        (1, Some(at(0)), Verdict::Open)
    );
    assert_eq!(plan.deadline, Some(at(1800)));
    assert!(!plan.render_outdated && !plan.is_rolled_back() && plan.last_verified.is_none());
}

#[test]
fn deciding_again_on_what_was_written_changes_nothing() {
    let first = plan(&old(), &[], &[], 0);
    let written: ControllerRevision = first.wanted.write(&old().owner);
    assert_eq!(plan(&old(), &[written], &[], 100).wanted, first.wanted);
}

#[test]
fn another_renderer_changes_no_pod_and_says_so() {
    let owner = old();
    let mut existing = stored(&owner, 1, verified(), None);
    existing.data.0["template"]["spec"]["containers"][0]["image"] = json!("windlass-server:before");
    let plan = plan(&owner, &[existing.clone()], &[], 5);
    assert_eq!(plan.deployed.template, existing.data.0["template"]);
    assert!(plan.render_outdated);
}

#[test]
fn the_restart_annotation_renders_anew() {
    let mut object = object(json!({}));
    object.metadata.annotations = Some([(names::ANNOTATION_RESTART.to_owned(), "1".to_owned())].into());
    let restarted = fixtures::of(&object);
    let plan = plan(&restarted, &[stored(&old(), 1, verified(), None)], &[], 0);
    assert_ne!(plan.wanted.id, old().revision());
    assert_eq!(plan.wanted.number, 2);
    assert!(!plan.render_outdated);
}

#[test]
fn a_ready_pod_verifies_the_wanted_revision() {
    let plan = plan(&new(), &[stored(&old(), 1, verified(), None)], &[ready(&new())], 5);
    assert_eq!(plan.wanted.verdict, verified());
    assert_eq!(plan.last_verified.as_deref(), Some(new().revision()));
    assert_eq!((plan.deadline, plan.wanted.started), (None, None));
}

#[test]
fn repeated_crashes_of_the_new_revision_give_way_to_the_last_verified_one() {
    let plan = plan(
        &new(),
        &[stored(&old(), 1, verified(), None)],
        &[crashed(&new()), ready(&old())],
        5,
    );
    assert!(plan.is_rolled_back());
    assert_eq!(plan.deployed.id, old().revision());
    assert_eq!(plan.deployed.template, template(&old()));
    assert!(
        plan.wanted
            .failure()
            .is_some_and(|failure| failure.starts_with("EngineCrashed: ")),
        "{:?}",
        plan.wanted.verdict
    );
}

#[test]
fn a_failed_revision_is_not_tried_again_and_only_a_new_one_leaves_it() {
    let failed = stored(&new(), 2, Verdict::Failed("EngineCrashed: x".into()), Some(at(0)));
    let existing = [stored(&old(), 1, verified(), None), failed];
    assert!(plan(&new(), &existing, &[ready(&old())], 9999).is_rolled_back());
    let third = owner(json!({"engine": {"contextLength": 2048}}));
    let corrected = plan(&third, &existing, &[ready(&old())], 9999);
    assert!(!corrected.is_rolled_back());
    assert_eq!(corrected.wanted.number, 3);
    assert_eq!(corrected.last_verified.as_deref(), Some(old().revision()));
}

#[test]
fn going_back_to_a_verified_spec_returns_to_its_revision_and_verdict() {
    let existing = [
        stored(&old(), 1, verified(), None),
        stored(&new(), 2, Verdict::Failed("x".into()), Some(at(0))),
    ];
    let plan = plan(&old(), &existing, &[], 9999);
    assert!(plan.wanted.is_verified() && !plan.is_rolled_back());
    assert_eq!(plan.wanted.number, 3);
    let left = plan
        .revisions
        .iter()
        .find(|revision| revision.id == new().revision())
        .expect("kept");
    assert_eq!(left.started, None);
}

#[test]
fn the_first_revision_may_crash_until_its_deadline_since_nothing_better_exists() {
    let existing = [stored(&old(), 1, Verdict::Open, Some(at(0)))];
    assert_eq!(
        plan(&old(), &existing, &[crashed(&old())], 1799).wanted.verdict,
        Verdict::Open
    );
    let late = plan(&old(), &existing, &[crashed(&old())], 1800);
    let failure = late.wanted.failure().expect("failed");
    assert!(
        failure.starts_with("ProgressDeadlineExceeded: ") && failure.contains("exit code 3"),
        "{failure}"
    );
    assert!(!late.is_rolled_back());
}

#[test]
fn one_crash_or_two_leave_the_new_revision_its_next_try() {
    let existing = [stored(&old(), 1, verified(), None)];
    for times in [1, 2] {
        let plan = plan(&new(), &existing, &[crashed_times(&new(), times), ready(&old())], 5);
        assert_eq!(
            (plan.wanted.verdict.clone(), plan.is_rolled_back()),
            (Verdict::Open, false),
            "{times}"
        );
    }
}

#[test]
fn a_container_that_cannot_be_created_for_the_moment_is_no_crash() {
    let existing = [stored(&old(), 1, verified(), None)];
    let waiting = json!({"waiting": {"reason": "CreateContainerError", "message": "context deadline exceeded"}});
    let transient = pod(&new(), fixtures::serving(false, waiting, json!({})));
    assert!(!plan(&new(), &existing, &[transient, ready(&old())], 5).is_rolled_back());
}

#[test]
fn a_runtime_that_was_refused_as_often_as_permitted_is_rolled_back() {
    let existing = [stored(&old(), 1, verified(), None)];
    let report = json!({"phase": "Refused", "request": "POST /v1/completions", "refusals": 5, "since": 1,
        "message": "POST /v1/completions answered 500"});
    let mut status = fixtures::serving_after(0, true, json!({"running": {}}), json!({}));
    status["conditions"][0]["status"] = json!("False");
    status["initContainerStatuses"]
        .as_array_mut()
        .expect("list")
        .push(json!({
        "name": "verify", "image": "", "imageID": "", "ready": false, "restartCount": 1,
        "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1, "message": report.to_string()}}}));
    let plan = plan(&new(), &existing, &[pod(&new(), status), ready(&old())], 5);
    assert!(plan.is_rolled_back());
    let failure = plan.wanted.failure().expect("failed");
    assert!(
        failure.starts_with("VerificationFailed: ") && failure.contains("answered 500"),
        "{failure}"
    );
}

#[test]
fn a_failed_revision_whose_pod_becomes_ready_after_all_is_verified() {
    let failed = Verdict::Failed("ProgressDeadlineExceeded: x".into());
    let existing = [stored(&old(), 1, failed, Some(at(0)))];
    assert!(plan(&old(), &existing, &[ready(&old())], 9999).wanted.is_verified());
}

#[test]
fn a_changed_deadline_gives_a_failed_revision_another_try() {
    let failed = Verdict::Failed("ProgressDeadlineExceeded: x".into());
    let existing = [stored(&old(), 1, verified(), None), stored(&new(), 2, failed, None)];
    assert!(plan(&new(), &existing, &[], 9999).is_rolled_back());
    let patient = owner(json!({"engine": {"contextLength": 4096}, "rollout": {"progressDeadline": "1h"}}));
    let reopened = plan(&patient, &existing, &[], 9999);
    assert_eq!(
        (reopened.wanted.verdict.clone(), reopened.wanted.started),
        (Verdict::Open, Some(at(9999)))
    );
    assert!(!reopened.is_rolled_back());
    assert_eq!(reopened.deadline, Some(at(9999 + 3600)));
}

#[test]
fn a_download_that_makes_progress_extends_the_deadline_and_one_that_fails_does_not() {
    let fetching = pod(&new(), fixtures::fetching(json!({"running": {}}), json!({})));
    let existing = [
        stored(&old(), 1, verified(), None),
        stored(&new(), 2, Verdict::Open, Some(at(0))),
    ];
    let at_second = |second: i64, error: Value| {
        let report = json!({"phase": "Downloading", "receivedBytes": 10, "error": error});
        let children = existing.iter().map(|revision| {
            let key = (
                "ControllerRevision".to_owned(),
                revision.metadata.name.clone().expect("name"),
            );
            (key, serde_json::to_value(revision).expect("JSON"))
        });
        let observed = Observed {
            children: children.collect(),
            pods: vec![Arc::new(fetching.clone())],
            reports: [("http://10.0.0.1:8081/progress".to_owned(), report)].into(),
            ..Observed::default()
        };
        ModelDeployments::decide(&new(), &observed, &settings(), at(second))
            .expect("decision")
            .plan
    };
    assert_eq!(
        at_second(800, Value::Null).deadline,
        Some(at(1800)),
        "written only now and then"
    );
    assert_eq!(at_second(1700, Value::Null).deadline, Some(at(1700 + 1800)));
    assert_eq!(at_second(9999, Value::Null).wanted.verdict, Verdict::Open);
    let error = json!({"reason": "SourceUnavailable", "message": "x"});
    assert!(at_second(1800, error).is_rolled_back());
}

fn unplaceable(owner: &ValidatedModelDeployment, message: &str, since: i64) -> Pod {
    pod(
        owner,
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": message, "lastTransitionTime": at(since).to_string()}]}),
    )
}

#[test]
fn surge_gives_way_after_a_minute_without_room_and_returns_with_the_next_edit() {
    let existing = [stored(&old(), 1, verified(), None)];
    let pods = [
        unplaceable(&new(), "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.", 0),
        ready(&old()),
    ];
    let early = plan(&new(), &existing, &pods, 59);
    assert_eq!(
        (early.replacement, early.gives_way_at),
        (Replacement::Surge, Some(at(60)))
    );
    let late = plan(&new(), &existing, &pods, 60);
    assert_eq!((late.replacement, late.gives_way_at), (Replacement::Replace, None));
    assert!(
        late.wanted
            .no_surge
            .as_deref()
            .is_some_and(|why| why.contains("nvidia.com/gpu"))
    );
    // It stays so while the pods move, although room is found.
    let recorded = [existing[0].clone(), late.wanted.write(&new().owner)];
    assert_eq!(
        plan(&new(), &recorded, &[ready(&new())], 70).replacement,
        Replacement::Replace
    );
    let third = owner(json!({"engine": {"contextLength": 2048}}));
    let next = plan(&third, &recorded, &[ready(&new())], 80);
    assert_eq!(next.replacement, Replacement::Surge);
    assert!(next.revisions.iter().all(|revision| revision.no_surge.is_none()));
}

#[test]
fn a_pod_that_no_departure_would_help_keeps_the_surge() {
    let existing = [stored(&old(), 1, verified(), None)];
    let affinity = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    let pods = [unplaceable(&new(), affinity, 0), ready(&old())];
    assert_eq!(plan(&new(), &existing, &pods, 600).replacement, Replacement::Surge);
    let alone = [unplaceable(&new(), "0/2 nodes are available: 2 Insufficient cpu.", 0)];
    assert_eq!(
        plan(&new(), &existing, &alone, 600).replacement,
        Replacement::Surge,
        "no old pod could give way"
    );
}

#[test]
fn a_strategy_in_the_spec_is_kept_to() {
    let existing = [stored(&old(), 1, verified(), None)];
    for (strategy, replacement) in [("Surge", Replacement::Surge), ("Recreate", Replacement::Recreate)] {
        let owner = owner(json!({"engine": {"contextLength": 4096}, "rollout": {"strategy": strategy}}));
        let pods = [unplaceable(&owner, "Insufficient cpu", 0), ready(&old())];
        assert_eq!(plan(&owner, &existing, &pods, 600).replacement, replacement);
    }
}

#[test]
fn what_a_revision_that_stays_needs_is_not_taken_away() {
    let local = owner(json!({"model": {"source": "pvc://claim/m.gguf"}, "serviceAccountName": "theirs"}));
    let plan = plan(&local, &[stored(&old(), 1, verified(), None)], &[ready(&old())], 5);
    assert!(
        plan.needs("egress") && plan.needs("serviceAccount"),
        "{:?}",
        plan.revisions
    );
}

#[test]
fn the_clock_stands_still_while_suspended() {
    let suspended = owner(json!({"suspend": true}));
    let existing = [stored(&old(), 1, Verdict::Open, Some(at(0)))];
    let stopped = plan(&suspended, &existing, &[], 9999);
    assert_eq!(
        (stopped.wanted.started, stopped.wanted.verdict.clone()),
        (None, Verdict::Open)
    );
    let resumed: ControllerRevision = stopped.wanted.write(&suspended.owner);
    assert_eq!(plan(&old(), &[resumed], &[], 10_000).wanted.started, Some(at(10_000)));
}

#[test]
fn what_is_not_the_engines_fault_is_no_crash() {
    let existing = [stored(&old(), 1, verified(), None)];
    let lost = json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}});
    let with_node_lost = pod(&new(), fixtures::serving(false, json!({"running": {}}), lost));
    let mut evicted = crashed(&new());
    evicted.status.as_mut().expect("status").phase = Some("Failed".into());
    let mut ending = crashed(&new());
    ending.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    for innocent in [with_node_lost, evicted, ending] {
        assert!(!plan(&new(), &existing, &[innocent], 5).is_rolled_back());
    }
}

#[test]
fn history_is_bounded_and_never_loses_what_runs() {
    let owners: Vec<_> = (1..=9).map(|n| owner(json!({"engine": {"maxSequences": n}}))).collect();
    let existing: Vec<_> = owners
        .iter()
        .enumerate()
        .map(|(index, owner)| {
            stored(
                owner,
                i64::try_from(index).expect("small") + 1,
                if index == 0 {
                    verified()
                } else {
                    Verdict::Failed("x".into())
                },
                None,
            )
        })
        .collect();
    let plan = plan(&owners[8], &existing, &[], 5);
    let kept: BTreeSet<&str> = plan.revisions.iter().map(|revision| revision.id.as_str()).collect();
    assert_eq!(kept.len(), 6, "the newest five and the verified one");
    assert!(kept.contains(owners[8].revision()) && kept.contains(owners[0].revision()));
    assert_eq!(plan.deployed.id, owners[0].revision());
}

#[test]
fn a_revision_that_was_tampered_with_is_ignored() {
    let mut broken = stored(&old(), 1, verified(), None);
    broken.data.0 = json!({"inputs": 7});
    let plan = plan(&old(), &[broken], &[], 5);
    assert_eq!(plan.wanted.verdict, Verdict::Open);
}
