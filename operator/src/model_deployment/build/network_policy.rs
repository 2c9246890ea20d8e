//! The NetworkPolicy: requests from the object's own namespace and from the operator, nothing else in;
//! out only what the source needs. Whoever wants more adds a policy of their own, policies add up.
use serde_json::{Value, json};
use windlass_crds::source::Source;

use super::{metadata, selector};
use crate::{
    args::BuildConfig,
    model_deployment::validate::{Engine, ValidatedModelDeployment},
    names,
};

/// Builds the NetworkPolicy.
pub fn build(owner: &ValidatedModelDeployment, config: &BuildConfig) -> Value {
    // Without its namespace at hand (a run outside a cluster) the operator is known by its label alone.
    let namespace = match &config.operator_namespace {
        Some(namespace) => json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}}),
        None => json!({}),
    };
    let operator = json!({
        "namespaceSelector": namespace,
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "windlass-operator"}},
    });
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, &owner.name),
        "spec": {
            "podSelector": {"matchLabels": selector(owner)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [{"podSelector": {}}, operator], "ports": [{"protocol": "TCP", "port": "http"}]},
                {"from": [operator], "ports": [{"protocol": "TCP", "port": names::PORT_PROGRESS}]},
            ],
            "egress": egress(owner),
        },
    })
}

/// A file on a claim needs no network. A download needs name resolution, whose address and port differ
/// between clusters, and the source; the clouds' metadata service, which hands out the node's
/// credentials, is never among them.
fn egress(owner: &ValidatedModelDeployment) -> Value {
    if matches!(owner.source, Source::Claim { .. }) && matches!(owner.engine, Engine::Windlass { .. }) {
        return json!([]);
    }
    json!([{"to": [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}},
        {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128"]}},
        {"namespaceSelector": {}},
    ]}])
}
