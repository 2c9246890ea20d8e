//! What a failed test leaves behind: `target/e2e/<test>/` with all objects, events and logs, and the part
//! that most likely explains the failure on stderr. Values of Secrets are never written.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::inventory::{Inventory, called};
use crate::until::readable;

/// Lines of each log that go to stderr.
const EXCERPT: usize = 15;

/// The folder of one test's evidence, made empty.
pub fn folder(root: &Path, test: &str) -> Result<PathBuf> {
    let folder = root.join(test);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

/// Writes everything about a namespace into the folder and an excerpt to stderr. Goes on after errors:
/// half of the evidence is better than none.
pub async fn dump(client: &Client, namespace: &str, folder: &Path) {
    let mut excerpt = vec![format!("--- evidence in {}", folder.display())];
    match objects(client, namespace, folder).await {
        Ok(lines) => excerpt.extend(lines),
        Err(error) => excerpt.push(format!("no objects: {error:#}")),
    }
    match logs(client, namespace, folder).await {
        Ok(lines) => excerpt.extend(lines),
        Err(error) => excerpt.push(format!("no logs of pods: {error:#}")),
    }
    excerpt.extend(own_logs(folder));
    eprintln!("{}", excerpt.join("\n"));
}

/// Writes the log of the installed operator, whichever namespace it lives in.
pub async fn dump_installed_operator(client: &Client, namespace: &str, folder: &Path) {
    match logs(client, namespace, folder).await {
        Ok(lines) => eprintln!("--- the installed operator\n{}", lines.join("\n")),
        Err(error) => eprintln!("--- no log of the installed operator: {error:#}"),
    }
}

async fn objects(client: &Client, namespace: &str, folder: &Path) -> Result<Vec<String>> {
    let all = Inventory::discover(client.clone())
        .await?
        .of_namespace(namespace)
        .await?;
    let (mut events, objects): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|object| called(object).starts_with("Event/"));
    let text: Vec<String> = objects
        .iter()
        .map(|object| readable(&without_secrets(object)))
        .collect();
    fs::write(folder.join("objects.yaml"), text.join("---\n"))?;

    events.sort_by_key(|event| event.creation_timestamp().map(|time| time.0));
    let lines: Vec<String> = events.iter().map(event_line).collect();
    fs::write(folder.join("events.txt"), lines.join("\n"))?;

    let mut excerpt = vec![format!("--- last events of {namespace}")];
    excerpt.extend(lines.iter().rev().take(EXCERPT).rev().cloned());
    for object in objects
        .iter()
        .filter(|object| called(object).starts_with("ModelDeployment/"))
    {
        excerpt.push(format!(
            "--- status of {}\n{}",
            called(object),
            readable(&object.data["status"])
        ));
    }
    Ok(excerpt)
}

fn without_secrets(object: &DynamicObject) -> DynamicObject {
    let mut object = object.clone();
    for field in ["data", "stringData"] {
        let secret = called(&object).starts_with("Secret/");
        if let Some(values) = object
            .data
            .get_mut(field)
            .and_then(Value::as_object_mut)
            .filter(|_| secret)
        {
            values
                .values_mut()
                .for_each(|value| *value = Value::from("(not shown)"));
        }
    }
    object
}

fn event_line(event: &DynamicObject) -> String {
    let text = |pointers: &[&str]| {
        let found = pointers
            .iter()
            .find_map(|pointer| event.data.pointer(pointer).and_then(Value::as_str));
        found.unwrap_or_default().to_owned()
    };
    let time = event
        .creation_timestamp()
        .map(|time| time.0.to_string())
        .unwrap_or_default();
    let (kind, name) = (
        text(&["/involvedObject/kind", "/regarding/kind"]),
        text(&["/involvedObject/name", "/regarding/name"]),
    );
    format!(
        "{time} {} {} {kind}/{name}: {}",
        text(&["/type"]),
        text(&["/reason"]),
        text(&["/message", "/note"])
    )
}

async fn logs(client: &Client, namespace: &str, folder: &Path) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut excerpt = Vec::new();
    for pod in pods.list(&ListParams::default()).await? {
        let Some(spec) = &pod.spec else { continue };
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        for container in containers {
            for previous in [true, false] {
                let params = LogParams {
                    container: Some(container.name.clone()),
                    previous,
                    ..LogParams::default()
                };
                // Most containers have no previous log, and waiting ones have none at all.
                let Ok(text) = pods.logs(&pod.name_any(), &params).await else {
                    continue;
                };
                let name = format!(
                    "{}.{}{}",
                    pod.name_any(),
                    container.name,
                    if previous { ".previous" } else { "" }
                );
                excerpt.push(format!("--- log of {name}\n{}", tail(&text)));
                fs::write(folder.join(format!("{name}.log")), text)?;
            }
        }
    }
    Ok(excerpt)
}

/// Tails of the logs that processes of the test have written into the folder by themselves.
fn own_logs(folder: &Path) -> Vec<String> {
    // Evidence of a failure that has its own words: what cannot be listed has none to add.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("operator-"))
    });
    paths.sort();
    let text = |path: &PathBuf| fs::read_to_string(path).unwrap_or_else(|error| format!("(unreadable: {error})"));
    paths
        .iter()
        .map(|path| format!("--- {}\n{}", path.display(), tail(&text(path))))
        .collect()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(EXCERPT)..].join("\n")
}
