//! Revisions and verdicts, from what was observed.
use serde_json::json;
use std::collections::BTreeSet;

use super::*;
use crate::model_deployment::fixtures::{at, crashed, object, owner, pod, proven, ready, stored, template};
use crate::model_deployment::{fixtures, validate::validate};

fn plan(
    owner: &ValidatedModelDeployment,
    existing: &[ControllerRevision],
    pods: &[Pod],
    proof: Option<&Proof>,
    second: i64,
) -> Plan {
    decide(owner, template(owner), existing, pods, proof, at(second))
}

fn old() -> ValidatedModelDeployment {
    owner(json!({}))
}

fn new() -> ValidatedModelDeployment {
    owner(json!({"engine": {"contextLength": 4096}}))
}

#[test]
fn the_first_revision_is_rendered_and_its_clock_starts() {
    let plan = plan(&old(), &[], &[], None, 0);
    assert_eq!(
        (plan.wanted.number, plan.wanted.started, plan.wanted.verdict.clone()),
        (1, Some(at(0)), Verdict::Open)
    );
    assert_eq!(plan.deadline, Some(at(1800)));
    assert!(!plan.render_outdated && !plan.is_rolled_back() && plan.last_good.is_none());
}

#[test]
fn deciding_again_on_what_was_written_changes_nothing() {
    let first = plan(&old(), &[], &[], None, 0);
    let written: ControllerRevision = serde_json::from_value(first.wanted.write(&old())).expect("revision");
    assert_eq!(plan(&old(), &[written], &[], None, 100).wanted, first.wanted);
}

#[test]
fn another_renderer_changes_no_pod_and_says_so() {
    let owner = old();
    let existing = [stored(&owner, 1, proven(), Some(at(0)))];
    let mut rendered = template(&owner);
    rendered["spec"]["containers"][0]["image"] = json!("windlass-server:next");
    let plan = decide(&owner, rendered, &existing, &[], None, at(5));
    assert_eq!(plan.deployed.template, template(&owner));
    assert!(plan.render_outdated);
}

#[test]
fn the_restart_annotation_renders_anew() {
    let mut object = object(json!({}));
    object.metadata.annotations = Some([(names::ANNOTATION_RESTART.to_owned(), "1".to_owned())].into());
    let restarted = validate(&object).expect("valid");
    let plan = plan(&restarted, &[stored(&old(), 1, proven(), None)], &[], None, 0);
    assert_ne!(plan.wanted.id, old().revision());
    assert_eq!(plan.wanted.number, 2);
    assert!(!plan.render_outdated);
}

#[test]
fn an_answer_proves_the_wanted_revision() {
    let answered = Proof::Answered {
        digest: Some(fixtures::DIGEST.into()),
    };
    let plan = plan(
        &new(),
        &[stored(&old(), 1, proven(), None)],
        &[ready(&new())],
        Some(&answered),
        5,
    );
    assert_eq!(plan.wanted.verdict, proven());
    assert_eq!(plan.last_good.as_deref(), Some(new().revision()));
    assert_eq!(plan.deadline, None);
}

#[test]
fn a_crash_of_the_new_revision_gives_way_to_the_last_good_one_at_once() {
    let plan = plan(
        &new(),
        &[stored(&old(), 1, proven(), None)],
        &[crashed(&new()), ready(&old())],
        None,
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
    let existing = [stored(&old(), 1, proven(), None), failed];
    assert!(plan(&new(), &existing, &[ready(&old())], None, 9999).is_rolled_back());
    let third = owner(json!({"engine": {"contextLength": 2048}}));
    let corrected = plan(&third, &existing, &[ready(&old())], None, 9999);
    assert!(!corrected.is_rolled_back());
    assert_eq!(corrected.wanted.number, 3);
    assert_eq!(corrected.last_good.as_deref(), Some(old().revision()));
}

#[test]
fn going_back_to_a_good_spec_returns_to_its_revision_and_proof() {
    let existing = [
        stored(&old(), 1, proven(), None),
        stored(&new(), 2, Verdict::Failed("x".into()), Some(at(0))),
    ];
    let plan = plan(&old(), &existing, &[], None, 9999);
    assert!(plan.wanted.is_proven() && !plan.is_rolled_back());
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
        plan(&old(), &existing, &[crashed(&old())], None, 1799).wanted.verdict,
        Verdict::Open
    );
    let late = plan(&old(), &existing, &[crashed(&old())], None, 1800);
    let failure = late.wanted.failure().expect("failed");
    assert!(
        failure.starts_with("ProgressDeadlineExceeded: ") && failure.contains("exit code 3"),
        "{failure}"
    );
    assert!(!late.is_rolled_back());
}

#[test]
fn a_failed_revision_that_answers_after_all_is_good() {
    let existing = [stored(
        &old(),
        1,
        Verdict::Failed("ProgressDeadlineExceeded: x".into()),
        Some(at(0)),
    )];
    let answered = Proof::Answered { digest: None };
    assert!(
        plan(&old(), &existing, &[ready(&old())], Some(&answered), 9999)
            .wanted
            .is_proven()
    );
}

#[test]
fn a_deadline_names_what_the_proof_said() {
    let existing = [
        stored(&old(), 1, proven(), None),
        stored(&new(), 2, Verdict::Open, Some(at(0))),
    ];
    let refused = Proof::Refused("answered 500".into());
    let late = plan(&new(), &existing, &[ready(&new())], Some(&refused), 1800);
    assert!(
        late.wanted
            .failure()
            .is_some_and(|failure| failure.contains("answered 500"))
    );
    assert!(late.is_rolled_back());
}

#[test]
fn a_refused_proof_holds_the_rollout_while_good_pods_are_there_to_keep() {
    let refused = Proof::Refused("answered 500".into());
    let existing = [stored(&old(), 1, proven(), None)];
    assert!(plan(&new(), &existing, &[ready(&new())], Some(&refused), 5).hold);
    assert!(!plan(&new(), &[], &[ready(&new())], Some(&refused), 5).hold);
    assert!(!plan(&new(), &existing, &[], None, 5).hold);
}

#[test]
fn the_clock_stands_still_while_suspended() {
    let suspended = owner(json!({"suspend": true}));
    let existing = [stored(&old(), 1, Verdict::Open, Some(at(0)))];
    let stopped = plan(&suspended, &existing, &[], None, 9999);
    assert_eq!(
        (stopped.wanted.started, stopped.wanted.verdict.clone()),
        (None, Verdict::Open)
    );
    let resumed: ControllerRevision = serde_json::from_value(stopped.wanted.write(&suspended)).expect("revision");
    assert_eq!(
        plan(&old(), &[resumed], &[], None, 10_000).wanted.started,
        Some(at(10_000))
    );
}

#[test]
fn what_is_not_the_engines_fault_is_no_crash() {
    let existing = [stored(&old(), 1, proven(), None)];
    let lost = json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}});
    let with_node_lost = pod(&new(), fixtures::serving(false, json!({"running": {}}), lost));
    let mut evicted = crashed(&new());
    evicted.status.as_mut().expect("status").phase = Some("Failed".into());
    let mut ending = crashed(&new());
    ending.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    for innocent in [with_node_lost, evicted, ending] {
        assert!(!plan(&new(), &existing, &[innocent], None, 5).is_rolled_back());
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
                    proven()
                } else {
                    Verdict::Failed("x".into())
                },
                None,
            )
        })
        .collect();
    let plan = plan(&owners[8], &existing, &[], None, 5);
    let kept: BTreeSet<&str> = plan.revisions.iter().map(|revision| revision.id.as_str()).collect();
    assert_eq!(kept.len(), 6, "the newest five and the good one");
    assert!(kept.contains(owners[8].revision()) && kept.contains(owners[0].revision()));
    assert_eq!(plan.expired.len(), 3);
    assert_eq!(plan.deployed.id, owners[0].revision());
}

#[test]
fn a_revision_that_was_tampered_with_is_ignored() {
    let mut broken = stored(&old(), 1, proven(), None);
    broken.data.0 = json!({"inputs": 7});
    let plan = plan(&old(), &[broken], &[], None, 5);
    assert_eq!(plan.wanted.verdict, Verdict::Open);
}
