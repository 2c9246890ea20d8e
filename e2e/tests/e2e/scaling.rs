//! Who decides the number of pods: the spec, `kubectl scale`, or somebody else's autoscaler.
use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use windlass_crds::ModelDeployment;
use windlass_e2e::audit::{AuditLog, Entry};
use windlass_e2e::model::{is_because, is_ready, tiny};
use windlass_e2e::operator::Operator;
use windlass_e2e::until::until_is;
use windlass_e2e::{Needs, Space, test};

use crate::stand::{READY, because, hub_and_operator, ready};

/// The field manager with which the operator writes a number of replicas.
const SCALE_MANAGER: &str = "windlass-scale";

#[test]
fn an_autoscaler_of_the_deployment_decides_the_number_of_pods_and_the_operator_never_writes_it() {
    test("external", Needs::Own, async |space| {
        let (_hub, operator) = hub_and_operator(space).await?;
        space
            .apply(&tiny("chat", json!({"scaling": {"mode": "External"}}))?)
            .await?;
        ready(space, "chat").await?;
        let log = AuditLog::from_now(&space.env.audit_log)?;

        // What HorizontalPodAutoscaler and KEDA do.
        scale(space, "deployment/chat-model", 2).await?;
        serves(space, "chat", "2/2").await?;
        scale(space, "deployment/chat-model", 0).await?;
        let object = because(space, "chat", "Ready", "False", "ScaledToZero").await?;
        space.capture("suspended-scaled-to-zero", &object)?;
        scale(space, "deployment/chat-model", 1).await?;
        serves(space, "chat", "1/1").await?;
        let written = deployment_writes(&log, &operator)?;
        ensure!(
            written.is_empty(),
            "the operator wrote the Deployment:\n{}",
            written.join("\n")
        );

        // An edit rolls out without touching the number.
        scale(space, "deployment/chat-model", 2).await?;
        space
            .merge::<ModelDeployment>("chat", json!({"spec": {"podAnnotations": {"example.com/edit": "1"}}}))
            .await?;
        ready(space, "chat").await?;
        serves(space, "chat", "2/2").await?;
        ensure!(
            !deployment_writes(&log, &operator)?.is_empty(),
            "the audit log does not show the edit's write"
        );
        let deployment = space.api::<Deployment>().get("chat-model").await?;
        let managers = deployment.metadata.managed_fields.unwrap_or_default();
        ensure!(
            managers
                .iter()
                .all(|entry| entry.manager.as_deref() != Some(SCALE_MANAGER)),
            "the operator owns the number of replicas: {managers:?}"
        );
        Ok(())
    });
}

#[test]
fn kubectl_scale_changes_the_number_of_pods() {
    test("kubectl-scale", Needs::Own, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        space.apply(&tiny("chat", json!({"replicas": 1}))?).await?;
        ready(space, "chat").await?;
        scale(space, "modeldeployment/chat", 2).await?;
        serves(space, "chat", "2/2").await?;
        let refused = space
            .try_kubectl(&["scale", "modeldeployment/chat", "--replicas=0"])
            .await?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            !refused.status.success() && said.contains("spec.suspend"),
            "zero replicas: {said:?}"
        );
        Ok(())
    });
}

async fn scale(space: &Space, what: &str, replicas: u32) -> Result<()> {
    space
        .kubectl(&["scale", what, &format!("--replicas={replicas}")])
        .await
        .map(drop)
}

/// Waits until so many of so many pods serve and nothing is under way.
async fn serves(space: &Space, name: &str, summary: &str) -> Result<()> {
    let settled = |object: &ModelDeployment| {
        let status = object.status.as_ref();
        let replicas = status.and_then(|status| status.replicas.as_ref());
        is_ready(object)
            && is_because(object, "Reconciling", "False", "Settled")
            && replicas.and_then(|replicas| replicas.summary.as_deref()) == Some(summary)
    };
    until_is(&space.api(), name, &format!("{summary} pods"), READY, settled)
        .await
        .map(drop)
}

fn deployment_writes(log: &AuditLog, operator: &Operator) -> Result<Vec<String>> {
    let of_deployments = |entry: &Entry| {
        let object = entry.object_ref.as_ref();
        entry.is_write()
            && entry.actor() == operator.user
            && object.is_some_and(|object| object.resource == "deployments")
    };
    Ok(log.entries(of_deployments)?.iter().map(Entry::line).collect())
}
