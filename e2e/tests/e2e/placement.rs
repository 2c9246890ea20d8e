//! On which nodes models run: accelerators that the nodes advertise, and everything under `spec.placement`.
//! The accelerators are numbers and labels on real nodes; scheduler, kubelet and pods are real.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use windlass_crds::ModelDeployment;
use windlass_e2e::model::{condition, is, is_because, tiny};
use windlass_e2e::until::{until_all, until_is};
use windlass_e2e::{Needs, Space, test};

use crate::stand::{because, hub_and_operator, ready};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn an_impossible_accelerator_is_reported_in_the_schedulers_words_and_corrected_by_an_edit() {
    test("unschedulable", Needs::Own, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        let impossible = json!({"resources": {"accelerator": {"resource": "example.com/none"}},
            "rollout": {"progressDeadline": "10s"}});
        space.apply(&tiny("chat", impossible)?).await?;
        let object = because(space, "chat", "Scheduled", "False", "Unschedulable").await?;
        let words = schedulers_words(&pod(space, "chat").await?)?;
        ensure!(
            words.contains("Insufficient example.com/none"),
            "the scheduler says {words:?}"
        );
        for kind in ["Scheduled", "Ready"] {
            let said = condition(&object, kind)
                .map(|condition| condition.message.clone())
                .unwrap_or_default();
            ensure!(
                said.starts_with(words.trim_end_matches('.')),
                "{kind} says {said:?}, the scheduler {words:?}"
            );
            ensure!(said.contains("spec.resources"), "{said:?} names no next action");
        }
        ensure!(
            is(&object, "Reconciling", "True"),
            "an unschedulable model is not in progress"
        );
        space.capture("inprogress-unschedulable", &object)?;

        let object = because(space, "chat", "Stalled", "True", "ProgressDeadlineExceeded").await?;
        ensure!(
            is(&object, "Scheduled", "False"),
            "a pod without a node counts as scheduled"
        );
        space.capture("failed-progress-deadline", &object)?;

        space
            .merge::<ModelDeployment>("chat", json!({"spec": {"resources": null}}))
            .await?;
        let object = ready(space, "chat").await?;
        ensure!(is(&object, "Scheduled", "True"), "a ready model is not scheduled");

        space
            .merge::<ModelDeployment>("chat", json!({"spec": {"suspend": true}}))
            .await?;
        let models = space.api::<ModelDeployment>();
        let rests = |object: &ModelDeployment| {
            is_because(object, "Ready", "False", "Suspended") && is(object, "Reconciling", "False")
        };
        let object = until_is(&models, "chat", "a suspended model at rest", SOON, rests).await?;
        space.capture("suspended-by-an-edit", &object)
    });
}

#[test]
fn models_run_on_the_nodes_whose_accelerators_they_ask_for() {
    test("gpu", Needs::Own, async |space| {
        let nodes: Api<Node> = Api::all(space.client.clone());
        let outcome = async {
            advertise(&nodes, "n1", "Tesla-T4", "15360").await?;
            advertise(&nodes, "n2", "NVIDIA-L4", "23034").await?;
            placed_by_accelerator(space).await
        };
        let outcome = outcome.await;
        for node in ["n1", "n2"] {
            withdraw(&nodes, node).await?;
        }
        outcome
    });
}

async fn placed_by_accelerator(space: &Space) -> Result<()> {
    let (_hub, _operator) = hub_and_operator(space).await?;
    let placed = [
        ("by-product", json!({"products": ["NVIDIA-L4", "NVIDIA-A10G"]}), "n2"),
        ("by-memory", json!({"memory": "24Gi"}), "n2"),
        (
            "by-other-product",
            json!({"products": ["Tesla-T4"], "memory": "16Gi"}),
            "n1",
        ),
    ];
    for (name, demand, _) in &placed {
        space.apply(&tiny(name, accelerator(demand))?).await?;
    }
    for (name, _, node) in &placed {
        ready(space, name).await?;
        let pod = pod(space, name).await?;
        let spec = pod.spec.as_ref().context("no pod spec")?;
        ensure!(
            spec.node_name.as_deref() == Some(*node),
            "{name} runs on {:?}",
            spec.node_name
        );
        let engine = spec
            .containers
            .first()
            .and_then(|engine| engine.resources.clone())
            .unwrap_or_default();
        let limit = engine.limits.unwrap_or_default().remove("nvidia.com/gpu");
        ensure!(limit.is_some_and(|count| count.0 == "1"), "{name} has no accelerator");
    }
    // The accelerators of n2 are used up: the third one must not go to n1, where one is free.
    space
        .apply(&tiny("third", accelerator(&json!({"products": ["NVIDIA-L4"]})))?)
        .await?;
    let object = because(space, "third", "Scheduled", "False", "Unschedulable").await?;
    let said = condition(&object, "Scheduled")
        .map(|condition| condition.message.clone())
        .unwrap_or_default();
    ensure!(said.contains("Insufficient nvidia.com/gpu"), "{said:?}");
    Ok(())
}

#[test]
fn everything_under_placement_reaches_the_pod_and_rules_where_it_runs() {
    test("placement", Needs::Own, async |space| {
        let nodes: Api<Node> = Api::all(space.client.clone());
        let outcome = placed(space, &nodes).await;
        // The name of the namespace is that of all that this test puts next to it.
        let name = &space.namespace;
        let free = json!({"metadata": {"labels": {name: null}}, "spec": {"taints": null}});
        nodes.patch("n2", &PatchParams::default(), &Patch::Merge(free)).await?;
        let (now, client) = (DeleteParams::default(), space.client.clone());
        let classes = Api::<PriorityClass>::all(client.clone()).delete(name, &now).await;
        let runtimes = Api::<RuntimeClass>::all(client).delete(name, &now).await;
        outcome?;
        classes?;
        runtimes?;
        Ok(())
    });
}

async fn placed(space: &Space, nodes: &Api<Node>) -> Result<()> {
    let name = &space.namespace;
    let class = serde_json::from_value(json!({"metadata": {"name": name}, "value": 1000}))?;
    Api::<PriorityClass>::all(space.client.clone())
        .create(&PostParams::default(), &class)
        .await?;
    let runtime = serde_json::from_value(json!({"metadata": {"name": name}, "handler": "runc"}))?;
    Api::<RuntimeClass>::all(space.client.clone())
        .create(&PostParams::default(), &runtime)
        .await?;
    let taint = json!({"key": "e2e", "value": name, "effect": "NoSchedule"});
    let held = json!({"metadata": {"labels": {name: "held"}}, "spec": {"taints": [taint]}});
    nodes.patch("n2", &PatchParams::default(), &Patch::Merge(held)).await?;

    let toleration = json!({"key": "e2e", "operator": "Equal", "value": name, "effect": "NoSchedule"});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}]}}});
    let wanted = json!({"nodeSelector": {name: "held"}, "affinity": affinity, "priorityClassName": name,
        "runtimeClassName": name});
    let mut placement = wanted.clone();
    placement["tolerations"] = json!([toleration]);
    let (_hub, _operator) = hub_and_operator(space).await?;
    space.apply(&tiny("chat", json!({"placement": placement}))?).await?;
    ready(space, "chat").await?;

    let spec = serde_json::to_value(pod(space, "chat").await?.spec)?;
    for (field, value) in wanted.as_object().into_iter().flatten() {
        ensure!(
            spec[field] == *value,
            "{field} of the pod is {}, wanted {value}",
            spec[field]
        );
    }
    ensure!(spec["priority"] == 1000, "priority {}", spec["priority"]);
    ensure!(spec["nodeName"] == "n2", "the pod runs on {}", spec["nodeName"]);
    // What a lost node costs is ours to say: Kubernetes itself would add five minutes.
    let lost = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60});
    let tolerations = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(lost);
    let all = json!([toleration, tolerations[0], tolerations[1]]);
    ensure!(spec["tolerations"] == all, "tolerations {}", spec["tolerations"]);
    Ok(())
}

/// A node says that it has two accelerators of a product, as a device plugin and a discovery would. Real cards
/// show less memory than they are sold with.
async fn advertise(nodes: &Api<Node>, node: &str, product: &str, mebibytes: &str) -> Result<()> {
    let capacity = json!({"status": {"capacity": {"nvidia.com/gpu": "2"}}});
    nodes
        .patch_status(node, &PatchParams::default(), &Patch::Merge(capacity))
        .await?;
    let labels =
        json!({"metadata": {"labels": {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": mebibytes}}});
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(labels))
        .await?;
    let allocates = |node: &Node| {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        allocatable.is_some_and(|all| all.get("nvidia.com/gpu").is_some_and(|found| found.0 == "2"))
    };
    until_is(nodes, node, "its accelerators to be allocatable", SOON, allocates)
        .await
        .map(drop)
}

async fn withdraw(nodes: &Api<Node>, node: &str) -> Result<()> {
    let labels = json!({"metadata": {"labels": {"nvidia.com/gpu.product": null, "nvidia.com/gpu.memory": null}}});
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(labels))
        .await?;
    let none = json!({"status": {"capacity": {"nvidia.com/gpu": null}, "allocatable": {"nvidia.com/gpu": null}}});
    nodes
        .patch_status(node, &PatchParams::default(), &Patch::Merge(none))
        .await
        .map(drop)?;
    Ok(())
}

fn accelerator(demand: &Value) -> Value {
    let mut accelerator = demand.clone();
    accelerator["resource"] = json!("nvidia.com/gpu");
    json!({"resources": {"accelerator": accelerator}})
}

/// The only pod of a model.
async fn pod(space: &Space, name: &str) -> Result<Pod> {
    let labels = format!("windlass.dev/model-deployment={name}");
    let pods = until_all(&space.api::<Pod>(), &labels, "one pod", SOON, |pods| pods.len() == 1).await?;
    pods.into_iter().next().context("no pod")
}

fn schedulers_words(pod: &Pod) -> Result<String> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let scheduled = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled");
    scheduled
        .and_then(|condition| condition.message.clone())
        .context("the scheduler said nothing")
}
