//! Compares each installed CRD with the one of this build, at the start and whenever it changes: Helm upgrades
//! charts one by one, so either may be older. Skew is reported, never fatal: the status tolerates it, and old
//! fields keep their meaning.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use windlass_crds::schema;

use crate::metrics::Metrics;

/// A CRD and the hash of the schema that this program was built with.
#[derive(Debug, Clone)]
pub struct BuiltSchema {
    /// Kind that it defines.
    pub kind: &'static str,
    /// Name of the CRD.
    pub crd: &'static str,
    /// Its hash; `None` when it could not be computed, which is a bug that tests find.
    pub hash: Option<String>,
}

/// What is known about the installed CRDs; clones share it.
#[derive(Clone, Default)]
pub struct SchemaSkew(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl SchemaSkew {
    /// The message for the status of each object of a kind; `None` while the installed CRD is the one of this build, or
    /// cannot be read (namespaced rights do not include it).
    pub fn message(&self, kind: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(kind).cloned()
    }

    fn note(&self, built: &BuiltSchema, installed: Option<&str>) {
        let message = compare(built, installed);
        let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Some(message) => {
                tracing::warn!(kind = built.kind, message);
                messages.insert(built.kind, message);
            }
            None => {
                messages.remove(built.kind);
            }
        }
    }
}

/// Follows a CRD for as long as the process lives.
pub async fn follow(client: Client, built: BuiltSchema, skew: SchemaSkew, metrics: Metrics) {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", built.crd));
    let mut changes = watcher(api, config).default_backoff().applied_objects().boxed();
    let mut failed_before = false;
    while let Some(change) = changes.next().await {
        match change {
            Ok(crd) => {
                failed_before = false;
                let installed = crd.annotations().get(schema::HASH_ANNOTATION);
                skew.note(&built, installed.map(String::as_str));
                metrics.set_schema_skew(built.kind, skew.message(built.kind).is_some());
            }
            // The watch tries again, later each time; once is enough for the log.
            Err(error) if !failed_before => {
                failed_before = true;
                tracing::warn!(%error, crd = built.crd, "cannot read the installed CRD");
            }
            Err(_) => {}
        }
    }
}

fn compare(built: &BuiltSchema, installed: Option<&str>) -> Option<String> {
    let ours = built.hash.as_deref()?;
    (installed != Some(ours)).then(|| {
        let installed = installed.unwrap_or("without a hash");
        format!(
            "the spec is valid, but the installed CRD (schema {installed}) is not the one of this operator (schema {ours}): fields that one of them does not know have no effect. Upgrade the charts windlass-crds and windlass together."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_schema_is_reported_until_the_right_one_is_installed() {
        let built = BuiltSchema {
            kind: "ModelDeployment",
            crd: "modeldeployments.windlass.dev",
            hash: Some("ours".to_owned()),
        };
        let skew = SchemaSkew::default();
        for installed in [None, Some("theirs")] {
            skew.note(&built, installed);
            let message = skew.message("ModelDeployment").expect("a message");
            assert!(message.contains("Upgrade the charts"), "{message}");
            assert_eq!(skew.message("RagPipeline"), None);
        }
        skew.note(&built, Some("ours"));
        assert_eq!(skew.message("ModelDeployment"), None);
    }
}
