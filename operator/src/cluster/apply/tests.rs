//! The writer against an API server in memory.
use std::time::{Duration, Instant};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};

use super::*;
use crate::cluster::memory_api::MemoryApi;

const PATH: &str = "/api/v1/namespaces/ns/configmaps/pins";

fn writer(api: &MemoryApi) -> Writer {
    let leadership = Leadership::default();
    leadership.extend(Instant::now() + Duration::from_secs(600));
    let metrics = Metrics::new().expect("metrics");
    Writer::new(api.client(), "test".into(), leadership, metrics, None)
}

fn intent(data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "pins", "namespace": "ns", "ownerReferences": [
            {"apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment", "name": "chat", "uid": "owner", "controller": true}]},
        "data": data,
    })
}

fn config_maps() -> ChildKind {
    ChildKind::of::<ConfigMap>()
}

async fn apply(writer: &Writer, api: &MemoryApi, data: Value) -> Result<Value, Error> {
    writer
        .apply(&config_maps(), intent(data), None, api.get(PATH).as_ref())
        .await
}

#[tokio::test]
async fn the_same_intent_is_written_once() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    apply(&writer, &api, json!({"a": "1"})).await.expect("create");
    apply(&writer, &api, json!({"a": "1"})).await.expect("again");
    assert_eq!(api.take_writes(), [format!("PATCH {PATH}")]);
}

#[tokio::test]
async fn a_changed_intent_is_written_and_what_it_no_longer_has_is_removed() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    apply(&writer, &api, json!({"a": "1", "b": "2"})).await.expect("create");
    apply(&writer, &api, json!({"a": "1"})).await.expect("change");
    assert_eq!(api.get(PATH).expect("object")["data"], json!({"a": "1"}));
    assert_eq!(api.take_writes().len(), 2);
}

#[tokio::test]
async fn what_others_change_is_repaired_and_what_they_add_is_left() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    apply(&writer, &api, json!({"a": "1"})).await.expect("create");
    let mut edited = api.get(PATH).expect("object");
    edited["data"] = json!({"a": "other", "theirs": "x"});
    edited["metadata"]["labels"] = json!({"theirs": "x"});
    api.put(PATH, edited);
    api.take_writes();
    apply(&writer, &api, json!({"a": "1"})).await.expect("repair");
    apply(&writer, &api, json!({"a": "1"})).await.expect("rest");
    let repaired = api.get(PATH).expect("object");
    assert_eq!(repaired["data"], json!({"a": "1", "theirs": "x"}));
    assert_eq!(repaired["metadata"]["labels"]["theirs"], "x");
    assert_eq!(api.take_writes().len(), 1);
}

#[tokio::test]
async fn an_object_of_somebody_else_is_refused_and_untouched() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    for owners in [
        json!([]),
        json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "another", "controller": true}]),
    ] {
        api.put(PATH, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pins", "namespace": "ns", "ownerReferences": owners}, "data": {"k": "v"}}));
        let before = api.get(PATH);
        let error = apply(&writer, &api, json!({"a": "1"})).await.expect_err("applied");
        assert!(matches!(error, Error::NameConflict { .. }), "{error:?}");
        assert_eq!(api.get(PATH), before);
    }
    assert_eq!(api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn an_object_that_appears_between_read_and_first_apply_is_refused_by_the_server() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    api.put(PATH, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pins", "namespace": "ns"}, "data": {"a": "theirs"}}));
    let before = api.get(PATH);
    let error = writer
        .apply(&config_maps(), intent(json!({"a": "1"})), None, None)
        .await
        .expect_err("applied");
    assert!(matches!(error, Error::NameConflict { .. }), "{error:?}");
    assert_eq!(api.get(PATH), before);
}

#[tokio::test]
async fn a_successor_with_the_same_name_is_not_overwritten() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    let old = apply(&writer, &api, json!({"a": "1"})).await.expect("create");
    api.remove(PATH);
    api.put(PATH, intent(json!({"a": "successor"})));
    let error = writer
        .apply(&config_maps(), intent(json!({"a": "2"})), None, Some(&old))
        .await
        .expect_err("applied");
    assert!(matches!(error, Error::Api { .. }), "{error:?}");
    assert_eq!(api.get(PATH).expect("object")["data"]["a"], "successor");
}

#[tokio::test]
async fn a_mutating_webhook_gets_one_attempt_and_another_after_a_foreign_change() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    api.mutate(Some(|object| object["data"]["a"] = json!("webhook")));
    for _ in 0..5 {
        apply(&writer, &api, json!({"a": "1"})).await.expect("apply");
    }
    assert_eq!(api.take_writes().len(), 1);
    let mut edited = api.get(PATH).expect("object");
    edited["data"]["theirs"] = json!("x");
    api.put(PATH, edited);
    for _ in 0..5 {
        apply(&writer, &api, json!({"a": "1"})).await.expect("apply");
    }
    assert_eq!(api.take_writes().len(), 1);
}

#[tokio::test]
async fn an_object_that_is_being_deleted_is_left_to_end() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    apply(&writer, &api, json!({"a": "1"})).await.expect("create");
    let mut ending = api.get(PATH).expect("object");
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    api.put(PATH, ending);
    api.take_writes();
    apply(&writer, &api, json!({"a": "2"})).await.expect("left");
    assert_eq!(api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_delete_meets_only_the_object_that_was_seen() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    let old = apply(&writer, &api, json!({"a": "1"})).await.expect("create");
    api.remove(PATH);
    apply(&writer, &api, json!({"a": "successor"}))
        .await
        .expect("create again");
    writer.delete(&config_maps(), &old).await.expect("delete");
    assert!(api.get(PATH).is_some(), "the successor was deleted");
    writer
        .delete(&config_maps(), &api.get(PATH).expect("live"))
        .await
        .expect("delete");
    assert!(api.get(PATH).is_none());
    writer.delete(&config_maps(), &old).await.expect("what is gone is gone");
}

fn deployments() -> ChildKind {
    ChildKind::of::<Deployment>()
}

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/ns/deployments/chat";

fn a_deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "chat", "namespace": "ns"},
        "spec": {"replicas": 1, "selector": {}, "template": {"spec": {"containers": []}}}})
}

#[tokio::test]
async fn replicas_have_a_manager_of_their_own_and_nothing_else() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    api.put(DEPLOYMENT, a_deployment());
    for _ in 0..3 {
        writer
            .scale(
                &deployments(),
                api.get(DEPLOYMENT).expect("object"),
                Replicas::Exactly(3),
            )
            .await
            .expect("scale");
    }
    assert_eq!(api.take_writes().len(), 1);
    let scaled = api.get(DEPLOYMENT).expect("object");
    assert_eq!(scaled["spec"]["replicas"], 3);
    assert_eq!(scaled["metadata"]["managedFields"][0]["manager"], names::MANAGER_SCALE);
}

#[tokio::test]
async fn scaling_reads_again_after_a_conflict() {
    let api = MemoryApi::default();
    let writer = writer(&api);
    api.put(DEPLOYMENT, a_deployment());
    let stale = api.get(DEPLOYMENT).expect("object");
    api.put(DEPLOYMENT, api.get(DEPLOYMENT).expect("object"));
    writer
        .scale(&deployments(), stale, Replicas::Exactly(2))
        .await
        .expect("scale");
    assert_eq!(api.get(DEPLOYMENT).expect("object")["spec"]["replicas"], 2);
}

#[test]
fn a_fault_is_read_from_its_flag() {
    assert_eq!("before:3".parse(), Ok(Fault::Before(3)));
    assert_eq!("after:1".parse(), Ok(Fault::After(1)));
    for nonsense in ["", "before", "before:", "during:1", "after:-1"] {
        assert!(nonsense.parse::<Fault>().is_err(), "{nonsense}");
    }
}
