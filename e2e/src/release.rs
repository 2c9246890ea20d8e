//! The release that the chart installed, changed as an administrator changes it: by Helm. Tests that need the cluster
//! alone may do so, and put it back.
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::space::Space;

/// Where the charts are installed.
pub const NAMESPACE: &str = "windlass-system";

/// Runs Helm in the namespace of the releases.
pub async fn helm(space: &Space, arguments: &[&str]) -> Result<String> {
    let output = Command::new("helm")
        .env("KUBECONFIG", &space.env.kubeconfig)
        .args(arguments)
        .args(["--namespace", NAMESPACE])
        .output()
        .await
        .context("running helm: is it on the PATH?")?;
    ensure!(
        output.status.success(),
        "helm {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Upgrades a release to a chart in a folder, with more values.
pub async fn upgrade(space: &Space, release: &str, chart: &Path, values: &[String]) -> Result<()> {
    let chart = chart.to_str().context("a path that is no text")?;
    let mut arguments = vec![
        "upgrade",
        release,
        chart,
        "--reuse-values",
        "--wait",
        "--timeout",
        "120s",
    ];
    for value in values {
        arguments.extend(["--set", value]);
    }
    helm(space, &arguments).await.map(drop)
}

/// Runs `body`, and rolls the releases back to what they were before it, also when it fails.
pub async fn restored<T>(space: &Space, releases: &[&str], body: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    let mut before = Vec::new();
    for release in releases {
        before.push((*release, revision(space, release).await?));
    }
    let outcome = body().await;
    for (release, number) in &before {
        if revision(space, release).await? != *number {
            let number = number.to_string();
            helm(space, &["rollback", release, &number, "--wait", "--timeout", "120s"]).await?;
        }
    }
    outcome
}

async fn revision(space: &Space, release: &str) -> Result<u64> {
    let history = helm(space, &["history", release, "--max", "1", "--output", "json"]).await?;
    let history: Value = serde_json::from_str(&history)?;
    history[0]["revision"].as_u64().context("a release without a revision")
}
