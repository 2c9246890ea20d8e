//! The Service: one address, the port of the contract whatever the runtime listens on.
use serde_json::{Value, json};

use super::{metadata, selector};
use crate::{model_deployment::validate::ValidatedModelDeployment, names};

/// Builds the Service.
pub fn build(owner: &ValidatedModelDeployment) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, &owner.name),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(owner),
            "ports": [{
                "name": "http",
                "protocol": "TCP",
                "appProtocol": "http",
                "port": names::PORT_HTTP,
                "targetPort": "http",
            }],
        },
    })
}

/// Where the Service answers inside the cluster.
pub fn url(owner: &ValidatedModelDeployment) -> String {
    format!("http://{}.{}.svc:{}", owner.name, owner.namespace, names::PORT_HTTP)
}
