//! What the kubelet and the controllers warn about a pod that does not start: a volume that cannot be mounted or
//! attached is reported in events alone. Read on demand, for one pod at a time.
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, Client, ResourceExt, api::ListParams};

/// More is not read: a pod that fails again and again repeats itself.
const LIMIT: u32 = 50;

/// A warning about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// As the reporter names it, for example `FailedMount`.
    pub reason: String,
    pub message: String,
}

/// The warnings about a pod, the newest of each reason, newest first.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn about(client: &Client, pod: &Pod) -> kube::Result<Vec<Warning>> {
    let (namespace, uid) = (pod.namespace().unwrap_or_default(), pod.uid().unwrap_or_default());
    let params = ListParams::default()
        .fields(&format!("involvedObject.uid={uid},type=Warning"))
        .limit(LIMIT);
    let events = Api::<Event>::namespaced(client.clone(), &namespace)
        .list(&params)
        .await?;
    let mut events = events.items;
    let last_seen = |event: &Event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or_else(|| event.event_time.as_ref().map(|time| time.0))
    };
    events.sort_by_key(|event| std::cmp::Reverse(last_seen(event)));
    let mut warnings: Vec<Warning> = Vec::new();
    for event in events {
        let reason = event.reason.unwrap_or_default();
        if !warnings.iter().any(|warning| warning.reason == reason) {
            warnings.push(Warning {
                reason,
                message: event.message.unwrap_or_default(),
            });
        }
    }
    Ok(warnings)
}
