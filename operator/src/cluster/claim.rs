//! Two releases must not serve the same namespace: each would undo what the other writes. The Lease that elects a
//! release's leader also says which namespaces that leader serves. Whoever wants to lead writes this first, then looks for
//! a Lease of another release that is held and serves one of the same namespaces, and steps back when there is one. Of
//! two that begin at the same moment both see each other and step back, so that never both lead.
use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::args::Scope;

/// A Lease of a Windlass operator has it.
const LABEL: &str = "windlass.dev/operator-lease";
/// The namespaces that its holder serves, separated by commas, or `*`.
const ANNOTATION: &str = "windlass.dev/scope";
/// The field manager of both.
const MANAGER: &str = "windlass-operator-scope";

/// How long a release that stepped back waits before it looks again; the same for the same identity, and different for
/// most others, so that two do not step back in step.
pub fn pause(identity: &str) -> Duration {
    let sum: u64 = identity.bytes().map(u64::from).sum();
    Duration::from_millis(5000 + sum * 37 % 5000)
}

/// The claim of one release.
pub struct Claim {
    client: Client,
    /// Where the release's own Lease lies.
    namespace: String,
    name: String,
    scope: Scope,
}

impl Claim {
    /// The claim of the release with this Lease.
    pub fn new(client: Client, namespace: &str, name: &str, scope: Scope) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            scope,
        }
    }

    /// Writes into the release's own Lease, which must exist, which namespaces it serves.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn write(&self) -> kube::Result<()> {
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.name,
                "labels": {LABEL: "true"},
                "annotations": {ANNOTATION: written(&self.scope)},
            },
        });
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let params = PatchParams::apply(MANAGER).force();
        leases.patch(&self.name, &params, &Patch::Apply(&body)).await.map(drop)
    }

    /// The other release that serves one of the same namespaces now, for people; `None` when there is none.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn contender(&self) -> kube::Result<Option<String>> {
        let labelled = ListParams::default().labels(&format!("{LABEL}=true"));
        let leases = Api::<Lease>::all(self.client.clone()).list(&labelled).await?;
        let now = Timestamp::now();
        let others = leases.items.iter().filter(|lease| {
            let is_own = lease.name_any() == self.name && lease.namespace().as_deref() == Some(&self.namespace);
            !is_own && is_held(lease, now)
        });
        Ok(others.filter_map(|lease| contest(&self.scope, lease)).next())
    }
}

/// What a Lease of another release and a scope have in common, for people.
fn contest(scope: &Scope, lease: &Lease) -> Option<String> {
    let theirs = read(lease.annotations().get(ANNOTATION)?);
    let common = match (scope, &theirs) {
        (Scope::Cluster, Scope::Cluster) => "all namespaces".to_owned(),
        (Scope::Cluster, Scope::Namespaces(names)) | (Scope::Namespaces(names), Scope::Cluster) => {
            format!("the namespaces {}", names.join(", "))
        }
        (Scope::Namespaces(ours), Scope::Namespaces(theirs)) => {
            let theirs: BTreeSet<&String> = theirs.iter().collect();
            let both: Vec<&str> = ours
                .iter()
                .filter(|name| theirs.contains(name))
                .map(String::as_str)
                .collect();
            if both.is_empty() {
                return None;
            }
            format!("the namespaces {}", both.join(", "))
        }
    };
    Some(format!(
        "the release with the Lease {}/{} serves {common}",
        lease.namespace().unwrap_or_default(),
        lease.name_any(),
    ))
}

/// Whether somebody holds a Lease that has not run out.
fn is_held(lease: &Lease, now: Timestamp) -> bool {
    let Some(spec) = &lease.spec else {
        return false;
    };
    let Some(renewed) = spec.renew_time.as_ref().filter(|_| spec.holder_identity.is_some()) else {
        return false;
    };
    let age = now.duration_since(renewed.0).as_secs();
    age <= i64::from(spec.lease_duration_seconds.unwrap_or(0))
}

fn written(scope: &Scope) -> String {
    match scope {
        Scope::Cluster => "*".to_owned(),
        Scope::Namespaces(names) => names.join(","),
    }
}

fn read(text: &str) -> Scope {
    match text {
        "*" => Scope::Cluster,
        names => Scope::Namespaces(names.split(',').map(str::to_owned).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, renewed: i64, scope: &str) -> Lease {
        let renewed = Timestamp::from_second(renewed).expect("time").to_string();
        serde_json::from_value(json!({
            "metadata": {"name": "b-operator", "namespace": "other", "annotations": {ANNOTATION: scope}},
            "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15},
        }))
        .expect("lease")
    }

    fn namespaces(names: &[&str]) -> Scope {
        Scope::Namespaces(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn releases_contend_for_the_namespaces_that_both_serve_and_for_no_others() {
        let contest = |ours: &Scope, theirs: &str| super::contest(ours, &lease(Some("b"), 0, theirs));
        assert_eq!(contest(&namespaces(&["a", "b"]), "c,d"), None);
        let message = contest(&namespaces(&["a", "b"]), "b,c").expect("contended");
        assert_eq!(
            message,
            "the release with the Lease other/b-operator serves the namespaces b"
        );
        for (ours, theirs, named) in [
            (Scope::Cluster, "*", "all namespaces"),
            (Scope::Cluster, "x", "namespaces x"),
            (namespaces(&["x"]), "*", "namespaces x"),
        ] {
            let message = contest(&ours, theirs).expect("contended");
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn a_lease_that_was_given_back_or_ran_out_contends_for_nothing() {
        let now = Timestamp::from_second(1000).expect("time");
        assert!(is_held(&lease(Some("b"), 990, "*"), now));
        assert!(!is_held(&lease(Some("b"), 900, "*"), now));
        assert!(!is_held(&lease(None, 990, "*"), now));
    }

    #[test]
    fn a_scope_is_read_as_it_was_written() {
        for scope in [Scope::Cluster, namespaces(&["a"]), namespaces(&["a", "b"])] {
            assert_eq!(read(&written(&scope)), scope);
        }
    }
}
