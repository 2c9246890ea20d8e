//! Operator and CRD are upgraded one by one, under models that serve. (`charts/lifecycle` tests Helm's part.)
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::process::Command;
use windlass_crds::ModelDeployment;
use windlass_e2e::model::{condition, is_ready, tiny};
use windlass_e2e::operator::{Operator, Settings};
use windlass_e2e::until::{until_all, until_is};
use windlass_e2e::{Needs, Space, test};

use crate::stand::{READY, hub, hub_and_operator, ready};

const CRD: &str = "modeldeployments.windlass.dev";
const HASH: &str = "windlass.dev/schema-hash";
const PODS: &str = "windlass.dev/model-deployment=chat";

#[test]
fn a_new_operator_that_renders_otherwise_touches_no_pod_until_the_spec_is_edited() {
    test("upgrade", Needs::Own, async |space| {
        let hub = hub(space).await?;
        let first = Operator::start(space, Settings::new(space, hub.url())?).await?;
        space.apply(&tiny("chat", json!({}))?).await?;
        let object = ready(space, "chat").await?;
        ensure!(!render_outdated(&object), "a fresh revision is outdated");
        let (pod, deployment) = (
            only_pod(space).await?,
            space.api::<Deployment>().get("chat-model").await?,
        );
        first.stop().await?;

        // Another engine, and templates that differ in more than that.
        let mut settings = Settings::new(space, hub.url())?;
        settings.name = "second".into();
        settings.server_image = other_engine(space).await?;
        settings.arguments = vec!["--image-pull-policy".into(), "Never".into()];
        let engine = settings.server_image.clone();
        let _second = Operator::start(space, settings).await?;
        let models = space.api::<ModelDeployment>();
        let object = until_is(&models, "chat", "renderOutdated", READY, render_outdated).await?;
        ensure!(is_ready(&object), "an outdated render is not ready any more");
        space.capture("current-render-outdated", &object)?;
        ensure!(
            only_pod(space).await?.uid() == pod.uid(),
            "the upgrade replaced the pod"
        );
        let after = space.api::<Deployment>().get("chat-model").await?;
        ensure!(
            after.metadata.generation == deployment.metadata.generation,
            "the upgrade changed the Deployment"
        );

        let change = json!({"spec": {"podAnnotations": {"example.com/edit": "1"}}});
        space.merge::<ModelDeployment>("chat", change).await?;
        let object = ready(space, "chat").await?;
        ensure!(!render_outdated(&object), "the edit did not take the new render");
        let spec = only_pod(space).await?.spec.context("a pod without spec")?;
        let container = &spec.containers[0];
        ensure!(
            container.image.as_ref() == Some(&engine),
            "the engine is {:?}",
            container.image
        );
        ensure!(
            container.image_pull_policy.as_deref() == Some("Never"),
            "the template is the old one: {container:?}"
        );
        Ok(())
    });
}

#[test]
fn an_older_crd_is_reported_in_log_and_status_and_what_it_knows_works() {
    test("skew", Needs::OwnAlone, async |space| {
        let installed: Value = serde_json::from_str(
            &space
                .kubectl(&["get", "crd", CRD, "--output", "json", "--show-managed-fields"])
                .await?,
        )?;
        let mut older = installed.clone();
        older["metadata"]["annotations"][HASH] = json!("older");
        let fields = older.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties");
        let fields = fields.and_then(Value::as_object_mut).context("a CRD without fields")?;
        fields
            .remove("podAnnotations")
            .context("the CRD has no podAnnotations")?;

        install(space, older).await?;
        let outcome = under_older_crd(space).await;
        install(space, installed).await?;
        let operator = outcome?;

        // The operator follows the CRD; no restart is needed.
        let _running = operator;
        space
            .merge::<ModelDeployment>("chat", json!({"spec": {"podAnnotations": {"example.com/edit": "1"}}}))
            .await?;
        let valid = |object: &ModelDeployment| accepted(object).contains("the spec is valid") && !is_skewed(object);
        until_is(&space.api(), "chat", "no skew", READY, valid).await.map(drop)
    });
}

async fn under_older_crd(space: &Space) -> Result<Operator> {
    let (_hub, operator) = hub_and_operator(space).await?;
    operator
        .await_log(
            "the installed CRD (schema older) is not the one of this operator",
            Duration::from_secs(10),
        )
        .await?;
    space.apply(&tiny("chat", json!({}))?).await?;
    let object = ready(space, "chat").await?;
    ensure!(is_skewed(&object), "Accepted says {:?}", accepted(&object));
    space.capture("current-schema-skew", &object)?;
    Ok(operator)
}

fn accepted(object: &ModelDeployment) -> &str {
    condition(object, "Accepted").map_or("", |condition| condition.message.as_str())
}

fn is_skewed(object: &ModelDeployment) -> bool {
    accepted(object).contains("schema older") && accepted(object).contains("Upgrade the charts")
}

fn render_outdated(object: &ModelDeployment) -> bool {
    let revision = object.status.as_ref().and_then(|status| status.revision.as_ref());
    revision.and_then(|revision| revision.render_outdated) == Some(true)
}

/// The one pod, once no other is left.
async fn only_pod(space: &Space) -> Result<Pod> {
    let pods = until_all(&space.api::<Pod>(), PODS, "one pod", READY, |pods| pods.len() == 1).await?;
    pods.into_iter().next().context("no pod")
}

/// Applies a CRD as the one who installed it, so that a later `helm upgrade` meets no other owner of a field.
async fn install(space: &Space, mut crd: Value) -> Result<()> {
    let metadata = crd["metadata"].as_object_mut().context("a CRD without metadata")?;
    let managers = metadata.remove("managedFields").unwrap_or_default();
    let managers = managers.as_array().into_iter().flatten();
    let installer = managers.clone().find(|manager| manager["operation"] == "Apply");
    let installer = installer
        .and_then(|manager| manager["manager"].as_str())
        .context("nobody applied the CRD")?;
    let installer = format!("--field-manager={installer}");
    metadata.retain(|field, _| matches!(field.as_str(), "name" | "labels" | "annotations"));
    crd.as_object_mut().map(|crd| crd.remove("status"));
    let file = space.folder.join("crd.json");
    std::fs::write(&file, serde_json::to_vec(&crd)?)?;
    let file = file.to_str().context("a path that is no text")?;
    space
        .kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            &installer,
            "--filename",
            file,
        ])
        .await
        .map(drop)
}

/// The engine's image under another name on all nodes. The name stands in its archive as plain text.
async fn other_engine(space: &Space) -> Result<String> {
    let name = space.env.image("server")?;
    let mut other = name.to_owned();
    other.pop();
    other.push('z');
    let mut archive = std::fs::read(space.env.archive("server")?)?;
    let places: Vec<usize> = archive
        .windows(name.len())
        .enumerate()
        .filter(|(_, window)| *window == name.as_bytes())
        .map(|(place, _)| place)
        .collect();
    ensure!(!places.is_empty(), "the archive does not name {name}");
    for place in places {
        archive[place..place + name.len()].copy_from_slice(other.as_bytes());
    }
    let file = space.folder.join("other-engine.tar");
    std::fs::write(&file, archive)?;
    let cluster = space.env.cluster.as_ref().context("WINDLASS_CLUSTER is not set")?;
    let loaded = Command::new(cluster)
        .arg("load")
        .arg(&file)
        .stdout(Stdio::null())
        .output()
        .await?;
    std::fs::remove_file(&file)?;
    ensure!(
        loaded.status.success(),
        "cluster load: {}",
        String::from_utf8_lossy(&loaded.stderr)
    );
    Ok(other)
}
