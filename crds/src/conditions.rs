//! The closed list of condition types and of their reasons. Messages are written for people and may
//! change; types and reasons are part of the API.

/// The types of condition that a ModelDeployment has, always all of them.
pub mod condition {
    /// The wanted revision serves and has answered a real request.
    pub const READY: &str = "Ready";
    /// The operator or the cluster is still on the way to the spec (kstatus: in progress).
    pub const RECONCILING: &str = "Reconciling";
    /// Only an edit, or a deadline moved, gets it going again (kstatus: failed).
    pub const STALLED: &str = "Stalled";
    /// Some revision serves through `status.url`.
    pub const AVAILABLE: &str = "Available";
    /// The spec is valid and the object's children can have their names.
    pub const ACCEPTED: &str = "Accepted";
    /// What the spec refers to by name was found and could be used.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// The model's file is complete and is what was asked for.
    pub const MODEL_VERIFIED: &str = "ModelVerified";
    /// A node took the pods.
    pub const SCHEDULED: &str = "Scheduled";

    /// All types, in the order in which people read them.
    pub const ALL: [&str; 8] = [
        READY,
        RECONCILING,
        STALLED,
        AVAILABLE,
        ACCEPTED,
        RESOLVED_REFS,
        MODEL_VERIFIED,
        SCHEDULED,
    ];
}

/// The reasons. One reason may stand in several conditions: the one that found it, and `Ready`.
pub mod reason {
    // The state that was asked for.
    /// `Ready`, `Available`: requests are answered.
    pub const SERVING: &str = "Serving";
    /// `Reconciling`, `Stalled` are False: there is nothing to do.
    pub const SETTLED: &str = "Settled";
    /// `Accepted`: the spec is valid.
    pub const VALID: &str = "Valid";
    /// `ResolvedRefs`: nothing is missing.
    pub const RESOLVED: &str = "Resolved";
    /// `ModelVerified`: the file is what was asked for.
    pub const VERIFIED: &str = "Verified";
    /// `Scheduled`: every pod has a node.
    pub const SCHEDULED: &str = "Scheduled";
    /// `spec.suspend` is set.
    pub const SUSPENDED: &str = "Suspended";

    // On the way.
    /// Nothing has been observed yet.
    pub const PENDING: &str = "Pending";
    /// The children are being written, the Deployment has not acted yet.
    pub const PROGRESSING: &str = "Progressing";
    /// A pod fetches the model.
    pub const DOWNLOADING: &str = "Downloading";
    /// The engine's container has not started yet.
    pub const CONTAINER_STARTING: &str = "ContainerStarting";
    /// The engine loads the model.
    pub const ENGINE_STARTING: &str = "EngineStarting";
    /// A pod is ready and is about to be asked for a completion.
    pub const PROOF_PENDING: &str = "ProofPending";
    /// Serving, but not yet with all pods of the wanted revision.
    pub const ROLLING_OUT: &str = "RollingOut";
    /// Serving, but with fewer pods than wanted.
    pub const REPLICAS_NOT_READY: &str = "ReplicasNotReady";

    // Somebody has to do something.
    /// The spec contradicts itself.
    pub const INVALID: &str = "Invalid";
    /// The object cannot be read by this operator (the CRD is newer).
    pub const UNREADABLE: &str = "Unreadable";
    /// An object of somebody else has the name of a child.
    pub const NAME_CONFLICT: &str = "NameConflict";
    /// The API server refuses one of the children (rights, quota, a policy, a foreign change).
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// The API server refuses to create pods (quota, policy, missing ServiceAccount).
    pub const PODS_REFUSED: &str = "PodsRefused";
    /// The scheduler finds no node.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// A Secret or ConfigMap, or one of its keys, is missing.
    pub const REFERENCE_NOT_FOUND: &str = "ReferenceNotFound";
    /// The claim is missing or not bound.
    pub const CLAIM_NOT_USABLE: &str = "ClaimNotUsable";
    /// An image cannot be pulled.
    pub const IMAGE_PULL_FAILED: &str = "ImagePullFailed";
    /// The source wants credentials and none were given.
    pub const CREDENTIALS_REQUIRED: &str = "CredentialsRequired";
    /// The source does not accept the credentials.
    pub const CREDENTIALS_REJECTED: &str = "CredentialsRejected";
    /// The source string is not supported by the registry image.
    pub const INVALID_SOURCE: &str = "InvalidSource";
    /// The source has no such file.
    pub const MODEL_NOT_FOUND: &str = "ModelNotFound";
    /// The source cannot be reached or breaks off.
    pub const SOURCE_UNAVAILABLE: &str = "SourceUnavailable";
    /// The file is not the one that was pinned.
    pub const DIGEST_MISMATCH: &str = "DigestMismatch";
    /// The file is truncated or not a GGUF file.
    pub const INVALID_FILE: &str = "InvalidFile";
    /// The volume is too small for the model.
    pub const NO_SPACE: &str = "NoSpace";
    /// The volume cannot be read or written.
    pub const VOLUME_FAILED: &str = "VolumeFailed";
    /// The init step ended without saying why.
    pub const FETCH_FAILED: &str = "FetchFailed";
    /// The engine used more memory than its limit.
    pub const OUT_OF_MEMORY: &str = "OutOfMemory";
    /// The engine ends again and again.
    pub const ENGINE_CRASHED: &str = "EngineCrashed";
    /// The node of a pod does not report any more.
    pub const NODE_LOST: &str = "NodeLost";
    /// A pod says that it is ready, but does not answer a completion.
    pub const PROOF_FAILED: &str = "ProofFailed";
    /// The wanted revision failed; the last good one serves, if there is one.
    pub const REVISION_FAILED: &str = "RevisionFailed";
    /// The wanted revision was not proven in time.
    pub const PROGRESS_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
    /// No pod takes requests.
    pub const NO_READY_PODS: &str = "NoReadyPods";

    /// Whether a reason means that somebody has to do something; the others are the way or the goal.
    pub fn is_problem(reason: &str) -> bool {
        let from = ALL.iter().position(|known| *known == INVALID);
        let at = ALL.iter().position(|known| *known == reason);
        at >= from && reason != NO_READY_PODS
    }

    /// The closed list: first the goals, then the way, then (from `INVALID` on) the problems.
    pub const ALL: [&str; 41] = [
        SERVING,
        SETTLED,
        VALID,
        RESOLVED,
        VERIFIED,
        SCHEDULED,
        SUSPENDED,
        PENDING,
        PROGRESSING,
        DOWNLOADING,
        CONTAINER_STARTING,
        ENGINE_STARTING,
        PROOF_PENDING,
        ROLLING_OUT,
        REPLICAS_NOT_READY,
        INVALID,
        UNREADABLE,
        NAME_CONFLICT,
        APPLY_FAILED,
        PODS_REFUSED,
        UNSCHEDULABLE,
        REFERENCE_NOT_FOUND,
        CLAIM_NOT_USABLE,
        IMAGE_PULL_FAILED,
        CREDENTIALS_REQUIRED,
        CREDENTIALS_REJECTED,
        INVALID_SOURCE,
        MODEL_NOT_FOUND,
        SOURCE_UNAVAILABLE,
        DIGEST_MISMATCH,
        INVALID_FILE,
        NO_SPACE,
        VOLUME_FAILED,
        FETCH_FAILED,
        OUT_OF_MEMORY,
        ENGINE_CRASHED,
        NODE_LOST,
        PROOF_FAILED,
        REVISION_FAILED,
        PROGRESS_DEADLINE_EXCEEDED,
        NO_READY_PODS,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_from_progress() {
        assert!(reason::is_problem(reason::INVALID) && reason::is_problem(reason::DIGEST_MISMATCH));
        assert!(!reason::is_problem(reason::DOWNLOADING) && !reason::is_problem(reason::SUSPENDED));
        assert!(!reason::is_problem(reason::NO_READY_PODS) && !reason::is_problem("SomethingElse"));
    }

    #[test]
    fn types_and_reasons_are_camel_case_and_distinct() {
        for list in [condition::ALL.as_slice(), reason::ALL.as_slice()] {
            let mut seen = std::collections::BTreeSet::new();
            for word in list {
                assert!(word.starts_with(|c: char| c.is_ascii_uppercase()), "{word}");
                assert!(word.bytes().all(|b| b.is_ascii_alphanumeric()), "{word}");
                assert!(seen.insert(word), "{word} twice");
            }
        }
    }
}
