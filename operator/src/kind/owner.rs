//! Who owns a set of children: what their names, labels and owner references are derived from. Pure.
//!
//! Names of children are `<name>-<kind's suffix>[-<role or revision>]`, for example `chat-model` and
//! `chat-model-pins`. No suffix is the role of another kind, so objects of different kinds may have the same
//! name: `chat` as a ModelDeployment and `chat` as a RagPipeline have no child in common.
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use super::Kind;
use crate::names;

/// The object that children belong to.
#[derive(Debug, Clone, PartialEq)]
pub struct Owner {
    /// The reference that every child carries; the owner is its controller.
    pub reference: OwnerReference,
    /// Namespace of the object and of all its children.
    pub namespace: String,
    suffix: &'static str,
    label: &'static str,
}

impl Owner {
    /// The owner that an object is; `None` without name, namespace and uid, which every stored object has.
    pub fn of<K: Kind>(object: &K::Object) -> Option<Self> {
        Some(Self {
            reference: object.controller_owner_ref(&())?,
            namespace: object.namespace()?,
            suffix: K::SUFFIX,
            label: K::LABEL,
        })
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        &self.reference.name
    }

    /// The uid that marks a child as ours.
    pub fn uid(&self) -> &str {
        &self.reference.uid
    }

    /// Name of the main children: workload, Service and what shares their name.
    pub fn child(&self) -> String {
        format!("{}-{}", self.reference.name, self.suffix)
    }

    /// Name of a child with a role of its own.
    pub fn child_for(&self, role: &str) -> String {
        format!("{}-{role}", self.child())
    }

    /// Name, namespace, labels and owner of a child. The object's own labels and annotations are not
    /// copied: a GitOps tool would take the child for one of its own.
    pub fn metadata(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels()),
            owner_references: Some(vec![self.reference.clone()]),
            ..ObjectMeta::default()
        }
    }

    /// The labels of all children and pods.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        for (key, value) in [
            ("app.kubernetes.io/name", format!("windlass-{}", self.suffix)),
            ("app.kubernetes.io/instance", self.reference.name.clone()),
            (names::LABEL_MANAGED_BY, names::MANAGED_BY.to_owned()),
        ] {
            labels.insert(key.to_owned(), value);
        }
        labels
    }

    /// The labels that select the pods.
    pub fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(self.label.to_owned(), self.reference.name.clone())])
    }

    /// `selector` as Kubernetes' selectors carry it.
    pub fn label_selector(&self) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.selector()),
            match_expressions: None,
        }
    }
}
