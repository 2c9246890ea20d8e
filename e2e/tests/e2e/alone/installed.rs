//! The operator as people run it: a pod of the chart, upgraded and doubled by Helm. Most other tests run it as a process
//! that they can watch and stop at any request.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use windlass_crds::ModelDeployment;
use windlass_e2e::env::workspace;
use windlass_e2e::hub::Hub;
use windlass_e2e::model::{condition, is_ready, tiny};
use windlass_e2e::release::{NAMESPACE, restored, upgrade};
use windlass_e2e::traffic::Traffic;
use windlass_e2e::until::{until_all, until_is, until_some};
use windlass_e2e::{Needs, Space, test};

use super::rollout::{STREAMS, edit_under_traffic, order};
use crate::stand::{READY, hub, ready};

const LEASE: &str = "windlass-operator";
const PODS: &str = "windlass.dev/model-deployment=chat";
const CHARTS: [&str; 2] = ["windlass", "windlass-crds"];
/// The lease of a pod that was killed runs out after 15 s.
const TAKEN_OVER: Duration = Duration::from_secs(60);

#[test]
fn the_charts_operator_rolls_out_without_a_lost_request_and_its_second_replica_takes_over() {
    test("installed", Needs::InstalledAlone, async |space| {
        let hub = hub(space).await?;
        restored(space, &["windlass"], async || {
            let values = [hub_value(&hub), "operator.replicas=2".to_owned()];
            upgrade(space, "windlass", &workspace().join("charts/windlass"), &values).await?;
            space.apply(&tiny("chat", json!({}))?).await?;
            ready(space, "chat").await?;
            let report = edit_under_traffic(space, json!({"podAnnotations": {"example.com/edit": "1"}})).await?;
            ensure!(report.failed() == 0, "requests were lost: {report:#?}");
            ensure!(
                report.streams_across_a_mark == STREAMS,
                "not all streams ran while the old pod drained: {report:#?}"
            );
            ensure!(
                report.kept.completed > 0,
                "no request on a kept connection: {report:#?}"
            );

            let leader = leader(space).await?;
            let pods = Api::<Pod>::namespaced(space.client.clone(), NAMESPACE);
            pods.delete(&leader, &DeleteParams::default().grace_period(0)).await?;
            let killed = Instant::now();
            space
                .merge::<ModelDeployment>("chat", json!({"spec": {"replicas": 2}}))
                .await?;
            let followed = |deployment: &Deployment| deployment.spec.replicas == Some(2);
            until_is(
                &space.api(),
                "chat-model",
                "the edit to be followed",
                TAKEN_OVER,
                followed,
            )
            .await?;
            eprintln!(
                "--- installed: an edit was followed {:.1} s after the leader's pod was killed",
                killed.elapsed().as_secs_f32()
            );
            ensure!(self::leader(space).await? != leader, "the killed pod still leads");
            ready(space, "chat").await.map(drop)
        })
        .await
    });
}

#[test]
fn an_upgrade_to_the_next_release_and_back_replaces_no_pod_and_loses_no_request() {
    test("next-release", Needs::InstalledAlone, async |space| {
        let hub = hub(space).await?;
        load_next(space).await?;
        restored(space, &CHARTS, async || {
            upgrade(
                space,
                "windlass",
                &workspace().join("charts/windlass"),
                &[hub_value(&hub)],
            )
            .await?;
            space.apply(&tiny("chat", json!({}))?).await?;
            let object = ready(space, "chat").await?;
            let (pod, generation) = (only_pod(space).await?, generation(space).await?);
            let inside = space.inside().await?;
            let mut order = order(&object)?;
            order.streams = 0;
            let traffic = Traffic::start(space, &inside, &order).await?;

            let charts = space.env.next.join("source/charts");
            upgrade(space, "windlass-crds", &charts.join("windlass-crds"), &[]).await?;
            let image = format!("images.operator={}", space.env.next_operator()?.0);
            upgrade(space, "windlass", &charts.join("windlass"), &[image]).await?;
            let object = until_is(&space.api(), "chat", "renderOutdated", READY, render_outdated).await?;
            ensure!(is_ready(&object), "the next operator does not call the model ready");
            space.capture("current-render-outdated", &object)?;
            unchanged(space, &pod, generation).await?;

            // Back to the operator of now, under the CRD of the next release.
            upgrade(
                space,
                "windlass",
                &workspace().join("charts/windlass"),
                &[current_image(space)?],
            )
            .await?;
            let skewed = |object: &ModelDeployment| {
                let accepted = condition(object, "Accepted").map_or("", |accepted| accepted.message.as_str());
                is_ready(object) && !render_outdated(object) && accepted.contains("Upgrade the charts")
            };
            until_is(&space.api(), "chat", "the skew to be reported", READY, skewed).await?;
            unchanged(space, &pod, generation).await?;
            let report = traffic.stop(READY).await?;
            ensure!(report.failed() == 0, "requests were lost: {report:#?}");
            ensure!(report.fresh.completed > 0, "there was no traffic: {report:#?}");

            // An edit takes the rendering of the operator that sees it.
            let image = format!("images.operator={}", space.env.next_operator()?.0);
            upgrade(space, "windlass", &charts.join("windlass"), &[image]).await?;
            until_is(&space.api(), "chat", "renderOutdated", READY, render_outdated).await?;
            let edit = json!({"spec": {"podAnnotations": {"example.com/edit": "1"}}});
            space.merge::<ModelDeployment>("chat", edit).await?;
            ready(space, "chat").await?;
            let spec = only_pod(space).await?.spec.context("a pod without spec")?;
            let startup = spec.containers[0].startup_probe.as_ref();
            let period = startup.and_then(|probe| probe.period_seconds);
            ensure!(
                period == Some(4),
                "the edit was rendered by another release: {startup:?}"
            );
            Ok(())
        })
        .await
    });
}

fn hub_value(hub: &Hub) -> String {
    format!("hub.url={}", hub.url())
}

fn current_image(space: &Space) -> Result<String> {
    Ok(format!("images.operator={}", space.env.image("operator")?))
}

/// The operator of the next release on all nodes.
async fn load_next(space: &Space) -> Result<()> {
    let (_, archive) = space.env.next_operator()?;
    let archive = archive.to_str().context("a path that is no text")?;
    space.cluster(&["load", archive]).await
}

/// The pod that leads, once one does.
async fn leader(space: &Space) -> Result<String> {
    let leases = Api::<Lease>::namespaced(space.client.clone(), NAMESPACE);
    until_some("an operator to lead", TAKEN_OVER, async || {
        let spec = leases.get(LEASE).await?.spec;
        Ok(spec.and_then(|spec| spec.holder_identity))
    })
    .await
}

fn render_outdated(object: &ModelDeployment) -> bool {
    let revision = object.status.as_ref().and_then(|status| status.revision.as_ref());
    revision.and_then(|revision| revision.render_outdated) == Some(true)
}

async fn only_pod(space: &Space) -> Result<Pod> {
    let pods = until_all(&space.api::<Pod>(), PODS, "one pod", READY, |pods| pods.len() == 1).await?;
    pods.into_iter().next().context("no pod")
}

async fn generation(space: &Space) -> Result<Option<i64>> {
    Ok(space.api::<Deployment>().get("chat-model").await?.metadata.generation)
}

/// The pod and the Deployment are what they were.
async fn unchanged(space: &Space, pod: &Pod, before: Option<i64>) -> Result<()> {
    ensure!(only_pod(space).await?.uid() == pod.uid(), "the pod was replaced");
    let now = generation(space).await?;
    ensure!(
        now == before,
        "the Deployment was changed: generation {before:?}, now {now:?}"
    );
    Ok(())
}
