//! The Service: one address, the port of the contract whatever the runtime listens on.
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{model_deployment::validate::ValidatedModelDeployment, names};

/// Builds the Service.
pub fn build(owner: &ValidatedModelDeployment) -> Service {
    Service {
        metadata: owner.owner.metadata(owner.owner.child()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            // Both families where the cluster has both.
            ip_family_policy: Some("PreferDualStack".to_owned()),
            selector: Some(owner.owner.selector()),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                protocol: Some("TCP".to_owned()),
                app_protocol: Some("http".to_owned()),
                port: names::PORT_HTTP,
                target_port: Some(IntOrString::String("http".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Where the Service answers inside the cluster.
pub fn url(owner: &ValidatedModelDeployment) -> String {
    let (child, namespace) = (owner.owner.child(), &owner.owner.namespace);
    format!("http://{child}.{namespace}.svc:{}", names::PORT_HTTP)
}
