//! A revision as the cluster holds it: a ControllerRevision with the raw pod template, the hash of
//! its inputs, and (as annotations, since data is immutable) what became of it. Pure.
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{api::apps::v1::ControllerRevision, apimachinery::pkg::runtime::RawExtension, jiff::Timestamp};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::owner::Owner;
use crate::{fingerprint::without_nulls, names};

/// One revision of an object's pods.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// The beginning of the inputs' hash; the value of the pods' revision label.
    pub id: String,
    /// Grows each time a revision becomes the desired one.
    pub number: i64,
    /// Hash of what it was rendered from.
    pub inputs: String,
    /// The pod template, as it was rendered once.
    pub template: Value,
    /// Key under which what its pods resolved is recorded.
    pub pin_key: String,
    /// What its pods need of the children that all revisions share, for example network access: nothing that a
    /// revision needs is taken away while it may run.
    pub needs: BTreeSet<String>,
    pub verdict: Verdict,
    /// Since when its deadline counts; only the desired revision has it.
    pub started: Option<Timestamp>,
    /// The deadline in seconds that its verdict rests on.
    pub deadline: Option<u64>,
    /// Why its pods replace others without surge; only the desired revision has it.
    pub no_surge: Option<String>,
}

/// What became of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is neither verified nor failed.
    Open,
    /// A pod of it verified itself and became ready.
    Verified {
        /// Digest of the model that answered.
        digest: Option<String>,
    },
    /// It failed; the text begins with the reason and a colon.
    Failed(String),
}

impl Revision {
    /// Reads a revision back; `None` when it is not one of ours, or was tampered with.
    pub fn read(object: &ControllerRevision) -> Option<Self> {
        let data = &object.data.0;
        let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
        let annotation = |key: &str| object.annotations().get(key).cloned();
        let verdict = match annotation(names::ANNOTATION_VERDICT).as_deref() {
            Some("Verified") => Verdict::Verified {
                digest: annotation(names::ANNOTATION_DIGEST),
            },
            Some("Failed") => Verdict::Failed(annotation(names::ANNOTATION_FAILURE).unwrap_or_default()),
            _ => Verdict::Open,
        };
        let needs = data.get("needs").and_then(Value::as_array);
        let needs = needs.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        Some(Self {
            id: object.labels().get(names::LABEL_REVISION)?.clone(),
            number: object.revision.unwrap_or_default(),
            inputs: text("inputs")?,
            template: data.get("template")?.clone(),
            pin_key: text("pinKey")?,
            needs: needs.collect(),
            verdict,
            started: annotation(names::ANNOTATION_STARTED).and_then(|text| text.parse().ok()),
            deadline: annotation(names::ANNOTATION_DEADLINE).and_then(|text| text.parse().ok()),
            no_surge: annotation(names::ANNOTATION_NO_SURGE),
        })
    }

    /// The object that holds this revision.
    pub fn write(&self, owner: &Owner) -> ControllerRevision {
        let (verdict, digest, failure) = match &self.verdict {
            Verdict::Open => (None, None, None),
            Verdict::Verified { digest } => (Some("Verified".to_owned()), digest.clone(), None),
            Verdict::Failed(failure) => (Some("Failed".to_owned()), None, Some(failure.clone())),
        };
        let mut metadata = owner.metadata(owner.child_for(&self.id));
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(names::LABEL_REVISION.to_owned(), self.id.clone());
        let annotations = [
            (names::ANNOTATION_VERDICT, verdict),
            (names::ANNOTATION_DIGEST, digest),
            (names::ANNOTATION_FAILURE, failure),
            (names::ANNOTATION_STARTED, self.started.map(|at| at.to_string())),
            (
                names::ANNOTATION_DEADLINE,
                self.deadline.map(|seconds| seconds.to_string()),
            ),
            (names::ANNOTATION_NO_SURGE, self.no_surge.clone()),
        ];
        let annotations: BTreeMap<String, String> = annotations
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect();
        metadata.annotations = (!annotations.is_empty()).then_some(annotations);
        ControllerRevision {
            metadata,
            revision: Some(self.number),
            data: RawExtension(without_nulls(json!({
                "inputs": self.inputs,
                "template": self.template,
                "pinKey": self.pin_key,
                "needs": self.needs,
            }))),
        }
    }

    /// Whether a pod of it has verified itself.
    pub fn is_verified(&self) -> bool {
        matches!(self.verdict, Verdict::Verified { .. })
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Failed(failure) => Some(failure),
            Verdict::Open | Verdict::Verified { .. } => None,
        }
    }
}
