//! What is measured once all objects are Ready: rest, a start, the loss of the leader.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::scale::fleet::Fleet;
use crate::scale::process::Operator;
use crate::scale::requests::{Kind, Requests, count};
use crate::scale::{Rest, Restart};

/// A window of this length without request and reconcile counts as quiet.
const QUIET: Duration = Duration::from_secs(5);
/// An operator that is not quiet after this long is measured as it is.
const QUIET_LIMIT: Duration = Duration::from_secs(180);
/// How often the log and the metrics are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A standby that does nothing for this long is broken.
const FAILOVER_LIMIT: Duration = Duration::from_secs(120);

/// Waits until the operator is quiet, then counts what it does for `during`.
pub async fn rest(during: Duration, operator: &mut Operator, requests: &mut Requests) -> Result<Rest> {
    let from = Timestamp::now();
    let (until_quiet, _) = quiet(from, operator, requests).await?;
    let (from, started) = (Timestamp::now(), Instant::now());
    let reconciles = operator.durations().await?.count();
    super::say(&format!("watching it for {} s", during.as_secs()));
    while started.elapsed() < during {
        sleep(Duration::from_secs(1).min(during)).await;
        operator.check()?;
    }
    let (to, seconds) = (Timestamp::now(), started.elapsed().as_secs_f64());
    requests.refresh()?;
    let counted = |kind| count(requests.between(from, to), kind);
    Ok(Rest {
        until_quiet,
        seconds,
        writes: counted(Kind::Write),
        reads: counted(Kind::Read),
        watches: counted(Kind::Watch),
        lease: counted(Kind::Lease),
        reconciles: operator.durations().await?.count() - reconciles,
        usage: operator.usage()?,
    })
}

/// Measures an operator that has just been started.
pub async fn restart(operator: &mut Operator, requests: &mut Requests) -> Result<Restart> {
    let from = Timestamp::now();
    operator.await_leading().await?;
    let (seconds, reconciles) = quiet(from, operator, requests).await?;
    let counted = |kind| count(requests.between(from, Timestamp::now()), kind);
    Ok(Restart {
        seconds,
        reads: counted(Kind::Read),
        writes: counted(Kind::Write),
        reconciles,
        usage: operator.usage()?,
    })
}

/// Kills the leader, then changes an object; returns after how many seconds the standby wrote about it.
pub async fn failover(
    leader: Operator,
    standby: &Operator,
    fleet: &Fleet,
    index: usize,
    requests: &mut Requests,
) -> Result<f64> {
    standby.await_ready().await?;
    ensure!(
        leader.identity() != standby.identity(),
        "two operators with one identity"
    );
    let (namespace, name) = Fleet::name(index);
    let from = Timestamp::now();
    leader.kill().await?;
    // Nothing of the dead leader may count: it writes about this object only after the change.
    // The moment makes every change a different one.
    fleet.change(index, &from.as_millisecond().to_string()).await?;
    let started = Instant::now();
    loop {
        requests.refresh()?;
        if let Some(at) = requests.first_write(from, &namespace, &name) {
            return Ok(seconds(from, at));
        }
        let waited = started.elapsed();
        ensure!(
            waited < FAILOVER_LIMIT,
            "{} wrote nothing about {namespace}/{name} for {waited:?}",
            standby.identity()
        );
        sleep(LOOK_EVERY).await;
    }
}

/// Waits for a quiet window; returns how many seconds after `from` it began, and how many reconciles there were.
async fn quiet(from: Timestamp, operator: &mut Operator, requests: &mut Requests) -> Result<(f64, f64)> {
    let started = Instant::now();
    let mut reconciles = operator.durations().await?.count();
    let mut last = from;
    loop {
        operator.check()?;
        let now = operator.durations().await.context("while waiting for rest")?.count();
        requests.refresh()?;
        if now > reconciles {
            (reconciles, last) = (now, Timestamp::now());
        }
        last = last.max(requests.last_work(from).unwrap_or(from));
        if Timestamp::now().duration_since(last).unsigned_abs() >= QUIET || started.elapsed() >= QUIET_LIMIT {
            return Ok((seconds(from, last), reconciles));
        }
        sleep(LOOK_EVERY).await;
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}
