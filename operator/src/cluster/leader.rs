//! Leadership: one process writes. The lease is taken and renewed by `kube-lease-manager`; because a
//! lease does not fence, this file also knows until when the last renewal that the API server showed
//! protects us, on a clock that goes on while a process is stopped. Past that moment the process ends.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::{sync::watch, task::JoinHandle};

/// How often a lease is looked at; reads only. The shortest, of 6 s, is renewed after 4 s and looked at
/// every second, so that its renewal is known before the old end.
fn look_every(lease: Duration) -> Duration {
    (lease / 6).min(Duration::from_secs(2))
}

/// A renewal this long before the end leaves time for a slow API server.
const RENEW_BEFORE_END_PERCENT: u64 = 40;

/// Until when this process may write.
#[derive(Clone, Default)]
pub struct Leadership {
    valid_until: Arc<Mutex<Option<Instant>>>,
}

impl Leadership {
    /// Whether this process may write.
    pub fn is_valid(&self) -> bool {
        let valid_until = self.valid_until.lock().unwrap_or_else(PoisonError::into_inner);
        valid_until.is_some_and(|until| Instant::now() < until)
    }

    /// Ends the process when it may not write: another one may, and there is no way back but a new start.
    pub fn assert(&self) {
        if !self.is_valid() {
            tracing::error!("the lease is not ours any more: ending at once");
            std::process::exit(1);
        }
    }

    /// May write until then.
    pub fn extend(&self, until: Instant) {
        let mut valid_until = self.valid_until.lock().unwrap_or_else(PoisonError::into_inner);
        *valid_until = Some(valid_until.map_or(until, |old| old.max(until)));
    }
}

/// Competes for the lease.
pub struct Election {
    client: Client,
    namespace: String,
    name: String,
    identity: String,
    duration: Duration,
    changes: watch::Receiver<bool>,
    manager: Manager,
}

type Manager = JoinHandle<kube_lease_manager::Result<LeaseManager>>;

impl Election {
    /// Begins to compete for the lease.
    ///
    /// # Errors
    /// When the Lease can be neither read nor created.
    pub async fn begin(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        seconds: u16,
    ) -> kube_lease_manager::Result<Self> {
        let duration = Duration::from_secs(seconds.into());
        let (changes, manager) = ask(client.clone(), namespace, name, identity, duration).await?;
        Ok(Self {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration,
            changes,
            manager,
        })
    }

    /// Waits until this process leads, and returns until when the lease protects it.
    ///
    /// The manager sleeps until the lease that it saw would run out, and does not notice that its holder
    /// gave it back earlier: then another manager takes its place.
    ///
    /// # Errors
    /// When no manager can be started again, or the manager ended by itself: then nothing competes for the lease.
    pub async fn won(&mut self) -> anyhow::Result<Instant> {
        loop {
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() {
                    anyhow::bail!("the lease manager ended: {:?}", (&mut self.manager).await.map(|ended| ended.err()));
                },
                () = tokio::time::sleep(look_every(self.duration)) => {}
            }
            let is_leader = *self.changes.borrow_and_update();
            match self.look().await {
                Some(Seen::Ours(until)) if is_leader => return Ok(until),
                Some(Seen::Free) => {
                    self.manager.abort();
                    let (client, namespace) = (self.client.clone(), &self.namespace);
                    (self.changes, self.manager) =
                        ask(client, namespace, &self.name, &self.identity, self.duration).await?;
                }
                _ => {}
            }
        }
    }

    /// Keeps `leadership` up to date; returns when it is lost.
    pub async fn lost(&mut self, leadership: &Leadership) {
        loop {
            if let Some(Seen::Ours(until)) = self.look().await {
                leadership.extend(until);
            }
            if !leadership.is_valid() {
                return;
            }
            tokio::select! {
                changed = self.changes.changed() => {
                    if changed.is_err() || !*self.changes.borrow_and_update() {
                        return;
                    }
                }
                () = tokio::time::sleep(look_every(self.duration)) => {}
            }
        }
    }

    /// Gives the lease back, so that the next process need not wait for its end.
    pub async fn release(self) {
        drop(self.changes);
        match tokio::time::timeout(Duration::from_secs(5), self.manager).await {
            Ok(Ok(Ok(_))) => tracing::info!("lease released"),
            _ => tracing::warn!("the lease could not be released; it will run out"),
        }
    }

    /// Reads the lease. The clock is read before the request is sent: the answer can only be older than
    /// it seems.
    async fn look(&self) -> Option<Seen> {
        let (asked, asked_wall) = (Instant::now(), Timestamp::now());
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let lease = match tokio::time::timeout(self.duration / 3, leases.get(&self.name)).await {
            Ok(Ok(lease)) => lease,
            // Whoever asks looks again soon; the lease that was seen last holds as long as it said.
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot read the lease");
                return None;
            }
            Err(_) => {
                tracing::warn!("reading the lease takes too long");
                return None;
            }
        };
        let spec = lease.spec.unwrap_or_default();
        let Some(holder) = spec.holder_identity else {
            return Some(Seen::Free);
        };
        if holder != self.identity {
            return Some(Seen::Taken);
        }
        let age = asked_wall.duration_since(spec.renew_time?.0).unsigned_abs();
        let left = self.duration.checked_sub(age)?;
        Some(Seen::Ours(asked.checked_add(left)?))
    }
}

/// What the lease says.
enum Seen {
    /// Nobody holds it.
    Free,
    /// Somebody else holds it, or held it until it ran out.
    Taken,
    /// This process holds it, until then.
    Ours(Instant),
}

/// Starts a manager that competes for the lease.
async fn ask(
    client: Client,
    namespace: &str,
    name: &str,
    identity: &str,
    duration: Duration,
) -> kube_lease_manager::Result<(watch::Receiver<bool>, Manager)> {
    let grace = (duration.as_secs() * RENEW_BEFORE_END_PERCENT / 100).max(2);
    let manager = LeaseManagerBuilder::new(client, name)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(duration.as_secs())
        .with_grace(grace)
        .build()
        .await?;
    Ok(manager.watch().await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::memory_api::MemoryApi;

    #[test]
    fn leadership_begins_with_a_renewal_and_ends_by_itself() {
        let leadership = Leadership::default();
        assert!(!leadership.is_valid());
        leadership.extend(Instant::now() + Duration::from_secs(60));
        assert!(leadership.is_valid());
        let ended = Leadership::default();
        ended.extend(Instant::now());
        assert!(!ended.is_valid());
    }

    #[tokio::test]
    async fn a_follower_whose_lease_manager_ended_says_so_instead_of_waiting_for_ever() {
        let (_, changes) = watch::channel(false);
        let mut election = Election {
            client: MemoryApi::default().client(),
            namespace: "windlass-system".to_owned(),
            name: "windlass-operator".to_owned(),
            identity: "follower".to_owned(),
            duration: Duration::from_secs(300),
            changes,
            manager: tokio::spawn(async { panic!("a fault of the manager") }),
        };
        let error = election.won().await.unwrap_err().to_string();
        assert!(error.contains("a fault of the manager"), "{error}");
    }

    #[test]
    fn an_older_answer_does_not_shorten_what_a_newer_one_said() {
        let leadership = Leadership::default();
        leadership.extend(Instant::now() + Duration::from_secs(60));
        leadership.extend(Instant::now());
        assert!(leadership.is_valid());
    }
}
