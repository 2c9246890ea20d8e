//! What an API server would say about an object before it runs the CEL rules: unknown fields, types, required
//! fields, listed values and bounds of the structural schema. It covers the keywords that our CRDs use.
use serde_json::Value;

/// Every violation of `schema`, one sentence each, beginning with the field's path.
pub fn violations(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, value, path, &mut found);
    found
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let is_int_or_string = schema["x-kubernetes-int-or-string"] == true;
    let kind = schema["type"].as_str();
    let is_right = match kind {
        _ if is_int_or_string => value.is_i64() || value.is_u64() || value.is_string(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => true,
    };
    if !is_right {
        let kind = if is_int_or_string {
            "integer or string"
        } else {
            kind.unwrap_or("value")
        };
        found.push(format!("{path}: must be of type {kind}"));
        return;
    }
    if let Some(listed) = schema["enum"].as_array().filter(|listed| !listed.contains(value)) {
        let listed: Vec<String> = listed.iter().map(Value::to_string).collect();
        found.push(format!(
            "{path}: {value} is not supported; supported are {}",
            listed.join(", ")
        ));
    }
    match value {
        Value::Object(members) => {
            for name in schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                if !members.contains_key(name) {
                    found.push(format!("{}: is required", join(path, name)));
                }
            }
            limit(schema, "maxProperties", members.len(), path, "members", found);
            let properties = schema["properties"].as_object();
            for (name, member) in members {
                let below = join(path, name);
                let known = properties.and_then(|properties| properties.get(name));
                if let Some(known) = known.or_else(|| schema.get("additionalProperties")) {
                    check(known, member, &below, found);
                } else if properties.is_some() && schema["x-kubernetes-preserve-unknown-fields"] != true {
                    found.push(format!("{below}: is an unknown field"));
                }
            }
        }
        Value::Array(items) => {
            limit(schema, "maxItems", items.len(), path, "items", found);
            if schema["minItems"]
                .as_u64()
                .is_some_and(|least| (items.len() as u64) < least)
            {
                found.push(format!("{path}: must have at least {} items", schema["minItems"]));
            }
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), found);
            }
        }
        Value::String(text) => {
            let length = text.chars().count();
            limit(schema, "maxLength", length, path, "characters", found);
            if schema["minLength"]
                .as_u64()
                .is_some_and(|least| (length as u64) < least)
            {
                found.push(format!("{path}: must have at least {} characters", schema["minLength"]));
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if schema["minimum"].as_f64().is_some_and(|least| number < least) {
                found.push(format!("{path}: must be at least {}", schema["minimum"]));
            }
            if schema["maximum"].as_f64().is_some_and(|most| number > most) {
                found.push(format!("{path}: must be at most {}", schema["maximum"]));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn limit(schema: &Value, keyword: &str, size: usize, path: &str, what: &str, found: &mut Vec<String>) {
    if schema[keyword].as_u64().is_some_and(|most| size as u64 > most) {
        found.push(format!("{path}: must have at most {} {what}", schema[keyword]));
    }
}

#[cfg(test)]
mod tests {
    use crate::{ModelDeployment, schema::violations as of_kind};
    use serde_json::json;

    #[test]
    fn what_an_api_server_would_drop_or_refuse_is_named_by_its_path() {
        for (spec, message) in [
            (
                json!({"model": {"source": "hf://a/b/c.gguf", "sourc": 1}}),
                "spec.model.sourc: is an unknown field",
            ),
            (json!({"model": {}}), "spec.model.source: is required"),
            (
                json!({"model": {"source": 7}}),
                "spec.model.source: must be of type string",
            ),
            (
                json!({"model": {"source": "hf://a/b/c.gguf"}, "replicas": 5000}),
                "spec.replicas: must be at most 1000",
            ),
            (
                json!({"model": {"source": "hf://a/b/c.gguf"}, "rollout": {"strategy": "Fast"}}),
                "spec.rollout.strategy: \"Fast\" is not supported; supported are \"Auto\", \"Surge\", \"Recreate\"",
            ),
            (
                json!({"model": {"source": "hf://a/b/c.gguf"}, "resources": {"cpu": true}}),
                "spec.resources.cpu: must be of type integer or string",
            ),
        ] {
            let object = json!({"apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment",
                "metadata": {"name": "chat", "labels": {"a": "b"}}, "spec": spec});
            assert_eq!(of_kind::<ModelDeployment>(&object), [message], "{object}");
        }
    }

    #[test]
    fn a_good_object_has_no_violation() {
        let object = json!({"apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "chat", "annotations": {"x": "y"}},
            "spec": {"model": {"source": "hf://a/b/c.gguf"}, "resources": {"cpu": 2, "memory": "1Gi"}}});
        assert_eq!(of_kind::<ModelDeployment>(&object), Vec::<String>::new());
    }
}
