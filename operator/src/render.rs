//! `windlass-operator render`: the pure part of a reconcile, on a file, for a cluster in which nothing
//! exists yet. Objects are read as strictly as the API server reads them.
use std::io::{Read, Write};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use windlass_crds::schema::sorted;

use crate::{
    args::RenderArgs,
    context::Settings,
    kind::{REGISTERED, Registered},
};

/// Prints the children of all objects in the file as YAML documents; `-` is standard input.
///
/// # Errors
/// When the file cannot be read, an object is of no kind of ours, or is refused.
pub fn render(args: &RenderArgs, mut out: impl Write) -> anyhow::Result<()> {
    let name = args.file.display();
    let text = if args.file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        text
    } else {
        std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {name}"))?
    };
    let settings = Settings::from(args.build.clone());
    for (index, object) in objects(&text)
        .with_context(|| format!("{name} is not YAML"))?
        .into_iter()
        .enumerate()
    {
        let rendered = documents(object, &settings).with_context(|| format!("{name}, document {}", index + 1))?;
        out.write_all(rendered.as_bytes())?;
    }
    Ok(())
}

/// The objects of a YAML text, empty documents left out.
///
/// # Errors
/// When it is not YAML, or writes a key twice.
pub fn objects(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        // This type refuses a key that stands twice; the next one would keep the last of them.
        let value = serde_yaml::Value::deserialize(document)?;
        if !value.is_null() {
            objects.push(serde_json::to_value(value)?);
        }
    }
    ensure!(!objects.is_empty(), "there is no object in it");
    Ok(objects)
}

/// The children as YAML documents.
///
/// # Errors
/// When the object is of no kind of ours, or is refused.
pub fn documents(value: Value, settings: &Settings) -> anyhow::Result<String> {
    let mut text = String::new();
    for child in children(value, settings)? {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(&sorted(&child)).context("cannot print a child")?);
    }
    Ok(text)
}

/// The children of a new object.
///
/// # Errors
/// When the object is of no kind of ours, or is refused.
pub fn children(value: Value, settings: &Settings) -> anyhow::Result<Vec<Value>> {
    let kind = kind_of(&value)?;
    let violations = (kind.violations)(&value);
    if !violations.is_empty() {
        bail!("{}", violations.join("; "));
    }
    (kind.render)(value, settings)
}

fn kind_of(value: &Value) -> anyhow::Result<&'static Registered> {
    let kind = value["kind"].as_str().unwrap_or_default();
    let api_version = value["apiVersion"].as_str().unwrap_or_default();
    let known = REGISTERED
        .iter()
        .find(|known| known.kind == kind && known.api_version == api_version);
    known.with_context(|| {
        let known: Vec<String> = REGISTERED
            .iter()
            .map(|known| format!("{} {}", known.api_version, known.kind))
            .collect();
        format!(
            "`{api_version} {kind}` is not a kind that this operator renders; it knows {}",
            known.join(", ")
        )
    })
}

#[cfg(test)]
mod tests;
