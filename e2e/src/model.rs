//! ModelDeployments for tests, and what their status says.
use anyhow::{Context, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde_json::{Value, json};
use windlass_crds::ModelDeployment;

/// The file of `tiny` models on a test's hub.
pub const TINY: &str = "e2e/tiny/tiny.gguf";

/// A ModelDeployment with this spec.
pub fn model(name: &str, spec: Value) -> Result<ModelDeployment> {
    let object = json!({"apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name},
        "spec": spec});
    serde_json::from_value(object).with_context(|| format!("the spec of {name}"))
}

/// A ModelDeployment of the tiny model on a test's hub; `more` is merged into its spec.
pub fn tiny(name: &str, more: Value) -> Result<ModelDeployment> {
    let mut spec = json!({"model": {"source": format!("hf://{TINY}")}});
    merge(&mut spec, more);
    model(name, spec)
}

/// A condition of an object, if its status is about the present spec.
pub fn condition<'a>(object: &'a ModelDeployment, kind: &str) -> Option<&'a Condition> {
    let status = object.status.as_ref()?;
    if status.observed_generation != object.metadata.generation {
        return None;
    }
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// True when a condition has this status.
pub fn is(object: &ModelDeployment, kind: &str, status: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition.status == status)
}

/// True when a condition has this status and reason.
pub fn is_because(object: &ModelDeployment, kind: &str, status: &str, reason: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition.status == status && condition.reason == reason)
}

/// True when the desired revision serves and is verified.
pub fn is_ready(object: &ModelDeployment) -> bool {
    is(object, "Ready", "True")
}

/// Where the model answers, from its status.
pub fn url(object: &ModelDeployment) -> Result<&str> {
    let url = object.status.as_ref().and_then(|status| status.url.as_deref());
    url.with_context(|| format!("{} has no url in its status", object.name_any()))
}

/// As a JSON merge patch, but that a test never needs to remove a field.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
