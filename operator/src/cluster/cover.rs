//! Whether a live object already is what was applied, where others may add to it and an API server may write
//! the same value differently. Pure.
use serde_json::{Map, Value};
use windlass_crds::quantity;

/// Members that Kubernetes treats as one value (atomic maps and lists): what others add to them changes their
/// meaning, as a key in a selector or a rule of a policy does. All other maps and lists may hold more than ours.
const ATOMIC: [&str; 18] = [
    "args",
    "command",
    "configMapKeyRef",
    "drop",
    "egress",
    "except",
    "httpGet",
    "ingress",
    "matchExpressions",
    "matchLabels",
    "nodeSelector",
    "nodeSelectorTerms",
    "podSelector",
    "policyTypes",
    "secretKeyRef",
    "selector",
    "tolerations",
    "values",
];

/// Whether every member of `intent` stands in `live`, and atomic members have nothing else.
pub fn covers(live: &Value, intent: &Value) -> bool {
    match (live, intent) {
        (Value::Object(live), Value::Object(intent)) => intent.iter().all(|(key, wanted)| match live.get(key) {
            None => is_empty(wanted),
            Some(found) if ATOMIC.contains(&key.as_str()) => is_same(found, wanted),
            Some(found) => covers(found, wanted),
        }),
        // Others may add elements (sidecars, variables); those of ours must all be there, in their order.
        (Value::Array(live), Value::Array(intent)) => {
            let mut rest = live.iter();
            intent.iter().all(|wanted| rest.any(|found| covers(found, wanted)))
        }
        (live, intent) => is_same(live, intent),
    }
}

/// Whether two values say the same, in whichever way an API server writes them.
fn is_same(live: &Value, intent: &Value) -> bool {
    match (live, intent) {
        (Value::Object(live), Value::Object(intent)) => {
            contains_all(live, intent) && live.iter().all(|(key, value)| intent.contains_key(key) || is_default(key, value))
        }
        (Value::Array(live), Value::Array(intent)) => {
            live.len() == intent.len() && live.iter().zip(intent).all(|(live, intent)| is_same(live, intent))
        }
        (Value::String(live), Value::String(intent)) => live == intent || is_same_quantity(live, intent),
        (live, intent) => live == intent || (is_empty(live) && is_empty(intent)),
    }
}

fn contains_all(live: &Map<String, Value>, intent: &Map<String, Value>) -> bool {
    let is_there = |(key, wanted): (&String, &Value)| {
        live.get(key).map_or_else(|| is_empty(wanted), |found| is_same(found, wanted))
    };
    intent.iter().all(is_there)
}

/// What the API server fills in by itself inside atomic members.
fn is_default(key: &str, value: &Value) -> bool {
    is_empty(value) || (key == "scheme" && value == "HTTP") || (key == "protocol" && value == "TCP")
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
                json!({"httpGet": {"path": "/x", "port": "http", "scheme": "HTTP"}}),
                json!({"httpGet": {"path": "/x", "port": "http"}}),
            ),
            (
                json!({"ingress": [{"ports": [{"port": 80, "protocol": "TCP"}], "from": []}]}),
                json!({"ingress": [{"ports": [{"port": 80}]}]}),
            ),
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
            (
                json!({"selector": {"a": "b", "stolen": "x"}}),
                json!({"selector": {"a": "b"}}),
            ),
            (
                json!({"ingress": [{"from": [{"podSelector": {}}]}, {}]}),
                json!({"ingress": [{"from": [{"podSelector": {}}]}]}),
            ),
            (
                json!({"ingress": [{"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}),
                json!({"ingress": [{"from": [{"podSelector": {}}]}]}),
            ),
            (json!({"args": ["a", "b"]}), json!({"args": ["a"]})),
        ] {
            assert!(!covers(&live, &intent), "{live} {intent}");
        }
    }
}
