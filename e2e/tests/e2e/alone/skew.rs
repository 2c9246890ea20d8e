//! The CRD is older than the operator: both say so, and what both know works. (`installed.rs` has an older operator.)
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use windlass_crds::ModelDeployment;
use windlass_e2e::model::{condition, tiny};
use windlass_e2e::operator::Operator;
use windlass_e2e::until::until_is;
use windlass_e2e::{Needs, Space, test};

use crate::stand::{READY, hub_and_operator, ready};

const CRD: &str = "modeldeployments.windlass.dev";
const HASH: &str = "windlass.dev/schema-hash";

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
