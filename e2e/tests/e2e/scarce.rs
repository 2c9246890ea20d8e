//! Clusters in which there is no room for a second pod, or something that a pod needs is missing.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, ResourceQuota, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use windlass_crds::ModelDeployment;
use windlass_e2e::model::{condition, is_because, is_ready, tiny};
use windlass_e2e::until::until_is;
use windlass_e2e::{Needs, Space, test};

use crate::stand::{because, hub_and_operator, ready};

/// A minute without room, and a rollout.
const GIVES_WAY: Duration = Duration::from_secs(150);
/// A user waits no longer for the reason.
const SHOWN: Duration = Duration::from_secs(30);
/// An accelerator that only this test's node has.
const ACCELERATOR: &str = "example.com/scarce";

#[test]
fn an_edit_rolls_out_where_accelerators_or_a_quota_leave_no_room_for_two_pods() {
    test("no-room", Needs::Own, async |space| {
        let nodes: Api<Node> = Api::all(space.client.clone());
        advertise(&nodes, "n2", Some("1")).await?;
        let outcome = futures::try_join!(accelerator_is_taken(space), space.in_another("quota", quota_is_used_up));
        advertise(&nodes, "n2", None).await?;
        outcome.map(drop)
    });
}

async fn accelerator_is_taken(space: &Space) -> Result<()> {
    let (_hub, _operator) = hub_and_operator(space).await?;
    let only = json!({"resources": {"accelerator": {"resource": ACCELERATOR}}});
    space.apply(&tiny("chat", only)?).await?;
    rolls_out_without_surge(space, "Insufficient example.com/scarce").await?;
    // The next edit tries to surge again.
    let change = json!({"spec": {"podAnnotations": {"example.com/edit": "2"}}});
    space.merge::<ModelDeployment>("chat", change).await?;
    let surges = |object: &ModelDeployment| strategy(object) == Some("Surge") && !is_ready(object);
    until_is(&space.api(), "chat", "the surge to be tried again", SHOWN, surges).await?;
    Ok(())
}

async fn quota_is_used_up(space: &Space) -> Result<()> {
    let (_hub, _operator) = hub_and_operator(space).await?;
    let quota: ResourceQuota =
        serde_json::from_value(json!({"metadata": {"name": "one-pod"}, "spec": {"hard": {"pods": "1"}}}))?;
    space.create(&quota).await?;
    space.apply(&tiny("chat", json!({}))?).await?;
    rolls_out_without_surge(space, "exceeded quota").await
}

/// Edits a model for whose second pod there is no room; it must get there all the same, and say how.
async fn rolls_out_without_surge(space: &Space, why: &str) -> Result<()> {
    ready(space, "chat").await?;
    because(space, "chat", "Reconciling", "False", "Settled").await?;
    let change = json!({"spec": {"podAnnotations": {"example.com/edit": "1"}}});
    space.merge::<ModelDeployment>("chat", change).await?;
    let says_how = |object: &ModelDeployment| strategy(object) == Some("Replace");
    let object = until_is(&space.api(), "chat", "the surge to be given up", GIVES_WAY, says_how).await?;
    let said = &condition(&object, "Reconciling").context("no Reconciling")?.message;
    ensure!(said.contains(why), "Reconciling says {said:?}");
    until_is(&space.api(), "chat", "Ready=True", GIVES_WAY, is_ready).await?;
    because(space, "chat", "Reconciling", "False", "Settled")
        .await
        .map(drop)
}

#[test]
fn a_volume_that_cannot_be_mounted_is_named_within_half_a_minute_and_waited_for() {
    test("mount", Needs::Own, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        let files = json!([{"name": "files", "mountPath": "/files", "type": "Secret", "secret": {"name": "files"}}]);
        let applied = Instant::now();
        space
            .apply(&tiny("chat", json!({"engine": {"volumes": files}}))?)
            .await?;
        let named = |object: &ModelDeployment| is_because(object, "ResolvedRefs", "False", "ReferenceNotFound");
        let object = until_is(&space.api(), "chat", "the missing Secret to be named", SHOWN, named).await?;
        eprintln!("--- named after {:.1} s", applied.elapsed().as_secs_f32());
        let said = &condition(&object, "Ready").context("no Ready")?.message;
        ensure!(said.contains("secret \"files\" not found"), "Ready says {said:?}");
        space.capture("inprogress-volume-missing", &object)?;
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "files"}, "stringData": {"a": "b"}}))?;
        space.create(&secret).await?;
        // The kubelet tries again after a wait that doubles up to two minutes.
        until_is(&space.api(), "chat", "Ready=True", GIVES_WAY, is_ready)
            .await
            .map(drop)
    });
}

fn strategy(object: &ModelDeployment) -> Option<&str> {
    object.status.as_ref()?.revision.as_ref()?.strategy.as_deref()
}

/// Lets a node have this many of the accelerator, or none.
async fn advertise(nodes: &Api<Node>, node: &str, count: Option<&str>) -> Result<()> {
    let capacity: Value = json!({ ACCELERATOR: count });
    let change = json!({"status": {"capacity": capacity, "allocatable": capacity}});
    nodes
        .patch_status(node, &PatchParams::default(), &Patch::Merge(change))
        .await
        .map(drop)
        .with_context(|| format!("the accelerators of {node}"))
}
