//! The ConfigMap of what unpinned sources were resolved to.
use k8s_openapi::api::core::v1::ConfigMap;

use crate::model_deployment::{pins::Pins, validate::ValidatedModelDeployment};

/// Builds the ConfigMap; `None` while nothing is resolved: the pods' references to it are optional.
pub fn build(owner: &ValidatedModelDeployment, pins: &Pins) -> Option<ConfigMap> {
    (!pins.0.is_empty()).then(|| ConfigMap {
        metadata: owner.owner.metadata(owner.pins_name()),
        data: Some(pins.0.clone()),
        ..ConfigMap::default()
    })
}
