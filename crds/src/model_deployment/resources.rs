//! `spec.resources`: what each pod requests of its node.
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Amount;

/// What each pod requests of its node.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Accelerators of each pod. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,

    /// CPU request of the engine; its whole cores are also the number of the engine's threads. Defaults to no request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,

    /// CPU limit of each container of the pod, for clusters that demand one; an engine that is throttled answers late.
    /// Defaults to no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<Amount>,

    /// Memory request of the engine, and at the same time its limit. Defaults to neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,

    /// Space on the node's disk for the model: an ephemeral-storage request of the pod, and the size limit of the volume
    /// that the model is fetched into. It must exceed the model's size. Defaults to neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<Amount>,
}

/// Accelerators of each pod.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Accelerator {
    /// The extended resource that the nodes advertise, for example `nvidia.com/gpu`.
    #[schemars(length(min = 3, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')")
            .message("resource must be an extended resource such as nvidia.com/gpu or amd.com/gpu"),
        validation = Rule::new("!self.contains('kubernetes.io/')")
            .message("resource must be an extended resource; names under kubernetes.io belong to Kubernetes itself")
    )]
    pub resource: String,

    /// Number of accelerators of each pod. Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub count: Option<i32>,

    /// Accepted products, as the nodes' product label names them. Defaults to any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(p, p.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))")
        .message("products are values of the nodes' product label, for example NVIDIA-L4; spaces appear there as -"))]
    pub products: Option<Vec<String>>,

    /// Least memory of each accelerator, matched against the nodes' memory label with a tolerance of 8 %,
    /// since vendors subtract what the device reserves. Defaults to any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,
}
