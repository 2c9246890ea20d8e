//! From an applied object to a streamed answer, as a user of the installed chart sees it.
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use windlass_crds::ModelDeployment;
use windlass_e2e::env::workspace;
use windlass_e2e::model::{condition, is, model, url};
use windlass_e2e::{Needs, Space, test};

use crate::stand::ready;

/// The model of the quickstart: source, digest and engine as its file says.
fn quickstart(name: &str) -> Result<ModelDeployment> {
    let text = fs::read_to_string(workspace().join("deploy/samples/quickstart.yaml"))?;
    let document = text.split("\n---\n").last().context("an empty quickstart")?;
    let object: Value = serde_yaml::from_str(document)?;
    model(name, object["spec"].clone())
}

#[test]
fn an_applied_model_becomes_ready_and_streams_the_golden_answer_to_another_pod() {
    test("serve", Needs::Installed, async |space| {
        space.apply(&quickstart("chat")?).await?;
        let object = ready(space, "chat").await?;
        space.capture("current-ready", &object)?;

        let golden = fs::read_to_string(workspace().join("e2e/fixtures/serve/golden.json"))?;
        let golden: Value = serde_json::from_str(&golden)?;
        let inside = space.inside().await?;
        let mut request = json!({"model": "chat", "temperature": 0, "stream": true});
        for field in ["messages", "max_tokens"] {
            request[field] = golden[field].clone();
        }
        let answer = inside
            .post(
                &format!("{}/v1/chat/completions", url(&object)?.trim_end_matches('/')),
                &request,
            )
            .await?;
        ensure!(
            answer.streamed_text()? == golden["text"],
            "the answer {:?}",
            answer.streamed_text()?
        );

        status_is_filled(&object)?;
        columns_are_filled(space).await
    });
}

fn status_is_filled(object: &ModelDeployment) -> Result<()> {
    let status = object.status.as_ref().context("no status")?;
    for kind in windlass_crds::model_deployment::CONDITIONS {
        let found = condition(object, kind).with_context(|| format!("no condition {kind}"))?;
        ensure!(found.status != "Unknown", "{kind} is Unknown on a ready object");
        ensure!(!found.message.is_empty(), "{kind} has no message");
    }
    ensure!(
        is(object, "Reconciling", "False") && is(object, "Stalled", "False"),
        "a ready object is not at rest"
    );
    let facts = status.model.as_ref().context("no status.model")?;
    let digest = object.spec.model.digest.as_deref();
    ensure!(
        facts.digest.as_deref() == digest,
        "digest {:?}, expected {digest:?}",
        facts.digest
    );
    ensure!(facts.format.as_deref() == Some("GGUF"), "format {:?}", facts.format);
    ensure!(
        facts.architecture.as_deref() == Some("llama"),
        "architecture {:?}",
        facts.architecture
    );
    ensure!(
        facts.size_bytes.is_some_and(|size| size > 90_000_000),
        "size {:?}",
        facts.size_bytes
    );
    ensure!(
        facts.parameters.is_some_and(|count| count > 130_000_000),
        "parameters {:?}",
        facts.parameters
    );
    ensure!(facts.download.is_none(), "a finished download is still reported");
    let replicas = status.replicas.as_ref().context("no status.replicas")?;
    ensure!(replicas.summary.as_deref() == Some("1/1"), "replicas {replicas:?}");
    let revision = status.revision.as_ref().context("no status.revision")?;
    ensure!(
        revision.desired.is_some() && revision.desired == revision.serving,
        "revision {revision:?}"
    );
    ensure!(revision.last_verified == revision.desired, "revision {revision:?}");
    Ok(())
}

async fn columns_are_filled(space: &Space) -> Result<()> {
    let table = space.kubectl(&["get", "wmd", "chat", "--output", "wide"]).await?;
    let (header, row) = table.split_once('\n').context("kubectl printed no row")?;
    let columns: Vec<&str> = header.split_whitespace().collect();
    ensure!(
        columns == ["NAME", "READY", "REASON", "REPLICAS", "MODEL", "URL", "AGE", "DIGEST"],
        "columns {columns:?}"
    );
    let cells: Vec<&str> = row.split_whitespace().collect();
    ensure!(cells.len() == columns.len(), "a cell is empty:\n{table}");
    ensure!(
        cells[1] == "True" && cells[3] == "1/1" && cells[7].starts_with("sha256:"),
        "cells\n{table}"
    );
    Ok(())
}
