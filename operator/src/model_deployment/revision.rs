//! A revision as the cluster holds it: a ControllerRevision with the raw pod template, the hash of
//! its inputs, and (as annotations, since data is immutable) what became of it. Pure.
use k8s_openapi::{api::apps::v1::ControllerRevision, jiff::Timestamp};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{build, validate::ValidatedModelDeployment};
use crate::{fingerprint::without_nulls, names};

/// One revision of a ModelDeployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// The beginning of the inputs' hash; the value of the pods' revision label.
    pub id: String,
    /// Grows each time a revision becomes the wanted one.
    pub number: i64,
    /// Hash of what it was rendered from.
    pub inputs: String,
    /// The pod template, as it was rendered once.
    pub template: Value,
    /// Key of the resolved digest that its pods read.
    pub pin_key: String,
    pub verdict: Verdict,
    /// Since when it is being rolled out; only the wanted revision has it.
    pub started: Option<Timestamp>,
}

/// What became of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has neither answered nor failed.
    Open,
    /// It answered a real completion.
    Proven {
        /// Digest of the model that answered.
        digest: Option<String>,
    },
    /// It crashed or was not proven in time; the text begins with the reason and a colon.
    Failed(String),
}

impl Revision {
    /// Reads a revision back; `None` when it is not one of ours, or was tampered with.
    pub fn read(object: &ControllerRevision) -> Option<Self> {
        let data = &object.data.0;
        let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
        let annotation = |key: &str| object.annotations().get(key).cloned();
        let inputs = text("inputs")?;
        let verdict = match annotation(names::ANNOTATION_VERDICT).as_deref() {
            Some("Proven") => Verdict::Proven {
                digest: annotation(names::ANNOTATION_DIGEST),
            },
            Some("Failed") => Verdict::Failed(annotation(names::ANNOTATION_FAILURE).unwrap_or_default()),
            _ => Verdict::Open,
        };
        Some(Self {
            id: object.labels().get(names::LABEL_REVISION)?.clone(),
            number: object.revision.unwrap_or_default(),
            inputs,
            template: data.get("template")?.clone(),
            pin_key: text("pinKey")?,
            verdict,
            started: annotation(names::ANNOTATION_STARTED).and_then(|text| text.parse().ok()),
        })
    }

    /// The object that holds this revision.
    pub fn write(&self, owner: &ValidatedModelDeployment) -> Value {
        let (verdict, digest, failure) = match &self.verdict {
            Verdict::Open => (None, None, None),
            Verdict::Proven { digest } => (Some("Proven"), digest.clone(), None),
            Verdict::Failed(failure) => (Some("Failed"), None, Some(failure.clone())),
        };
        let mut metadata = build::metadata(owner, &format!("{}-{}", owner.name, self.id));
        metadata["labels"][names::LABEL_REVISION] = json!(self.id);
        metadata["annotations"] = json!({
            names::ANNOTATION_VERDICT: verdict,
            names::ANNOTATION_DIGEST: digest,
            names::ANNOTATION_FAILURE: failure,
            names::ANNOTATION_STARTED: self.started.map(|at| at.to_string()),
        });
        without_nulls(json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": metadata,
            "revision": self.number,
            "data": {"inputs": self.inputs, "template": self.template, "pinKey": self.pin_key},
        }))
    }

    /// Whether it has answered a real completion.
    pub fn is_proven(&self) -> bool {
        matches!(self.verdict, Verdict::Proven { .. })
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Failed(failure) => Some(failure),
            Verdict::Open | Verdict::Proven { .. } => None,
        }
    }
}
