//! What the table says about a measurement, a row for each number, with the goal next to it and whether it is met.
use crate::scale::Measured;

/// One row.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) goal: &'static str,
    /// One for each number of objects.
    pub(super) cells: Vec<String>,
}

/// All rows, in the order in which things happen.
pub(super) fn rows(results: &[Measured]) -> Vec<Row> {
    let row = |what: &str, goal: &'static str, cell: &dyn Fn(&Measured) -> String| Row {
        what: what.to_owned(),
        goal,
        cells: results.iter().map(cell).collect(),
    };
    let smallest = results.iter().map(|result| result.objects).min().unwrap_or(1);
    let base = results.iter().find(|result| result.objects == smallest);
    vec![
        row("Ready", "all", &|result| {
            format!("{} of {}", thousands(result.ready), thousands(result.objects))
        }),
        row("created at, objects/s", "", &|result| {
            format!("{:.0}", result.objects as f64 / result.load)
        }),
        row("first creation to all Ready", "1,000 in 60 s", &|result| {
            let met = goal_of_thousand(result, result.from_first <= 60.0);
            if result.ready < result.objects {
                "not reached".into()
            } else {
                format!("{:.1} s{met}", result.from_first)
            }
        }),
        row("last creation to all Ready", "", &|result| {
            if result.ready < result.objects {
                "not reached".into()
            } else {
                format!("{:.1} s", result.from_last)
            }
        }),
        row(
            "the same an object, against the smallest count",
            "5,000 no worse than linear",
            &|result| {
                let each = result.from_first / result.objects as f64;
                let least = base.map_or(each, |base| base.from_first / base.objects as f64);
                format!("{:.1} ms ({:.2}x)", each * 1000.0, each / least)
            },
        ),
        row("reconciles an object", "", &|result| {
            format!("{:.1}", result.reconciles / result.objects as f64)
        }),
        row("reconcile p50 (its bucket)", "", &|result| quantile(result.p50)),
        row("reconcile p99 (its bucket)", "", &|result| quantile(result.p99)),
        row("reconciles that failed", "", &|result| {
            format!("{:.0}", result.failures)
        }),
        row("requests an object", "", &verbs),
        row("processor time of the operator", "", &|result| {
            format!("{:.1} s", result.usage.cpu_seconds)
        }),
        row("processor time of the control plane", "", &|result| {
            let total: f64 = result.control_plane.values().sum();
            let server = result.control_plane.get("kube-apiserver").copied().unwrap_or_default();
            format!("{total:.0} s (API server {server:.0} s)")
        }),
        row("memory (RSS) when Ready, its peak", "1,000 in 60 MB", &|result| {
            let met = goal_of_thousand(result, result.usage.peak <= 60_000_000);
            format!(
                "{}, {} MB{met}",
                megabytes(result.usage.resident),
                megabytes(result.usage.peak)
            )
        }),
        row("from Ready to rest", "", &|result| {
            format!("{:.1} s", result.rest.until_quiet)
        }),
        row("writes a minute at rest", "0", &|result| {
            let met = met(result.rest.writes == 0);
            format!("{:.1}{met}", result.rest.writes as f64 * 60.0 / result.rest.seconds)
        }),
        row("reads a minute at rest", "", &|result| {
            format!("{:.1}", result.rest.reads as f64 * 60.0 / result.rest.seconds)
        }),
        row("reads an object in 10 minutes of rest", "at most 1", &|result| {
            let reads = result.rest.reads as f64 * 600.0 / result.rest.seconds / result.objects as f64;
            format!("{reads:.2}{}", met(reads <= 1.0))
        }),
        row("rest was watched for", "", &|result| {
            format!(
                "{:.0} s, {:.0} reconciles, {} watches",
                result.rest.seconds, result.rest.reconciles, result.rest.watches
            )
        }),
        row("requests for the Lease a minute", "", &|result| {
            format!("{:.1}", result.rest.lease as f64 * 60.0 / result.rest.seconds)
        }),
        row("memory (RSS) after rest, its peak", "", &|result| {
            format!(
                "{}, {} MB",
                megabytes(result.rest.usage.resident),
                megabytes(result.rest.usage.peak)
            )
        }),
        row("restart to caught up", "", &|result| {
            format!("{:.1} s", result.restart.seconds)
        }),
        row("restart: reads, writes, reconciles", "0 writes", &|result| {
            let restart = &result.restart;
            format!(
                "{}, {}, {:.0}{}",
                thousands(restart.reads),
                restart.writes,
                restart.reconciles,
                met(restart.writes == 0)
            )
        }),
        row("restart: peak of memory (RSS)", "", &|result| {
            format!("{} MB", megabytes(result.restart.usage.peak))
        }),
        row("leader killed to the standby's first write", "20 s", &|result| {
            let seconds: Vec<String> = result.failovers.iter().map(|seconds| format!("{seconds:.1}")).collect();
            let worst = result.failovers.iter().copied().fold(0.0, f64::max);
            if seconds.is_empty() {
                "not measured".into()
            } else {
                format!("{} s{}", seconds.join(", "), met(worst <= 20.0))
            }
        }),
    ]
}

fn verbs(result: &Measured) -> String {
    let total: usize = result.verbs.values().sum();
    let each = |count: usize| count as f64 / result.objects as f64;
    let verbs = result.verbs.iter().filter(|(_, count)| each(**count) >= 0.05);
    let verbs: Vec<String> = verbs
        .map(|(verb, count)| format!("{verb} {:.1}", each(*count)))
        .collect();
    format!("{:.1} ({})", each(total), verbs.join(", "))
}

/// Requests an object by verb and resource, the most frequent first.
pub(super) fn resources(result: &Measured) -> String {
    let each = |count: usize| count as f64 / result.objects as f64;
    let mut counts: Vec<(&String, f64)> = result
        .resources
        .iter()
        .map(|(what, count)| (what, each(*count)))
        .collect();
    counts.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    let counts = counts.into_iter().filter(|(_, each)| *each >= 0.01);
    counts
        .map(|(what, each)| format!("{what} {each:.2}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn quantile((estimate, from, to): (f64, f64, f64)) -> String {
    if to.is_infinite() {
        return format!("above {:.0} ms", from * 1000.0);
    }
    format!(
        "{:.0} ms ({:.0} to {:.0})",
        estimate * 1000.0,
        from * 1000.0,
        to * 1000.0
    )
}

/// The goals for 1,000 objects say nothing about other counts.
fn goal_of_thousand(result: &Measured, is_met: bool) -> &'static str {
    if result.objects == 1000 { met(is_met) } else { "" }
}

fn met(is_met: bool) -> &'static str {
    if is_met { ", met" } else { ", missed" }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// With a comma before the last three digits; enough for what can be measured.
pub(super) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let (head, tail) = digits.split_at(digits.len().saturating_sub(3));
    if head.is_empty() {
        tail.to_owned()
    } else {
        format!("{head},{tail}")
    }
}
