//! The machine's roofs: what no kernel on it can exceed. Each rate is the best of many short measurements, because
//! other work on the machine only ever makes them slower.
use anyhow::{Context, Result};
use serde::Serialize;
use std::panic::resume_unwind;
use std::sync::Barrier;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use windlass_kernels::roof::{Arithmetic, Pages, read};

/// Far beyond any last-level cache of the machines that we measure.
const BYTES: usize = 256 << 20;
/// About 10 ms of the slowest loop.
const ITERATIONS: u64 = 4_000_000;
/// Time for each number.
const TIME: Duration = Duration::from_millis(500);

/// One roof.
#[derive(Debug, Serialize)]
pub struct Roof {
    /// What was measured.
    pub name: String,
    /// 10^9 bytes, or multiply-adds, a second.
    pub giga_per_s: f64,
    /// `GB/s` or `GMAC/s`.
    pub unit: &'static str,
    /// Threads that did it at once.
    pub threads: usize,
}

/// Measures all roofs, on one thread and on `threads`, and hands each to `print`.
pub fn run(threads: usize, mut print: impl FnMut(Roof)) -> Result<()> {
    let mut counts = vec![1, threads];
    counts.dedup();
    for huge in [false, true] {
        let pages = Pages::new(BYTES, huge)?;
        let found = huge_bytes()?;
        let name = match (huge, found >= BYTES / 2) {
            (false, false) => "read, pages of 4 KB".to_owned(),
            (true, true) => "read, pages of 2 MB".to_owned(),
            (asked, _) => format!(
                "read (huge pages {}: the kernel gave {} MB of them)",
                if asked { "wanted" } else { "unwanted" },
                found >> 20
            ),
        };
        for &threads in &counts {
            print(Roof {
                name: name.clone(),
                giga_per_s: read_rate(&pages, threads),
                unit: "GB/s",
                threads,
            });
        }
    }
    let kinds = Arithmetic::ALL.into_iter().filter(|kind| kind.run(1).is_some());
    for kind in kinds {
        for &threads in &counts {
            print(Roof {
                name: kind.name().to_owned(),
                giga_per_s: arithmetic(kind, threads)?,
                unit: "GMAC/s",
                threads,
            });
        }
    }
    Ok(())
}

/// 10^9 multiply-adds that `threads` threads do a second.
pub fn arithmetic(kind: Arithmetic, threads: usize) -> Result<f64> {
    let macs = kind.run(1).context("this processor has no such instructions")? * ITERATIONS;
    let seconds = fastest(threads, |_| {
        std::hint::black_box(kind.run(ITERATIONS));
    });
    Ok((macs * threads as u64) as f64 / seconds / 1e9)
}

fn read_rate(pages: &Pages, threads: usize) -> f64 {
    let part = pages.bytes().len() / threads;
    let seconds = fastest(threads, |index| {
        std::hint::black_box(read(&pages.bytes()[index * part..][..part]));
    });
    (part * threads) as f64 / seconds / 1e9
}

/// Seconds from a common start to the end of the slowest thread, in the best of many tries.
fn fastest(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let (barrier, begin, mut best) = (Barrier::new(threads), Instant::now(), Duration::MAX);
    while begin.elapsed() < TIME {
        let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|index| {
                    let (barrier, work) = (&barrier, &work);
                    scope.spawn(move || {
                        barrier.wait();
                        let start = Instant::now();
                        work(index);
                        (start, Instant::now())
                    })
                })
                .collect();
            // A time without one of the threads would be that of less work.
            let span = |thread: ScopedJoinHandle<_>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            threads.into_iter().map(span).collect()
        });
        let start = spans.iter().map(|span| span.0).min();
        let end = spans.iter().map(|span| span.1).max();
        best = best.min(start.zip(end).map_or(Duration::MAX, |(start, end)| end - start));
    }
    best.as_secs_f64()
}

/// Bytes of this process that lie on huge pages.
fn huge_bytes() -> Result<usize> {
    let text = crate::machine::field("/proc/self/smaps_rollup", "AnonHugePages");
    let kilobytes = text
        .strip_suffix(" kB")
        .context("no AnonHugePages in /proc/self/smaps_rollup")?;
    Ok(kilobytes.trim().parse::<usize>()? << 10)
}
