//! The end state of a namespace in a form that two runs share: what differs by nature (UIDs, versions, times,
//! addresses, generated names, the namespace's own name) is masked, everything else must be equal.
use std::collections::BTreeMap;

use anyhow::Result;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Map, Value};

use crate::inventory::{Inventory, called};

/// Kinds that are not compared: events tell the way and not the end, slices and metrics belong to Kubernetes,
/// leases and the rights are the test's own.
const NOT_COMPARED: &[&str] = &[
    "Event",
    "Lease",
    "EndpointSlice",
    "Endpoints",
    "PodMetrics",
    "Role",
    "RoleBinding",
];

/// Objects that Kubernetes puts into every namespace, and the test's own client.
const NOT_OURS: &[&str] = &["ConfigMap/kube-root-ca.crt", "ServiceAccount/default", "Pod/client"];

/// Fields that differ between two runs which ended alike.
const MASKED: &[&str] = &[
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "generation",
    "observedGeneration",
    "generateName",
    "lastTransitionTime",
    "lastUpdateTime",
    "lastProbeTime",
    "startTime",
    "startedAt",
    "finishedAt",
    "observedAt",
    "clusterIP",
    "clusterIPs",
    "podIP",
    "podIPs",
    "hostIP",
    "hostIPs",
    "nodeName",
    "containerID",
    "imageID",
    "pod-template-hash",
    "restartCount",
    "allocatedResources",
    // A hash over UIDs among others, and a time.
    "windlass.dev/intent",
    "windlass.dev/rollout-started",
];

/// A masked namespace: objects by kind and stable name.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot(BTreeMap<String, Value>);

impl Snapshot {
    /// Takes the snapshot of all objects that live there now; those that are going away are not part of the end.
    pub async fn take(inventory: &Inventory, namespace: &str) -> Result<Self> {
        let all = inventory.of_namespace(namespace).await?;
        Self::of(&all, namespace)
    }

    fn of(all: &[DynamicObject], namespace: &str) -> Result<Self> {
        let kind = |object: &DynamicObject| object.types.as_ref().map_or(String::new(), |types| types.kind.clone());
        let generated = generated_names(all);
        let mut objects = BTreeMap::new();
        for object in all {
            let name = called(object);
            let skipped = NOT_COMPARED.contains(&kind(object).as_str()) || NOT_OURS.contains(&name.as_str());
            if skipped || object.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let mut value = serde_json::to_value(object)?;
            mask(&mut value, &|text| stable(text, namespace, &generated));
            let mut key = stable(&name, namespace, &generated);
            while objects.contains_key(&key) {
                key.push('+');
            }
            objects.insert(key, value);
        }
        Ok(Self(objects))
    }

    /// The differences from `self` to `other`, one sentence each; empty for equal ends.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for key in self
            .0
            .keys()
            .chain(other.0.keys().filter(|key| !self.0.contains_key(*key)))
        {
            match (self.0.get(key), other.0.get(key)) {
                (Some(before), Some(after)) => compare(key, before, after, &mut found),
                (Some(_), None) => found.push(format!("{key} is missing")),
                _ => found.push(format!("{key} is too much")),
            }
        }
        found
    }

    /// Names of the objects.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// Names that controllers of Kubernetes generate, with what to write instead.
fn generated_names(all: &[DynamicObject]) -> Vec<(String, String)> {
    let mut names: Vec<(String, String)> = Vec::new();
    for object in all {
        let Some(owner) = object
            .owner_references()
            .iter()
            .find(|owner| owner.controller == Some(true))
        else {
            continue;
        };
        if matches!(owner.kind.as_str(), "Deployment" | "ReplicaSet") {
            let base = owner.name.clone();
            names.push((object.name_any(), format!("{base}-*")));
        }
    }
    // Longest first: a pod's name contains that of its ReplicaSet.
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    names
}

fn stable(text: &str, namespace: &str, generated: &[(String, String)]) -> String {
    let mut text = text.replace(namespace, "NAMESPACE");
    // Twice: a pod's name becomes one that still holds its ReplicaSet's.
    for _ in 0..2 {
        for (name, instead) in generated {
            if text.contains(name.as_str()) {
                text = text.replace(name.as_str(), instead);
            }
        }
    }
    text
}

fn mask(value: &mut Value, stable: &dyn Fn(&str) -> String) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !MASKED.contains(&name.as_str()));
            *fields = std::mem::take(fields)
                .into_iter()
                .map(|(name, value)| (stable(&name), value))
                .collect::<Map<_, _>>();
            fields.values_mut().for_each(|value| mask(value, stable));
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|item| mask(item, stable));
            // Conditions: whoever wrote first stands first.
            if items.iter().all(|item| item.get("type").is_some()) {
                items.sort_by_key(|item| item["type"].to_string());
            }
        }
        Value::String(text) => *text = stable(text),
        _ => {}
    }
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for name in before
                .keys()
                .chain(after.keys().filter(|name| !before.contains_key(*name)))
            {
                let (before, after) = (before.get(name), after.get(name));
                compare(
                    &format!("{path}.{name}"),
                    before.unwrap_or(&Value::Null),
                    after.unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                compare(&format!("{path}[{index}]"), before, after, found);
            }
        }
        _ if before == after => {}
        _ => found.push(format!("{path} was {before}, is {after}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn objects(namespace: &str, suffix: &str, image: &str) -> Vec<DynamicObject> {
        let owner = |kind: &str, name: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": suffix, "controller": true}]);
        [
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": format!("chat-{suffix}"),
                "namespace": namespace, "uid": suffix, "ownerReferences": owner("Deployment", "chat")}}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("chat-{suffix}-{suffix}"), "namespace": namespace,
                "ownerReferences": owner("ReplicaSet", &format!("chat-{suffix}"))}, "spec": {"image": image}}),
        ]
        .into_iter()
        .map(|object| serde_json::from_value(object).unwrap())
        .collect()
    }

    #[test]
    fn two_runs_with_the_same_end_are_equal_whatever_their_names() {
        let first = Snapshot::of(&objects("e2e-a", "7f9cd", "i"), "e2e-a").unwrap();
        let second = Snapshot::of(&objects("e2e-b", "x5kkq", "i"), "e2e-b").unwrap();
        assert_eq!(first.differences(&second), Vec::<String>::new());
        assert_eq!(first.names(), ["Pod/chat-*-*", "ReplicaSet/chat-*"]);
    }

    #[test]
    fn a_difference_that_matters_is_named_with_its_path() {
        let first = Snapshot::of(&objects("e2e-a", "7f9cd", "i"), "e2e-a").unwrap();
        let mut second = Snapshot::of(&objects("e2e-b", "x5kkq", "other"), "e2e-b").unwrap();
        second.0.remove("ReplicaSet/chat-*");
        let differences = first.differences(&second);
        assert_eq!(differences.len(), 2, "{differences:?}");
        assert!(
            differences[0].contains("spec.image was \"i\", is \"other\""),
            "{differences:?}"
        );
        assert!(
            differences[1].contains("ReplicaSet/chat-* is missing"),
            "{differences:?}"
        );
    }
}
