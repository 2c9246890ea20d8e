//! The affinity of the pods: the user's, with the demands of images and accelerator ANDed into each node selector
//! term. Terms are alternatives, so a demand that stood in a term of its own could be walked around.
use k8s_openapi::api::core::v1::{Affinity, NodeSelectorRequirement, NodeSelectorTerm};

use crate::{context::Settings, model_deployment::validate::ValidatedModelDeployment};

/// Builds the affinity; `None` when nobody demands anything.
pub fn build(owner: &ValidatedModelDeployment, settings: &Settings) -> Option<Affinity> {
    let mut affinity = owner.placement.affinity.clone();
    let demands = demands(owner, settings);
    if !demands.is_empty() {
        let node_affinity = affinity.node_affinity.get_or_insert_default();
        let required = node_affinity
            .required_during_scheduling_ignored_during_execution
            .get_or_insert_default();
        if required.node_selector_terms.is_empty() {
            required.node_selector_terms.push(NodeSelectorTerm {
                match_expressions: Some(demands),
                match_fields: None,
            });
        } else {
            // An empty term matches no node; with demands in it, it would match some.
            let is_empty = |term: &NodeSelectorTerm| {
                term.match_expressions.as_ref().is_none_or(Vec::is_empty)
                    && term.match_fields.as_ref().is_none_or(Vec::is_empty)
            };
            for term in required.node_selector_terms.iter_mut().filter(|term| !is_empty(term)) {
                term.match_expressions
                    .get_or_insert_default()
                    .extend(demands.iter().cloned());
            }
        }
    }
    (affinity != Affinity::default()).then_some(affinity)
}

fn demands(owner: &ValidatedModelDeployment, settings: &Settings) -> Vec<NodeSelectorRequirement> {
    let mut demands = Vec::new();
    if !settings.image_architectures.is_empty() {
        demands.push(NodeSelectorRequirement {
            key: "kubernetes.io/arch".to_owned(),
            operator: "In".to_owned(),
            values: Some(settings.image_architectures.clone()),
        });
    }
    let Some(accelerator) = &owner.accelerator else {
        return demands;
    };
    if !accelerator.products.is_empty() {
        demands.push(NodeSelectorRequirement {
            key: settings.product_label.clone(),
            operator: "In".to_owned(),
            values: Some(accelerator.products.clone()),
        });
    }
    if let Some(floor) = accelerator.memory_floor_mib {
        demands.push(NodeSelectorRequirement {
            key: settings.memory_label.clone(),
            // Node labels know "greater than", not "at least".
            operator: "Gt".to_owned(),
            values: Some(vec![floor.saturating_sub(1).to_string()]),
        });
    }
    demands
}
