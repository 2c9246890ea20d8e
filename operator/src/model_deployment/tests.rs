//! Whole reconciles against an API server in memory.
use serde_json::{Value, json};
use windlass_crds::conditions::condition;

use super::*;
use crate::{
    cluster::memory_api::{MemoryApi, Outage},
    kind::world::World as OfKind,
    model_deployment::fixtures::{self, settings},
    names,
};

const OBJECT: &str = "/apis/windlass.dev/v1alpha1/namespaces/ns/modeldeployments/chat";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/ns/deployments/chat-model";
const SERVICE: &str = "/api/v1/namespaces/ns/services/chat-model";
const PODS: &str = "/api/v1/namespaces/ns/pods";

type World = OfKind<ModelDeployments>;

fn world(spec: Value) -> World {
    World::new(spec, settings())
}

fn ready_of(world: &World) -> (String, String) {
    world.condition(condition::READY)
}

/// What the Deployment's template says now, run as a pod with this status.
fn run_pod(world: &World, name: &str, status: Value) {
    let deployment = world.api.get(DEPLOYMENT).expect("Deployment");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    world.api.put(&format!("{PODS}/{name}"), json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "labels": labels, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "chat-model-abc", "uid": "rs", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "engine"}]},
        "status": status,
    }));
}

fn hub() -> Value {
    json!({"model": {"source": fixtures::SOURCE}})
}

/// The same with another revision.
fn revision(number: u32) -> Value {
    json!({"model": {"source": fixtures::SOURCE}, "engine": {"contextLength": 1000 + number}})
}

fn ready_pod() -> Value {
    fixtures::serving(true, json!({"running": {}}), json!({}))
}

fn crashed_pod() -> Value {
    fixtures::serving(
        false,
        json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        json!({"terminated": {"exitCode": 3, "reason": "Error"}}),
    )
}

#[tokio::test]
async fn a_new_object_gets_its_children_and_a_second_look_changes_nothing() {
    let world = self::world(hub());
    world.reconcile().await.expect("first");
    let writes = world.api.take_writes();
    assert_eq!(writes.len(), 7, "{writes:#?}");
    assert!(writes.last().is_some_and(|last| last.ends_with("/status")));
    world.reconcile().await.expect("second");
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
    // A restarted operator knows nothing but the cluster.
    let restarted = world.restarted();
    restarted.reconcile().await.expect("third");
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn it_is_ready_as_soon_as_a_pod_is_and_stays_so_for_edits_that_reach_no_pod() {
    let world = self::world(revision(1));
    world.reconcile().await.expect("children");
    assert_eq!(ready_of(&world).1, "Progressing");
    run_pod(&world, "chat-abc-1", ready_pod());
    world.reconcile().await.expect("ready");
    assert_eq!(ready_of(&world), ("True".to_owned(), "Serving".to_owned()));
    assert_eq!(world.api.take_events(), ["Ready", "ModelVerified"]);
    let mut spec = revision(1);
    spec["replicas"] = json!(2);
    world.edit(spec);
    world.reconcile().await.expect("scale");
    assert_eq!(ready_of(&world).0, "True");
    assert_eq!(world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["replicas"], 2);
}

#[tokio::test]
async fn a_number_of_replicas_that_belongs_to_an_autoscaler_is_reported_and_never_written() {
    let mut spec = hub();
    spec["scaling"] = json!({"mode": "External"});
    let world = self::world(spec.clone());
    world.reconcile().await.expect("children");
    let replicas = || world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["replicas"].clone();
    assert_eq!(replicas(), Value::Null, "the first number is Kubernetes' own default");
    run_pod(&world, "chat-abc-1", ready_pod());
    world.reconcile().await.expect("ready");
    let scale = |number: u32| {
        let mut deployment = world.api.get(DEPLOYMENT).expect("Deployment");
        deployment["spec"]["replicas"] = json!(number);
        world.api.put(DEPLOYMENT, deployment);
        world.api.take_writes();
    };
    let wrote_the_deployment = || {
        world
            .api
            .take_writes()
            .iter()
            .any(|write| write.contains("deployments/chat-model"))
    };

    scale(3);
    world.reconcile().await.expect("scaled up");
    assert!(!wrote_the_deployment());
    assert_eq!(world.object()["status"]["replicas"]["summary"], "1/3");
    assert_eq!(
        world.condition(condition::RECONCILING),
        ("True".to_owned(), "ReplicasNotReady".to_owned())
    );

    scale(0);
    world.api.remove(&format!("{PODS}/chat-abc-1"));
    world.reconcile().await.expect("scaled to zero");
    assert!(!wrote_the_deployment());
    assert_eq!(ready_of(&world), ("False".to_owned(), "ScaledToZero".to_owned()));
    assert_eq!(world.condition(condition::RECONCILING).0, "False");
    assert_eq!(world.condition(condition::STALLED).0, "False");

    // Suspension is the one thing that stops an autoscaler's pods, and its end gives the number back.
    scale(2);
    spec["suspend"] = json!(true);
    world.edit(spec.clone());
    world.reconcile().await.expect("suspended");
    assert_eq!(replicas(), 0);
    spec["suspend"] = json!(false);
    world.edit(spec);
    world.reconcile().await.expect("resumed");
    assert_eq!(replicas(), 1, "autoscalers do not return from zero");
    world.api.take_writes();
    world.reconcile().await.expect("again");
    assert!(!wrote_the_deployment());
}

#[tokio::test]
async fn a_pod_that_another_workload_made_is_not_counted() {
    let world = self::world(hub());
    world.reconcile().await.expect("children");
    run_pod(&world, "chat-abc-1", ready_pod());
    let path = format!("{PODS}/chat-abc-1");
    for (kind, name) in [
        ("ReplicaSet", "chat-model-two-6c9f7d"),
        ("StatefulSet", "chat-model-6c9f7d"),
    ] {
        let mut pod = world.api.get(&path).expect("pod");
        pod["metadata"]["ownerReferences"][0]["kind"] = json!(kind);
        pod["metadata"]["ownerReferences"][0]["name"] = json!(name);
        world.api.put(&path, pod);
        world.reconcile().await.expect("not counted");
        assert_eq!(ready_of(&world).1, "Progressing", "{kind} {name}");
    }
}

#[tokio::test]
async fn repeated_crashes_of_an_edit_return_to_the_last_verified_template_and_are_remembered() {
    let world = self::world(revision(1));
    world.reconcile().await.expect("children");
    run_pod(&world, "chat-abc-1", ready_pod());
    world.reconcile().await.expect("verified");
    let good = world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"].clone();

    world.edit(revision(2));
    world.reconcile().await.expect("new revision");
    assert_ne!(world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"], good);
    run_pod(&world, "chat-abc-2", crashed_pod());
    world.reconcile().await.expect("roll back");
    assert_eq!(world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"], good);
    assert_eq!(ready_of(&world), ("False".to_owned(), "RevisionFailed".to_owned()));
    assert_eq!(world.condition(condition::AVAILABLE).0, "True");

    world.api.remove(&format!("{PODS}/chat-abc-2"));
    let restarted = world.restarted();
    restarted.reconcile().await.expect("after a restart");
    assert_eq!(world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"], good);

    world.edit(revision(1));
    world.reconcile().await.expect("the good spec again");
    assert_eq!(ready_of(&world).0, "True");
}

#[tokio::test]
async fn a_new_operator_re_rolls_nothing_and_says_that_it_would_render_differently() {
    let world = self::world(hub());
    world.reconcile().await.expect("old operator");
    world.api.take_writes();
    let template = world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"].clone();
    let next = Settings {
        server_image: "windlass-server:next".into(),
        ..settings()
    };
    let upgraded = World::operator(&world.api, next);
    for _ in 0..2 {
        upgraded.reconcile().await.expect("new operator");
    }
    assert_eq!(world.api.take_writes(), [format!("PATCH {OBJECT}/status")]);
    assert_eq!(
        world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"],
        template
    );
    assert_eq!(
        world.api.get(OBJECT).expect("object")["status"]["revision"]["renderOutdated"],
        true
    );

    let mut object = world.api.get(OBJECT).expect("object");
    object["metadata"]["annotations"] = json!({names::ANNOTATION_RESTART: "1"});
    world.api.put(OBJECT, object);
    upgraded.reconcile().await.expect("restart");
    let image =
        world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image, "windlass-server:next");
    assert_eq!(
        world.api.get(OBJECT).expect("object")["status"]["revision"]["renderOutdated"],
        false
    );
}

#[tokio::test]
async fn a_refused_child_is_reported_and_holds_up_no_other() {
    let world = self::world(hub());
    world.api.forbid(Some("/networkpolicies/"));
    let error = world.reconcile().await.expect_err("not refused");
    assert_eq!(error.reason(), "write");
    assert!(world.api.get(DEPLOYMENT).is_some() && world.api.get(SERVICE).is_some());
    assert_eq!(
        world.condition(condition::RECONCILING),
        ("True".to_owned(), "ApplyFailed".to_owned())
    );
    world.api.forbid(None);
    world.reconcile().await.expect("allowed again");
    assert_eq!(ready_of(&world).1, "Progressing");
}

#[tokio::test]
async fn what_others_do_to_the_children_is_undone() {
    let world = self::world(hub());
    world.reconcile().await.expect("children");
    let mut deployment = world.api.get(DEPLOYMENT).expect("Deployment");
    deployment["spec"]["replicas"] = json!(7);
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("theirs");
    world.api.put(DEPLOYMENT, deployment);
    world.api.remove(SERVICE);
    world.api.take_writes();
    world.reconcile().await.expect("repair");
    let repaired = world.api.get(DEPLOYMENT).expect("Deployment");
    assert_eq!(repaired["spec"]["replicas"], 1);
    assert_eq!(
        repaired["spec"]["template"]["spec"]["containers"][0]["image"],
        "windlass-server:test"
    );
    assert!(world.api.get(SERVICE).is_some());
    assert_eq!(world.api.take_writes().len(), 3);
}

#[tokio::test]
async fn an_own_service_account_stays_until_no_revision_that_stays_runs_as_it() {
    const ACCOUNT: &str = "/api/v1/namespaces/ns/serviceaccounts/chat-model";
    let world = self::world(hub());
    world.reconcile().await.expect("children");
    let mut named = hub();
    named["serviceAccountName"] = json!("theirs");
    world.edit(named.clone());
    world.reconcile().await.expect("named");
    assert!(world.api.get(ACCOUNT).is_some(), "the first revision may return");
    // Five more revisions, and the first one is forgotten.
    for number in 1..=5 {
        named["engine"] = json!({"contextLength": 1000 + number});
        world.edit(named.clone());
        world.reconcile().await.expect("next");
    }
    assert!(world.api.get(ACCOUNT).is_none());
}

#[tokio::test]
async fn drift_that_only_adds_is_undone_where_it_changes_the_meaning() {
    let world = self::world(hub());
    world.reconcile().await.expect("children");
    let mut service = world.api.get(SERVICE).expect("Service");
    service["spec"]["selector"]["stolen"] = json!("x");
    world.api.put(SERVICE, service);
    world.api.take_writes();
    world.reconcile().await.expect("repair");
    assert_eq!(world.api.take_writes(), [format!("PATCH {SERVICE}")]);
}

#[tokio::test]
async fn an_object_that_is_being_deleted_gets_nothing_new() {
    let world = self::world(hub());
    let mut ending = world.api.get(OBJECT).expect("object");
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    world.api.put(OBJECT, ending);
    world.reconcile().await.expect("left");
    world.api.remove(OBJECT);
    world.reconcile().await.expect("gone");
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

/// Create, verify, edit, crash, roll back: every step reconciled until it succeeds.
async fn story(outage: Option<Outage>) -> (MemoryApi, usize) {
    let world = self::world(revision(1));
    world.api.fail(outage);
    let mut writes = 0;
    for step in 0..4 {
        match step {
            1 => run_pod(&world, "chat-abc-1", ready_pod()),
            2 => world.edit(revision(2)),
            3 => run_pod(&world, "chat-abc-2", crashed_pod()),
            _ => {}
        }
        let mut attempts = 0;
        while world.reconcile().await.is_err() {
            attempts += 1;
            assert!(attempts < 4, "step {step} never succeeds with {outage:?}");
        }
        world.reconcile().await.expect("once more");
        writes = writes.max(world.api.writes());
    }
    (world.api.clone(), writes)
}

#[tokio::test]
async fn a_failure_at_any_write_ends_where_an_undisturbed_run_ends() {
    let (undisturbed, writes) = story(None).await;
    assert!(writes > 15, "{writes} writes");
    for number in 1..=writes {
        for outage in [Outage::Before(number), Outage::After(number)] {
            let (disturbed, _) = story(Some(outage)).await;
            assert_eq!(disturbed.snapshot(), undisturbed.snapshot(), "{outage:?}");
        }
    }
}
