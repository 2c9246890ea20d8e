//! Walks the CRD's schema and changes every leaf of the spec: the rendered children must change, or the
//! object must be refused with a message. A field that did neither would be a promise that nobody keeps.
use std::{collections::BTreeSet, path::PathBuf};

use serde_json::{Map, Value, json};
use windlass_crds::{ModelDeployment, schema};

use super::{children, fixture};
use crate::{model_deployment::fixtures::settings, names};

/// Leaves whose change alone contradicts a sibling (unions), and must be refused.
const CONTRADICTIONS: [&str; 4] = [
    "model.task",
    "engine.runtime",
    "engine.custom.verify.type",
    "engine.volumes[].type",
];

/// The fixture in which a leaf has its siblings; the first that begins the path counts.
const BASES: [(&str, &str); 9] = [
    ("scaling", "custom"),
    ("engine.env", "custom"),
    ("engine.volumes", "custom"),
    ("engine.securityContext", "custom"),
    ("model.allowPatterns", "embed"),
    ("model.ignorePatterns", "embed"),
    ("engine.custom", "custom"),
    ("engine", "everything"),
    ("", "everything"),
];

/// Two legal values for leaves whose text is not free.
fn examples(path: &str) -> Option<[Value; 2]> {
    let digest = |digit: &str| json!(format!("sha256:{}", digit.repeat(64)));
    Some(match path {
        "model.source" => [json!("hf://a/b/c.gguf"), json!("hf://a/b/d.gguf")],
        "model.digest" => [digest("1"), digest("2")],
        "rollout.progressDeadline" => [json!("5m"), json!("6m")],
        "engine.stepTime" => [json!("40ms"), json!("1s40ms")],
        "engine.maxBatchTokens" => [json!(64), json!(65)],
        "engine.custom.verify.timeout" => [json!("90s"), json!("91s")],
        "engine.custom.verify.request.path" => [json!("/one"), json!("/two")],
        "engine.custom.verify.request.body" => [json!("{}"), json!("[]")],
        "engine.custom.probePath" => [json!("/one"), json!("/two")],
        "engine.volumes[].mountPath" => [json!("/one"), json!("/two")],
        "resources.accelerator.resource" => [json!("a.b/one"), json!("a.b/two")],
        "resources.cpuLimit" => [json!("3Gi"), json!("4Gi")],
        "resources.cpu"
        | "resources.ephemeralStorage"
        | "resources.memory"
        | "resources.accelerator.memory"
        | "engine.custom.shmSize"
        | "engine.volumes[].emptyDir.sizeLimit" => [json!("1Gi"), json!("2Gi")],
        _ => return None,
    })
}

/// The element of a list in which a leaf stands: volumes are a union, each kind has its own.
fn index(path: &str) -> usize {
    let kinds = ["emptyDir", "configMap", "secret", "persistentVolumeClaim"];
    let volume = path.strip_prefix("engine.volumes[].");
    volume
        .and_then(|member| kinds.iter().position(|kind| member.starts_with(kind)))
        .unwrap_or(0)
}

/// Every leaf below a schema, as `a.b[].c`.
fn leaves(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            let below = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            leaves(property, &below, found);
        }
    } else if schema.get("items").is_some() {
        leaves(&schema["items"], &format!("{path}[]"), found);
    } else if schema.get("additionalProperties").is_some() {
        leaves(&schema["additionalProperties"], &format!("{path}{{}}"), found);
    } else {
        found.push((path.to_owned(), schema.clone()));
    }
}

/// Two different values of a leaf's type.
fn values(path: &str, schema: &Value) -> [Value; 2] {
    if let Some(values) = examples(path) {
        return values;
    }
    if let Some(listed) = schema["enum"].as_array() {
        return [listed[0].clone(), listed.last().expect("a value").clone()];
    }
    match schema["type"].as_str() {
        Some("boolean") => [json!(true), json!(false)],
        Some("integer") => {
            let least = schema["minimum"].as_i64().unwrap_or(1).max(1);
            [json!(least + 1), json!(least + 2)]
        }
        _ => [json!("one"), json!("two")],
    }
}

/// The least value that a schema accepts as far as types and required members go.
fn least(schema: &Value) -> Value {
    if let Some(listed) = schema["enum"].as_array() {
        return listed[0].clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let member = |name: &Value| {
                let name = name.as_str().expect("a name");
                (name.to_owned(), least(&schema["properties"][name]))
            };
            Value::Object(required.iter().map(member).collect::<Map<_, _>>())
        }
        Some("array") => json!([]),
        Some("integer") => json!(schema["minimum"].as_i64().unwrap_or(1).max(1)),
        Some("boolean") => json!(false),
        _ => json!("x"),
    }
}

/// Sets a leaf, making what it stands in.
fn set(target: &mut Value, schema: &Value, path: &str, whole: &str, value: &Value) {
    let fill = |target: &mut Value, schema: &Value| {
        if target.is_null() {
            *target = least(schema);
        }
    };
    fill(target, schema);
    if path.is_empty() {
        *target = value.clone();
    } else if let Some(rest) = path.strip_prefix("[]") {
        let items = target.as_array_mut().expect("a list");
        let at = index(whole);
        while items.len() <= at {
            items.push(Value::Null);
        }
        set(&mut items[at], &schema["items"], rest, whole, value);
    } else if let Some(rest) = path.strip_prefix("{}") {
        set(&mut target["key"], &schema["additionalProperties"], rest, whole, value);
    } else {
        let path = path.strip_prefix('.').unwrap_or(path);
        let end = path.find(['.', '[', '{']).unwrap_or(path.len());
        let (name, rest) = path.split_at(end);
        set(&mut target[name], &schema["properties"][name], rest, whole, value);
    }
}

/// What reaches the cluster of a spec, without what is derived from the spec as a whole: the revision's
/// name changes with every field, whether a pod ever sees that field or not.
fn effect(object: Value) -> Result<Vec<Value>, String> {
    let mut children = children(object, &settings()).map_err(|error| error.to_string())?;
    children.retain(|child| child["kind"] != "ControllerRevision");
    for child in &mut children {
        if let Some(labels) = child
            .pointer_mut("/spec/template/metadata/labels")
            .and_then(Value::as_object_mut)
        {
            labels.remove(names::LABEL_REVISION);
        }
    }
    Ok(children)
}

/// The properties that any part of a schema declares, however it is nested.
fn declared(schema: &Value) -> usize {
    let own = schema.get("properties").and_then(Value::as_object).map_or(0, Map::len);
    let below: Vec<&Value> = match schema {
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    own + below.into_iter().map(declared).sum::<usize>()
}

/// The properties on the way to a leaf, itself included.
fn on_the_way(path: &str) -> impl Iterator<Item = String> {
    let names: Vec<&str> = path.split('.').collect();
    (1..=names.len()).map(move |count| {
        names[..count]
            .join(".")
            .trim_end_matches(['[', ']', '{', '}'])
            .to_owned()
    })
}

#[test]
fn the_walk_visits_every_property_of_the_schema_that_the_chart_installs() {
    let chart =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/windlass-crds/templates/modeldeployments.yaml");
    let text = std::fs::read_to_string(chart).expect("the chart's CRD");
    let crd: Value = serde_yaml::from_str(&text).expect("YAML");
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut found = Vec::new();
    leaves(spec, "", &mut found);
    let visited: BTreeSet<String> = found.iter().flat_map(|(path, _)| on_the_way(path)).collect();
    assert_eq!(visited.len(), declared(spec), "{visited:?}");
}

#[test]
fn every_leaf_of_the_spec_changes_what_is_rendered_or_is_refused() {
    let crd = schema::crd::<ModelDeployment>().expect("CRD");
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut found = Vec::new();
    leaves(spec, "", &mut found);
    assert!(found.len() > 130, "{} leaves", found.len());

    let mut refused = BTreeSet::new();
    for (path, schema) in &found {
        let base = BASES
            .iter()
            .find(|(prefix, _)| path.starts_with(prefix))
            .expect("a base")
            .1;
        let outcomes = values(path, schema).map(|value| {
            let mut object = fixture(base);
            if path.starts_with("engine.env[].") {
                object["spec"]["engine"]["env"] = json!([{"name": "ONE"}]);
            }
            set(&mut object["spec"], spec, path, path, &value);
            effect(object)
        });
        match outcomes {
            [Ok(one), Ok(two)] => assert_ne!(one, two, "{path}: a change has no effect"),
            [one, two] => {
                let messages: Vec<String> = [one, two].into_iter().filter_map(Result::err).collect();
                assert!(
                    messages.iter().all(|message| message.len() > 20),
                    "{path}: {messages:?}"
                );
                assert!(CONTRADICTIONS.contains(&path.as_str()), "{path}: {messages:?}");
                refused.insert(path.clone());
            }
        }
    }
    assert_eq!(refused.len(), CONTRADICTIONS.len(), "{refused:?}");
}
