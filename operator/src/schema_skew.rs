//! Compares the installed CRD with the one of this build: Helm upgrades charts one by one, so either
//! may be older. Skew is told, never fatal: the status tolerates it, and old fields keep their meaning.
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, core::PartialObjectMeta};
use windlass_crds::schema;

const CRD_NAME: &str = "modeldeployments.windlass.dev";

/// What the comparison gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skew {
    /// The installed CRD is the one of this build.
    None,
    /// It is another one, or carries no hash.
    Differs { installed: Option<String> },
    /// It cannot be read (namespaced rights do not include it).
    Unknown,
}

impl Skew {
    /// What is to be said on each object.
    pub fn message(&self) -> Option<String> {
        let Self::Differs { installed } = self else { return None };
        let installed = installed.as_deref().unwrap_or("none");
        Some(format!(
            "the spec is valid, but the installed CRD (schema {installed}) is not the one of this operator: fields that one of them does not know have no effect. Upgrade the charts windlass-crds and windlass together."
        ))
    }
}

/// Reads the installed CRD's annotation.
pub async fn check(client: &Client) -> Skew {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    match api.get_metadata(CRD_NAME).await {
        Ok(crd) => compare(
            crd.metadata
                .annotations
                .and_then(|annotations| annotations.get(schema::HASH_ANNOTATION).cloned()),
        ),
        Err(error) => {
            tracing::warn!(%error, "cannot read the installed CRD");
            Skew::Unknown
        }
    }
}

fn compare(installed: Option<String>) -> Skew {
    match schema::schema_hash() {
        Ok(ours) if installed.as_ref() == Some(&ours) => Skew::None,
        Ok(_) => Skew::Differs { installed },
        Err(error) => {
            tracing::warn!(%error, "cannot compute the schema's hash");
            Skew::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_hash_is_no_skew_and_any_other_is_told() {
        let ours = schema::schema_hash().expect("hash");
        assert_eq!(compare(Some(ours)), Skew::None);
        assert_eq!(Skew::None.message(), None);
        for installed in [None, Some("0123456789abcdef".to_owned())] {
            let message = compare(installed).message().expect("message");
            assert!(message.contains("Upgrade the charts"), "{message}");
        }
    }
}
