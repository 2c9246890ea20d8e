//! The closed lists of condition types and reasons of all kinds. Messages are written for people and may
//! change; types and reasons are part of the API. `docs/operate/reasons.md` has an entry for each reason.

/// The types of condition. Which of them an object has is decided by its kind.
pub mod condition {
    /// The desired revision serves and is verified: it has answered a real request.
    pub const READY: &str = "Ready";
    /// The operator or the cluster is still working towards the spec (kstatus: in progress).
    pub const RECONCILING: &str = "Reconciling";
    /// Only an edit of the spec, or a larger deadline, lets it continue (kstatus: failed).
    pub const STALLED: &str = "Stalled";
    /// Some verified revision serves through `status.url`.
    pub const AVAILABLE: &str = "Available";
    /// The spec is valid and the object's children can have their names.
    pub const ACCEPTED: &str = "Accepted";
    /// What the spec refers to by name was found and could be used.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// The model's files are complete and have the digest that the spec or the first fetch pinned.
    pub const MODEL_VERIFIED: &str = "ModelVerified";
    /// Every pod has a node.
    pub const SCHEDULED: &str = "Scheduled";
}

/// Whether a reason needs somebody's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The desired state.
    Goal,
    /// On the way there; nobody has to do anything.
    Progress,
    /// Somebody has to do something.
    Problem,
}

/// Declares the reasons: severity, name, meaning. The meaning is the documentation of the variant.
macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $severity:ident $name:ident;)+) => {
        /// Why a condition has its status. One reason may stand in several conditions: in the one that
        /// found it, and in `Ready`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl Reason {
            /// All reasons: goals first, then progress, then problems.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// As the API writes it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Whether it needs somebody's attention.
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity,)+
                }
            }

            /// One sentence about what it means.
            pub fn meaning(self) -> String {
                let lines: &[&str] = match self {
                    $(Self::$name => &[$($meaning),+],)+
                };
                lines.concat().trim().to_owned()
            }
        }
    };
}

reasons! {
    /// Requests are answered.
    Goal Serving;
    /// There is nothing to do.
    Goal Settled;
    /// The spec is valid.
    Goal Valid;
    /// Everything that the spec refers to was found.
    Goal Resolved;
    /// The model's files are complete and have the digest that they should have.
    Goal Verified;
    /// Every pod has a node.
    Goal Scheduled;
    /// `spec.suspend` is true: no pods run.
    Goal Suspended;
    /// The autoscaler of `spec.scaling.mode: External` has set the number of pods to zero.
    Goal ScaledToZero;

    /// Nothing has been observed yet.
    Progress Pending;
    /// The child objects are being written, and the cluster has not acted on them yet.
    Progress Progressing;
    /// A pod fetches the model.
    Progress Downloading;
    /// A container has not started yet: volumes or images are being prepared.
    Progress ContainerStarting;
    /// The engine loads the model.
    Progress EngineStarting;
    /// A pod asks its runtime for a first answer before it becomes ready.
    Progress Verifying;
    /// Some pod serves, but pods of an earlier revision are still being replaced.
    Progress RollingOut;
    /// Some pod serves, but fewer than desired.
    Progress ReplicasNotReady;
    /// No pod takes requests.
    Progress NoReadyPods;

    /// The spec contradicts itself.
    Problem Invalid;
    /// This operator cannot read the object: the CRD is newer than the operator.
    Problem Unreadable;
    /// An object of somebody else has the name of a child.
    Problem NameConflict;
    /// The API server refuses a child: rights, quota, an admission policy, or a changed immutable field.
    Problem ApplyFailed;
    /// The API server refuses to create pods: quota, limit range, admission policy or a missing ServiceAccount.
    Problem PodsRefused;
    /// The scheduler finds no node.
    Problem Unschedulable;
    /// A Secret, ConfigMap or one of its keys is missing.
    Problem ReferenceNotFound;
    /// A PersistentVolumeClaim is missing or not bound.
    Problem ClaimNotUsable;
    /// A volume cannot be attached to the node or mounted into the pod.
    Problem VolumeNotMounted;
    /// An image cannot be pulled.
    Problem ImagePullFailed;
    /// A container cannot be created or started.
    Problem ContainerFailed;
    /// The source demands credentials and none were given.
    Problem CredentialsRequired;
    /// The source does not accept the credentials.
    Problem CredentialsRejected;
    /// The source is not supported by the registry image.
    Problem InvalidSource;
    /// The source has no such file or repository.
    Problem ModelNotFound;
    /// The source cannot be reached, or the connection breaks off.
    Problem SourceUnavailable;
    /// The content is not what was pinned.
    Problem DigestMismatch;
    /// A model file is truncated, malformed or refused.
    Problem InvalidFile;
    /// The volume is too small for the model.
    Problem NoSpace;
    /// The volume cannot be read or written.
    Problem VolumeFailed;
    /// The init container that fetches the model ended without a report.
    Problem FetchFailed;
    /// The engine used more memory than its limit.
    Problem OutOfMemory;
    /// The engine ends by itself.
    Problem EngineCrashed;
    /// The runtime is up, but does not answer the verification request as it should.
    Problem VerificationFailed;
    /// A container that is not Windlass' own is not ready.
    Problem SidecarNotReady;
    /// A readiness gate that somebody else set is not met.
    Problem ReadinessGateNotMet;
    /// The node of a pod does not report any more.
    Problem NodeLost;
    /// The desired revision failed; the last verified one serves, if there is one.
    Problem RevisionFailed;
    /// The desired revision was not verified before its deadline.
    Problem ProgressDeadlineExceeded;
}

impl Reason {
    /// Whether somebody has to do something.
    pub fn is_problem(self) -> bool {
        self.severity() == Severity::Problem
    }

    /// The reason of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_sorted_by_severity_and_each_has_a_meaning() {
        assert!(Reason::ALL.is_sorted_by_key(|reason| reason.severity()));
        for reason in Reason::ALL {
            assert!(reason.meaning().ends_with('.'), "{reason}: {}", reason.meaning());
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("SomethingElse"), None);
    }

    #[test]
    fn reasons_are_camel_case_as_the_api_demands() {
        for reason in Reason::ALL {
            let word = reason.as_str();
            assert!(word.starts_with(|c: char| c.is_ascii_uppercase()), "{word}");
            assert!(word.bytes().all(|b| b.is_ascii_alphanumeric()), "{word}");
        }
    }

    /// Reasons of the documentation with their text.
    fn documented() -> Vec<(String, String)> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operate/reasons.md");
        let text = std::fs::read_to_string(path).expect("docs/operate/reasons.md");
        let entries = text.split("\n### ").skip(1);
        let entry = |entry: &str| {
            let (reason, text) = entry.split_once('\n').expect("text below a heading");
            let text = text.split("\n## ").next().unwrap_or_default();
            (reason.trim().to_owned(), text.to_owned())
        };
        entries.map(entry).collect()
    }

    #[test]
    fn every_reason_has_its_entry_in_the_documentation_in_the_same_order() {
        let documented: Vec<String> = documented().into_iter().map(|(reason, _)| reason).collect();
        let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(documented, reasons);
    }

    #[test]
    fn every_entry_says_what_a_reason_means_and_of_a_problem_its_cause_and_remedy() {
        for (name, text) in documented() {
            let reason = Reason::parse(&name).expect("a reason");
            assert!(
                text.contains(&reason.meaning()),
                "{name} has another meaning in its entry"
            );
            assert!(text.contains("In: `"), "{name} does not name its conditions");
            let has_both = text.contains("Cause: ") && text.contains("Remedy: ");
            assert!(has_both || !reason.is_problem(), "{name} has no cause or no remedy");
        }
    }
}
