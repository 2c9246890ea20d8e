//! What the API server refuses by itself, and that asking without storing is safe.
use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use serde_json::Value;
use windlass_crds::ModelDeployment;
use windlass_e2e::env::workspace;
use windlass_e2e::model::tiny;
use windlass_e2e::{Needs, Space, test};

const CRD: &str = "modeldeployments.windlass.dev";

#[test]
fn each_rule_of_the_schema_refuses_on_the_api_server_with_its_message() {
    test("refusals", Needs::Own, async |space| {
        let mut expected = BTreeSet::new();
        for entry in fs::read_dir(workspace().join("e2e/fixtures/refused"))? {
            let file = entry?.path();
            let text = fs::read_to_string(&file)?;
            let first = text.lines().next().and_then(|line| line.strip_prefix("# refused: "));
            let message = first.with_context(|| format!("{} does not say what it expects", file.display()))?;
            let path = file.to_str().context("a path that is no text")?;
            let output = space
                .try_kubectl(&["create", "--dry-run=server", "--filename", path])
                .await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success(), "{path} was accepted");
            ensure!(
                said.contains(message),
                "{path}: expected {message:?}, the API server said {said:?}"
            );
            expected.insert(message.to_owned());
        }
        for rule in rules(space).await? {
            let shown = expected.iter().any(|message| rule.contains(message.as_str()));
            ensure!(shown, "no fixture shows the rule {rule:?}");
        }
        Ok(())
    });
}

#[test]
fn diff_and_dry_run_store_nothing_and_a_stored_object_shows_no_difference() {
    test("dry-run", Needs::Own, async |space| {
        let object = tiny("chat", serde_json::json!({"suspend": true, "replicas": 2}))?;
        let file = space.folder.join("chat.yaml");
        fs::write(&file, serde_json::to_vec(&object)?)?;
        let path = file.to_str().context("a path that is no text")?;

        space
            .kubectl(&["apply", "--server-side", "--dry-run=server", "--filename", path])
            .await?;
        let diff = space
            .try_kubectl(&["diff", "--server-side", "--filename", path])
            .await?;
        ensure!(
            diff.status.code() == Some(1),
            "diff of a new object: {}",
            String::from_utf8_lossy(&diff.stderr)
        );
        ensure!(
            space.api::<ModelDeployment>().get_opt("chat").await?.is_none(),
            "a dry run stored the object"
        );

        space.kubectl(&["apply", "--server-side", "--filename", path]).await?;
        let diff = space
            .try_kubectl(&["diff", "--server-side", "--filename", path])
            .await?;
        ensure!(
            diff.status.success(),
            "an applied object differs: {}",
            String::from_utf8_lossy(&diff.stdout)
        );
        Ok(())
    });
}

#[test]
fn an_object_that_no_operator_has_seen_does_not_read_as_current() {
    test("unseen", Needs::Own, async |space| {
        let created = space
            .create(&tiny("chat", serde_json::json!({"suspend": true}))?)
            .await?;
        let observed = created.status.as_ref().and_then(|status| status.observed_generation);
        ensure!(
            observed == Some(-1),
            "the schema's default status is missing: {observed:?}"
        );
        space.capture("inprogress-unseen", &created)
    });
}

/// The messages of all rules in the installed schema of a ModelDeployment.
async fn rules(space: &Space) -> Result<BTreeSet<String>> {
    let crd = Api::<CustomResourceDefinition>::all(space.client.clone())
        .get(CRD)
        .await?;
    let mut messages = BTreeSet::new();
    collect(&serde_json::to_value(&crd.spec.versions)?, &mut messages);
    ensure!(
        messages.len() > 20,
        "the installed schema has only {} rules",
        messages.len()
    );
    Ok(messages)
}

fn collect(schema: &Value, messages: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                messages.extend(rule["message"].as_str().map(str::to_owned));
            }
            fields.values().for_each(|field| collect(field, messages));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, messages)),
        _ => {}
    }
}
