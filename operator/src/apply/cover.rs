//! Whether a live object already contains what was asked for, told apart from what others added and
//! from the ways in which an API server writes the same thing differently. Pure.
use serde_json::Value;
use windlass_crds::quantity;

/// Whether every member of `intent` stands in `live`.
pub fn covers(live: &Value, intent: &Value) -> bool {
    match (live, intent) {
        (Value::Object(live), Value::Object(intent)) => intent.iter().all(|(key, wanted)| {
            live.get(key)
                .map_or_else(|| is_empty(wanted), |found| covers(found, wanted))
        }),
        // Others may add elements (sidecars, variables); those of ours must all be there, in their order.
        (Value::Array(live), Value::Array(intent)) => {
            let mut rest = live.iter();
            intent.iter().all(|wanted| rest.any(|found| covers(found, wanted)))
        }
        (Value::String(live), Value::String(intent)) => live == intent || is_same_quantity(live, intent),
        (live, intent) => live == intent || (is_empty(live) && is_empty(intent)),
    }
}

/// What the API server leaves out when it writes an object.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
    }
}

/// `1000m` comes back as `1`.
fn is_same_quantity(live: &str, intent: &str) -> bool {
    matches!((quantity::milli(live), quantity::milli(intent)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn additions_and_other_spellings_are_covered() {
        for (live, intent) in [
            (json!({"a": 1, "b": 2}), json!({"a": 1})),
            (
                json!({"a": [{"name": "x", "y": 1}, {"name": "injected"}]}),
                json!({"a": [{"name": "x"}]}),
            ),
            (
                json!({"a": [{"name": "injected"}, {"name": "x"}]}),
                json!({"a": [{"name": "x"}]}),
            ),
            (json!({"cpu": "1"}), json!({"cpu": "1000m"})),
            (
                json!({}),
                json!({"readOnly": false, "list": [], "text": "", "inner": {"deep": {}}}),
            ),
        ] {
            assert!(covers(&live, &intent), "{live} {intent}");
        }
    }

    #[test]
    fn what_is_missing_changed_or_out_of_order_is_not() {
        for (live, intent) in [
            (json!({"a": 1}), json!({"a": 2})),
            (json!({}), json!({"a": true})),
            (json!({"a": ["x", "z"]}), json!({"a": ["x", "y"]})),
            (json!({"a": ["y", "x"]}), json!({"a": ["x", "y"]})),
            (json!({"a": []}), json!({"a": ["x"]})),
            (json!({"cpu": "2"}), json!({"cpu": "1000m"})),
            (json!({"a": {"b": 1}}), json!({"a": {"b": 1, "c": 1}})),
        ] {
            assert!(!covers(&live, &intent), "{live} {intent}");
        }
    }
}
