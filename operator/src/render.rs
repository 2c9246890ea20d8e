//! `windlass-operator render`: the pure part of a reconcile, on a file, for a cluster in which nothing
//! exists yet.
use std::{collections::BTreeMap, io::Write};

use anyhow::Context;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use windlass_crds::schema::sorted;

use crate::{
    args::{BuildConfig, RenderArgs},
    model_deployment::{build, rollout, validate},
};

/// Prints the children of the object in the file as YAML documents.
///
/// # Errors
/// When the file cannot be read or the object is refused.
pub fn render(args: &RenderArgs, mut out: impl Write) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", args.file.display()))?;
    let config = BuildConfig::from(args.build.clone());
    out.write_all(documents(value, &config)?.as_bytes())?;
    Ok(())
}

/// The children as YAML documents.
///
/// # Errors
/// When the object is refused.
pub fn documents(value: Value, config: &BuildConfig) -> anyhow::Result<String> {
    let mut text = String::new();
    for child in children(value, config)? {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&sorted(&child)).context("cannot print a child")?);
    }
    Ok(text)
}

/// The children of a new object.
///
/// # Errors
/// When the object is refused.
pub fn children(value: Value, config: &BuildConfig) -> anyhow::Result<Vec<Value>> {
    let object = validate::object_from_file(value).context("not a ModelDeployment")?;
    let owner = validate::validate(&object)?;
    let template = build::pod_template::build(&owner, config);
    let mut plan = rollout::decide(&owner, template, &[], &[], None, Timestamp::UNIX_EPOCH);
    for revision in &mut plan.revisions {
        // The beginning of the rollout is not known before it begins.
        revision.started = None;
    }
    let mut children = build::build(&owner, config, &plan, &BTreeMap::new()).into_vec();
    if let Some(deployment) = children.last_mut() {
        deployment["spec"]["replicas"] = owner.replicas.into();
    }
    Ok(children)
}

#[cfg(test)]
mod tests;
