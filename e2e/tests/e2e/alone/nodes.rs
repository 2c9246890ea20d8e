//! A node is lost: the status says so, the models go on elsewhere, and the node that comes back is used again.
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::time::Instant;
use windlass_crds::ModelDeployment;
use windlass_e2e::model::{is, is_because, is_ready, tiny};
use windlass_e2e::until::{until_all, until_is};
use windlass_e2e::{Needs, Space, test};

use crate::stand::hub_and_operator;

/// Kubernetes takes 12 s to miss a node of the test cluster; a pod that moves starts in seconds.
const MOVED: Duration = Duration::from_secs(90);

#[test]
fn models_of_a_lost_node_are_reported_to_be_down_and_move_to_another_one() {
    test("node-lost", Needs::OwnAlone, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        space
            .apply(&tiny("one", json!({"placement": on_n2_if_possible()}))?)
            .await?;
        space
            .apply(&tiny("two", json!({"replicas": 2, "placement": apart()}))?)
            .await?;
        for name in ["one", "two"] {
            settled(space, name).await?;
        }
        runs_on(space, "one", &["n2"]).await?;
        runs_on(space, "two", &["n1", "n2"]).await?;

        space.cluster(&["kill-node", "n2"]).await?;
        let moved = models_move(space).await;
        let started = Instant::now();
        space.cluster(&["start-node", "n2"]).await?;
        eprintln!("--- started after {:.1} s", started.elapsed().as_secs_f32());
        let recovered = everything_runs(space).await;
        eprintln!("--- all runs after {:.1} s", started.elapsed().as_secs_f32());
        moved?;
        recovered?;
        // The pod that was replaced is gone for good, and the spread is what it was.
        for name in ["one", "two"] {
            settled(space, name).await?;
        }
        Ok(())
    });
}

async fn models_move(space: &Space) -> Result<()> {
    let lost = Instant::now();
    let models = space.api::<ModelDeployment>();
    let is_down = |object: &ModelDeployment| {
        is_because(object, "Available", "False", "NoReadyPods") && is_because(object, "Ready", "False", "NodeLost")
    };
    let object = until_is(&models, "one", "the loss to be reported", MOVED, is_down).await?;
    ensure!(is(&object, "Reconciling", "True"), "a model that is down is at rest");
    ensure!(summary(&object) == Some("0/1"), "replicas {:?}", summary(&object));
    space.capture("inprogress-node-lost", &object)?;
    let degraded = |object: &ModelDeployment| summary(object) == Some("1/2") && is(object, "Reconciling", "True");
    let object = until_is(&models, "two", "one of two replicas to be reported", MOVED, degraded).await?;
    ensure!(
        is(&object, "Available", "True"),
        "the replica on the other node does not count"
    );

    until_is(&models, "one", "Ready=True on another node", MOVED, is_ready).await?;
    runs_on(space, "one", &["n1"]).await?;
    eprintln!("--- moved after {:.1} s", lost.elapsed().as_secs_f32());
    Ok(())
}

async fn settled(space: &Space, name: &str) -> Result<()> {
    let settled = |object: &ModelDeployment| is_ready(object) && is(object, "Reconciling", "False");
    let models = space.api::<ModelDeployment>();
    until_is(&models, name, "a model at rest", MOVED, settled).await?;
    let is_going = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let none_goes = |pods: &[Pod]| !pods.iter().any(is_going);
    until_all(
        &space.api::<Pod>(),
        &labels(name),
        "the lost pods to be gone",
        MOVED,
        none_goes,
    )
    .await
    .map(drop)
}

/// Other tests need the node and all that ran on it.
async fn everything_runs(space: &Space) -> Result<()> {
    let nodes = Api::<Node>::all(space.client.clone());
    let is_back = |node: &Node| {
        let status = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = status
            .into_iter()
            .flatten()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        ready
            && node
                .spec
                .as_ref()
                .is_none_or(|spec| spec.taints.as_ref().is_none_or(Vec::is_empty))
    };
    until_is(&nodes, "n2", "the node to be back", MOVED, is_back).await?;
    let pods = Api::<Pod>::all(space.client.clone());
    until_all(&pods, "", "every pod of the cluster to run", MOVED, |pods| {
        pods.iter().all(runs)
    })
    .await
    .map(drop)
}

fn runs(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|one| one.type_ == "Ready" && one.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

async fn runs_on(space: &Space, name: &str, nodes: &[&str]) -> Result<()> {
    let pods = space
        .api::<Pod>()
        .list(&ListParams::default().labels(&labels(name)))
        .await?;
    let mut found: Vec<&str> = pods
        .iter()
        .filter(|pod| runs(pod))
        .filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref())
        .collect();
    found.sort_unstable();
    ensure!(found == nodes, "{name} runs on {found:?}, expected {nodes:?}");
    Ok(())
}

/// Prefers the node that is going to be lost, and gives it up after 5 s instead of the 60 s that every
/// model has by default (`placement.rs` sees them on a real pod).
fn on_n2_if_possible() -> Value {
    let n2 = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]});
    let preferred = json!([{"weight": 100, "preference": n2}]);
    json!({"tolerations": impatient(), "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}})
}

/// One replica a node, and none at all where there is no other node.
fn apart() -> Value {
    let constraint =
        json!({"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"});
    json!({"topologySpreadConstraints": [constraint]})
}

fn impatient() -> Value {
    let soon = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
    json!(["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(soon))
}

fn labels(name: &str) -> String {
    format!("windlass.dev/model-deployment={name}")
}

fn summary(object: &ModelDeployment) -> Option<&str> {
    object.status.as_ref()?.replicas.as_ref()?.summary.as_deref()
}
