//! The NetworkPolicy: requests from the object's own namespace and from those that the operator's settings name,
//! reports to the operator, nothing else in; out only what some revision that stays needs. Whoever wants more adds a policy of their own, policies add up.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use crate::{
    context::Settings,
    kind::rollout::Plan,
    model_deployment::validate::{NEEDS_EGRESS, ValidatedModelDeployment},
    names,
};

/// Builds the NetworkPolicy.
pub fn build(owner: &ValidatedModelDeployment, settings: &Settings, plan: &Plan) -> NetworkPolicy {
    let port = |port: IntOrString| NetworkPolicyPort {
        protocol: Some("TCP".to_owned()),
        port: Some(port),
        end_port: None,
    };
    let own_namespace = NetworkPolicyPeer {
        pod_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    };
    let mut clients = vec![own_namespace];
    clients.extend(settings.client_namespaces.iter().map(|name| namespace(name)));
    NetworkPolicy {
        metadata: owner.owner.metadata(owner.owner.child()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(owner.owner.label_selector()),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: Some(clients),
                    ports: Some(vec![port(IntOrString::String("http".to_owned()))]),
                },
                NetworkPolicyIngressRule {
                    from: Some(vec![operator(settings)]),
                    ports: Some(vec![
                        port(IntOrString::Int(names::PORT_PROGRESS)),
                        port(IntOrString::Int(names::PORT_VERIFY)),
                    ]),
                },
            ]),
            egress: Some(egress(plan)),
        }),
    }
}

fn namespace(name: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(
                "kubernetes.io/metadata.name".to_owned(),
                name.to_owned(),
            )])),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// Outside a cluster the operator's namespace is not known: then its label alone identifies it.
fn operator(settings: &Settings) -> NetworkPolicyPeer {
    let in_namespace = match &settings.operator_namespace {
        Some(name) => namespace(name),
        None => NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector::default()),
            ..NetworkPolicyPeer::default()
        },
    };
    NetworkPolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(
                "app.kubernetes.io/name".to_owned(),
                "windlass-operator".to_owned(),
            )])),
            ..LabelSelector::default()
        }),
        ..in_namespace
    }
}

/// A file on a claim needs no network. A download needs name resolution, whose address and port differ
/// between clusters, and the source; the clouds' metadata service, which hands out the node's
/// credentials, is never among them.
fn egress(plan: &Plan) -> Vec<NetworkPolicyEgressRule> {
    if !plan.needs(NEEDS_EGRESS) {
        return Vec::new();
    }
    let block = |cidr: &str, except: &str| NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: cidr.to_owned(),
            except: Some(vec![except.to_owned()]),
        }),
        ..NetworkPolicyPeer::default()
    };
    let any_namespace = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    };
    vec![NetworkPolicyEgressRule {
        to: Some(vec![
            block("0.0.0.0/0", "169.254.169.254/32"),
            block("::/0", "fd00:ec2::254/128"),
            any_namespace,
        ]),
        ports: None,
    }]
}
