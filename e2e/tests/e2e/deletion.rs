//! Four ways in which a ModelDeployment goes, with and without an operator. Nothing of it stays behind, and
//! nothing hangs in its deletion: garbage collection is enough, no finalizer of ours is in the way.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, DynamicObject};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;
use windlass_crds::ModelDeployment;
use windlass_e2e::hub::Hub;
use windlass_e2e::inventory::{Inventory, called};
use windlass_e2e::model::tiny;
use windlass_e2e::operator::Operator;
use windlass_e2e::until::{until, until_all, until_is, until_some};
use windlass_e2e::{Needs, Space, test};

use crate::stand::{hub_and_operator, ready};

/// From the deletion until nothing is left. An idle engine ends in seconds; most of the time is that of
/// Kubernetes, which looks at a terminating namespace again after half of its pods' grace: a minute in all, and as much
/// again where a busy machine makes it look once more.
const GONE: Duration = Duration::from_secs(120);

/// Selects the pods of the model `chat`.
const CHAT: &str = "windlass.dev/model-deployment=chat";

/// Kinds of the objects that a served model consists of: ours, and what Kubernetes makes of them.
const KINDS: [&str; 11] = [
    "ConfigMap",
    "ControllerRevision",
    "Deployment",
    "EndpointSlice",
    "ModelDeployment",
    "NetworkPolicy",
    "Pod",
    "PodDisruptionBudget",
    "ReplicaSet",
    "Service",
    "ServiceAccount",
];

#[test]
fn a_deleted_model_takes_everything_along() {
    test("delete", Needs::Own, async |space| {
        let (_hub, _operator, model) = served(space).await?;
        let deleted = Instant::now();
        // In the foreground, the object stays until its children are gone: GitOps tools prune like that.
        let models = space.api::<ModelDeployment>();
        let answer = models.delete("chat", &DeleteParams::foreground()).await?;
        // The answer is the object as it waits; asking for it later may be too late.
        let going = answer.left().context("the deletion did not wait for the children")?;
        ensure!(
            going.metadata.deletion_timestamp.is_some(),
            "the object is not being deleted"
        );
        space.capture("terminating-foreground", &going)?;
        model.is_gone(deleted).await
    });
}

#[test]
fn a_model_deleted_while_no_operator_runs_takes_everything_along() {
    test("delete-unseen", Needs::Own, async |space| {
        let (_hub, operator, model) = served(space).await?;
        operator.stop().await?;
        let deleted = Instant::now();
        space.delete::<ModelDeployment>("chat").await?;
        model.is_gone(deleted).await?;

        operator.launch()?;
        // The operator that comes back works on another object, and makes nothing of the one that is gone.
        space.apply(&tiny("other", json!({"suspend": true}))?).await?;
        until_is(&space.api::<ModelDeployment>(), "other", "to be seen", GONE, |object| {
            object.status.as_ref().and_then(|status| status.observed_generation) > Some(0)
        })
        .await?;
        let all = model.inventory.of_namespace(&space.namespace).await?;
        let revived: Vec<String> = all.iter().map(called).filter(|name| is_of(name, "chat")).collect();
        ensure!(revived.is_empty(), "made again for a deleted object: {revived:?}");
        Ok(())
    });
}

#[test]
fn a_deleted_namespace_is_gone_although_the_operator_runs() {
    test("delete-space", Needs::Own, async |space| {
        let (_hub, _operator, model) = served(space).await?;
        namespace_is_gone(space, &model).await
    });
}

#[test]
fn model_and_namespace_go_after_the_operator_was_uninstalled() {
    test("delete-after", Needs::Own, async |space| {
        let (_hub, operator, model) = served(space).await?;
        operator.uninstall(space).await?;
        space.delete::<ModelDeployment>("chat").await?;
        namespace_is_gone(space, &model).await
    });
}

/// A model with all its objects, as they were seen.
struct Model {
    inventory: Inventory,
    pods: Api<Pod>,
    uids: Vec<String>,
}

/// A served model of which every kind of child exists, so that the search for what is left can fail.
async fn served(space: &Space) -> Result<(Hub, Operator, Model)> {
    let (hub, operator) = hub_and_operator(space).await?;
    space.apply(&tiny("chat", json!({}))?).await?;
    let object = ready(space, "chat").await?;
    ensure!(object.finalizers().is_empty(), "finalizers {:?}", object.finalizers());
    let inventory = Inventory::discover(space.client.clone()).await?;
    let family = inventory.family(&object.uid().context("no UID")?).await?;
    let kinds: BTreeSet<String> = family.iter().filter_map(|one| Some(one.types.clone()?.kind)).collect();
    ensure!(kinds.iter().eq(KINDS), "a served model consists of {kinds:?}");
    let uids: Vec<String> = family.iter().filter_map(ResourceExt::uid).collect();
    let found = inventory.left_of(&uids).await?.len();
    ensure!(
        found >= family.len(),
        "the search finds {found} of {} objects",
        family.len()
    );
    let pods = space.api();
    Ok((hub, operator, Model { inventory, pods, uids }))
}

impl Model {
    /// Waits until nothing of it exists, whatever its state.
    async fn is_gone(&self, deleted: Instant) -> Result<()> {
        // The pods end last; asking for all kinds again and again meanwhile would only keep the API server busy.
        let is_empty = |pods: &[Pod]| pods.is_empty();
        until_all(&self.pods, CHAT, "the pods to be gone", GONE, is_empty).await?;
        let within = GONE.saturating_sub(deleted.elapsed());
        let gone = until_some("everything to be gone", within, async || {
            let left = self.inventory.left_of(&self.uids).await?;
            ensure!(
                left.is_empty(),
                "left: {:?}",
                left.iter().map(state).collect::<Vec<_>>()
            );
            Ok(Some(()))
        });
        gone.await?;
        eprintln!("--- gone after {:.1} s", deleted.elapsed().as_secs_f32());
        Ok(())
    }
}

async fn namespace_is_gone(space: &Space, model: &Model) -> Result<()> {
    let deleted = Instant::now();
    let namespaces: Api<Namespace> = Api::all(space.client.clone());
    namespaces.delete(&space.namespace, &DeleteParams::background()).await?;
    let is_gone = |namespace: Option<&Namespace>| namespace.is_none();
    until(&namespaces, &space.namespace, "the namespace to be gone", GONE, is_gone).await?;
    eprintln!(
        "--- the namespace was gone after {:.1} s",
        deleted.elapsed().as_secs_f32()
    );
    model.is_gone(deleted).await
}

fn is_of(called: &str, model: &str) -> bool {
    let name = called.split_once('/').map_or(called, |(_, name)| name);
    !called.starts_with("Event/") && (name == model || name.starts_with(&format!("{model}-")))
}

fn state(object: &DynamicObject) -> String {
    let going = object.metadata.deletion_timestamp.is_some();
    format!("{}{}", called(object), if going { " (terminating)" } else { "" })
}
