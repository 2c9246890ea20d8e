//! Whole reconciles against an API server in memory.
use std::time::Instant;

use axum::{Router, http::StatusCode, routing::post};
use kube::runtime::events::{Recorder, Reporter};
use serde_json::{Value, json};
use windlass_crds::conditions::condition;

use super::*;
use crate::{
    apply::Writer,
    args::BuildConfig,
    context::Backoff,
    leader::Leadership,
    memory_api::{MemoryApi, Outage},
    metrics::Metrics,
    model_deployment::fixtures,
};

const OBJECT: &str = "/apis/windlass.dev/v1alpha1/namespaces/ns/modeldeployments/chat";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/ns/deployments/chat";
const SERVICE: &str = "/api/v1/namespaces/ns/services/chat";
const PODS: &str = "/api/v1/namespaces/ns/pods";

/// A cluster with `chat` in it, and an operator.
struct World {
    api: MemoryApi,
    context: Arc<Context>,
}

impl World {
    fn new(spec: Value) -> Self {
        let api = MemoryApi::default();
        api.put(OBJECT, Self::object(spec, 1));
        Self {
            context: Self::operator(&api, fixtures::config()),
            api,
        }
    }

    fn operator(api: &MemoryApi, config: BuildConfig) -> Arc<Context> {
        let leadership = Leadership::default();
        leadership.extend(Instant::now() + Duration::from_secs(600));
        Arc::new(Context {
            client: api.client(),
            writer: Writer::new(api.client(), leadership, Metrics::default(), None),
            recorder: Recorder::new(
                api.client(),
                Reporter {
                    controller: "windlass-operator".into(),
                    instance: Some("test".into()),
                },
            ),
            pods: prove::pod_client(),
            config,
            metrics: Metrics::default(),
            backoff: Backoff::default(),
            schema_skew: None,
        })
    }

    fn object(spec: Value, generation: i64) -> Value {
        json!({
            "apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "chat", "namespace": "ns", "uid": "owner", "generation": generation}, "spec": spec,
        })
    }

    fn edit(&self, spec: Value) {
        let mut object = self.api.get(OBJECT).expect("object");
        object["spec"] = spec;
        let generation = object["metadata"]["generation"].as_i64().expect("generation");
        object["metadata"]["generation"] = json!(generation + 1);
        self.api.put(OBJECT, object);
    }

    async fn reconcile(&self) -> Result<Action, Error> {
        let metadata = serde_json::from_value(json!({"name": "chat", "namespace": "ns"})).expect("metadata");
        reconcile(
            Arc::new(Watched {
                types: None,
                metadata,
                _phantom: PhantomData,
            }),
            self.context.clone(),
        )
        .await
    }

    fn ready(&self) -> (String, String) {
        self.condition(condition::READY)
    }

    fn condition(&self, type_: &str) -> (String, String) {
        let object = self.api.get(OBJECT).expect("object");
        let conditions = object["status"]["conditions"].as_array().expect("conditions").clone();
        let found = conditions
            .iter()
            .find(|condition| condition["type"] == type_)
            .expect("condition");
        let text = |key: &str| found[key].as_str().expect("text").to_owned();
        (text("status"), text("reason"))
    }

    /// What the Deployment's template says now, run as a pod with this status.
    fn run_pod(&self, name: &str, status: Value) {
        let deployment = self.api.get(DEPLOYMENT).expect("Deployment");
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        self.api.put(&format!("{PODS}/{name}"), json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "ns", "labels": labels, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "chat-abc", "uid": "rs", "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "engine"}]},
            "status": status,
        }));
    }
}

fn hub() -> Value {
    json!({"model": {"source": fixtures::SOURCE}})
}

/// A Custom runtime on this port of the loopback, where the test answers.
fn on_port(port: u16, revision: u32) -> Value {
    let custom = json!({"image": "x", "port": port, "args": [revision.to_string()]});
    json!({"model": {"source": fixtures::SOURCE}, "engine": {"runtime": "Custom", "custom": custom}})
}

async fn engine(status: StatusCode) -> u16 {
    let answer = move || async move { (status, r#"{"choices":[{"text":"!"}]}"#) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/completions", post(answer))).await });
    port
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
    let world = World::new(hub());
    world.reconcile().await.expect("first");
    let writes = world.api.take_writes();
    assert_eq!(writes.len(), 9, "{writes:#?}");
    assert!(writes.last().is_some_and(|last| last.ends_with("/status")));
    world.reconcile().await.expect("second");
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
    // A restarted operator knows nothing but the cluster.
    let restarted = World {
        context: World::operator(&world.api, fixtures::config()),
        api: world.api.clone(),
    };
    restarted.reconcile().await.expect("third");
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn it_is_ready_only_after_a_real_answer_and_is_asked_once() {
    let world = World::new(on_port(engine(StatusCode::OK).await, 1));
    world.reconcile().await.expect("children");
    assert_eq!(world.ready().1, "Progressing");
    world.run_pod("chat-abc-1", ready_pod());
    world.reconcile().await.expect("proof");
    assert_eq!(world.ready(), ("True".to_owned(), "Serving".to_owned()));
    assert_eq!(world.api.take_events(), ["Ready", "ModelVerified"]);
    // The engine is gone, the proof stays: the revision is the same.
    world.edit({
        let mut spec = world.api.get(OBJECT).expect("object")["spec"].clone();
        spec["replicas"] = json!(2);
        spec
    });
    world.reconcile().await.expect("scale");
    assert_eq!(world.ready().0, "True");
    assert_eq!(world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["replicas"], 2);
}

#[tokio::test]
async fn an_engine_that_says_ready_and_answers_500_never_makes_it_ready() {
    let world = World::new(on_port(engine(StatusCode::INTERNAL_SERVER_ERROR).await, 1));
    world.reconcile().await.expect("children");
    world.run_pod("chat-abc-1", ready_pod());
    for _ in 0..3 {
        world.reconcile().await.expect("proof");
    }
    assert_eq!(world.ready(), ("False".to_owned(), "ProofFailed".to_owned()));
    assert_eq!(world.condition(condition::AVAILABLE).0, "False");
    assert_eq!(world.api.take_events(), ["ProofFailed", "ModelVerified"]);
}

#[tokio::test]
async fn a_crash_of_an_edit_returns_to_the_last_good_template_and_is_remembered() {
    let port = engine(StatusCode::OK).await;
    let world = World::new(on_port(port, 1));
    world.reconcile().await.expect("children");
    world.run_pod("chat-abc-1", ready_pod());
    world.reconcile().await.expect("proof");
    let good = world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"].clone();

    world.edit(on_port(port, 2));
    world.reconcile().await.expect("new revision");
    assert_ne!(world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"], good);
    world.run_pod("chat-abc-2", crashed_pod());
    world.reconcile().await.expect("roll back");
    assert_eq!(world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"], good);
    assert_eq!(world.ready(), ("False".to_owned(), "RevisionFailed".to_owned()));
    assert_eq!(world.condition(condition::AVAILABLE).0, "True");

    world.api.remove(&format!("{PODS}/chat-abc-2"));
    let restarted = World {
        context: World::operator(&world.api, fixtures::config()),
        api: world.api.clone(),
    };
    restarted.reconcile().await.expect("after a restart");
    assert_eq!(world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"], good);

    world.edit(on_port(port, 1));
    world.reconcile().await.expect("the good spec again");
    assert_eq!(world.ready().0, "True");
}

#[tokio::test]
async fn a_new_operator_re_rolls_nothing_and_says_that_it_would_render_differently() {
    let world = World::new(hub());
    world.reconcile().await.expect("old operator");
    world.api.take_writes();
    let template = world.api.get(DEPLOYMENT).expect("Deployment")["spec"]["template"].clone();
    let config = BuildConfig {
        server_image: "windlass-server:next".into(),
        ..fixtures::config()
    };
    let upgraded = World {
        context: World::operator(&world.api, config),
        api: world.api.clone(),
    };
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
async fn an_invalid_or_unreadable_object_is_told_once_and_its_children_are_left_alone() {
    for spec in [json!({"model": {"source": "ftp://x"}}), json!({"model": {"source": 7}})] {
        let world = World::new(hub());
        world.reconcile().await.expect("valid");
        let before = world.api.get(DEPLOYMENT);
        world.edit(spec);
        world.api.take_writes();
        for _ in 0..2 {
            world.reconcile().await.expect("refused");
        }
        assert_eq!(world.api.take_writes(), [format!("PATCH {OBJECT}/status")]);
        assert_eq!(world.api.get(DEPLOYMENT), before);
        assert_eq!(world.condition(condition::STALLED).0, "True");
        assert_eq!(
            world.api.get(OBJECT).expect("object")["status"]["observedGeneration"],
            2
        );
    }
}

#[tokio::test]
async fn a_name_that_is_taken_stops_everything_and_the_holder_stays_untouched() {
    let world = World::new(hub());
    world.api.put(SERVICE, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat", "namespace": "ns"}, "spec": {"ports": [{"port": 1}]}}));
    let before = world.api.get(SERVICE);
    world.reconcile().await.expect("conflict");
    assert_eq!(world.api.take_writes(), [format!("PATCH {OBJECT}/status")]);
    assert_eq!(world.api.get(SERVICE), before);
    assert_eq!(world.ready().1, "NameConflict");
    assert_eq!(world.api.take_events(), ["NameConflict"]);
    world.api.remove(SERVICE);
    world.reconcile().await.expect("free again");
    assert_eq!(world.ready().1, "Progressing");
}

#[tokio::test]
async fn a_refused_child_is_told_and_holds_up_no_other() {
    let world = World::new(hub());
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
    assert_eq!(world.ready().1, "Progressing");
}

#[tokio::test]
async fn what_others_do_to_the_children_is_undone() {
    let world = World::new(hub());
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
async fn an_own_service_account_goes_when_the_spec_names_another_one() {
    const ACCOUNT: &str = "/api/v1/namespaces/ns/serviceaccounts/chat";
    let world = World::new(hub());
    world.reconcile().await.expect("children");
    assert!(world.api.get(ACCOUNT).is_some());
    world.edit(json!({"model": {"source": fixtures::SOURCE}, "serviceAccountName": "theirs"}));
    world.reconcile().await.expect("named");
    assert!(world.api.get(ACCOUNT).is_none());
}

#[tokio::test]
async fn an_object_that_is_being_deleted_gets_nothing_new() {
    let world = World::new(hub());
    let mut ending = world.api.get(OBJECT).expect("object");
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    world.api.put(OBJECT, ending);
    world.reconcile().await.expect("left");
    world.api.remove(OBJECT);
    world.reconcile().await.expect("gone");
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

/// Create, prove, edit, crash, roll back: every step reconciled until it succeeds.
async fn story(port: u16, outage: Option<Outage>) -> (MemoryApi, usize) {
    let world = World::new(on_port(port, 1));
    world.api.fail(outage);
    let mut writes = 0;
    for step in 0..4 {
        match step {
            1 => world.run_pod("chat-abc-1", ready_pod()),
            2 => world.edit(on_port(port, 2)),
            3 => world.run_pod("chat-abc-2", crashed_pod()),
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
    let port = engine(StatusCode::OK).await;
    let (undisturbed, writes) = story(port, None).await;
    assert!(writes > 15, "{writes} writes");
    for number in 1..=writes {
        for outage in [Outage::Before(number), Outage::After(number)] {
            let (disturbed, _) = story(port, Some(outage)).await;
            assert_eq!(disturbed.snapshot(), undisturbed.snapshot(), "{outage:?}");
        }
    }
}
