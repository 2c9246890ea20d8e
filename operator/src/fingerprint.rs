//! Hashes of JSON by content: equal for equal values, whatever the order of keys, on every version
//! of this program, since they are stored in the cluster.
use serde_json::Value;
use sha2::{Digest, Sha256};
use windlass_crds::schema::sorted;

/// SHA-256 of the sorted JSON, 64 hex digits.
pub fn of(value: &Value) -> String {
    of_bytes(sorted(value).to_string().as_bytes())
}

/// SHA-256 of bytes, 64 hex digits.
pub fn of_bytes(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same JSON without nulls: server-side apply would read a null as "remove this field".
pub fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_order_of_keys_does_not_change_a_hash_and_a_value_does() {
        let one: Value = serde_json::from_str(r#"{"a":1,"b":[{"c":2,"d":3}]}"#).expect("JSON");
        let other: Value = serde_json::from_str(r#"{"b":[{"d":3,"c":2}],"a":1}"#).expect("JSON");
        assert_eq!(of(&one), of(&other));
        assert_ne!(of(&one), of(&json!({"a": 2})));
        assert_eq!(
            of_bytes(b""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn nulls_go_and_empty_values_stay() {
        let value = json!({"a": null, "b": {"c": null, "d": {}}, "e": [{"f": null}], "g": ""});
        assert_eq!(without_nulls(value), json!({"b": {"d": {}}, "e": [{}], "g": ""}));
    }
}
