//! What was measured, as Markdown: medians of the rounds, how far they spread, and how the first server compares
//! with the best of the others. Pure: results in, text out.
use super::{EngineRun, Results, Run};
use crate::engine::Rates;
use crate::summary::median;
use std::fmt::Write;

/// The whole report.
pub fn markdown(results: &Results) -> String {
    let mut text = format!("# Comparison\n\n{}", results.origin);
    write_all(&mut text, results).map_or_else(|error| error.to_string(), |()| text)
}

fn write_all(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(
        text,
        "- rounds: {}, threads of each server: {}",
        results.rounds, results.threads
    )?;
    for (name, version) in results.servers.iter().filter(|(_, version)| !version.is_empty()) {
        writeln!(text, "- {name}: {version}")?;
    }
    for left_out in &results.left_out {
        writeln!(text, "- left out: {left_out}")?;
    }
    writeln!(
        text,
        "\nMedians of the rounds; in brackets the lowest and the highest. `x` is a number divided by that of the best \
         peer. TTFT and ITL are times to the first and between later texts, TPOT = (last - first text) / (tokens - 1); \
         tokens are those of the server's usage."
    )?;
    for (model, scenario) in distinct(results.runs.iter().map(|run| (&run.model, &run.scenario.name))) {
        let runs = results.runs.iter();
        let runs: Vec<&Run> = runs
            .filter(|run| run.model == *model && run.scenario.name == *scenario)
            .collect();
        writeln!(text, "\n## {model}: {scenario}\n")?;
        table(text, &runs)?;
    }
    for model in distinct(results.engines.iter().map(|run| &run.model)) {
        writeln!(text, "\n## {model}: engines alone, tokens/s\n")?;
        engine_table(
            text,
            &results
                .engines
                .iter()
                .filter(|run| run.model == *model)
                .collect::<Vec<_>>(),
        )?;
    }
    Ok(())
}

fn table(text: &mut String, runs: &[&Run]) -> std::fmt::Result {
    let servers = distinct(runs.iter().map(|run| &run.server));
    let of = |server: &str, value: fn(&Run) -> f64| -> Vec<f64> {
        runs.iter()
            .filter(|run| run.server == server)
            .map(|run| value(run))
            .collect()
    };
    let goal = runs.first().map(|run| run.scenario.goal).unwrap_or_default();
    writeln!(
        text,
        "| | output tok/s | x | TTFT p50 ms | x | TTFT p95 ms | x | TPOT p50 ms | ITL p95 ms | ITL p99 ms | \
         good/s (TTFT <= {} ms, TPOT <= {} ms) | x | failed | ready s | MiB | server CPU s | generator CPU s |",
        goal.ttft_ms, goal.tpot_ms
    )?;
    writeln!(text, "|---|{}", "---:|".repeat(16))?;
    for server in &servers {
        let middle = |value| median(of(server, value));
        let ratio =
            |value: fn(&Run) -> f64, higher: bool| ratio(&servers, server, higher, |name| median(of(name, value)));
        let spread = |value| spread(&of(server, value));
        writeln!(
            text,
            "| {server} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.2} | {} | {} | {:.2} | {:.0} | {:.1} | {:.2} |",
            spread(|run| run.summary.output_tokens_per_s),
            ratio(|run| run.summary.output_tokens_per_s, true),
            spread(|run| run.summary.ttft_ms.p50),
            ratio(|run| run.summary.ttft_ms.p50, false),
            spread(|run| run.summary.ttft_ms.p95),
            ratio(|run| run.summary.ttft_ms.p95, false),
            middle(|run| run.summary.tpot_ms.p50),
            middle(|run| run.summary.itl_ms.p95),
            middle(|run| run.summary.itl_ms.p99),
            middle(|run| run.summary.goodput_per_s),
            ratio(|run| run.summary.goodput_per_s, true),
            of(server, |run| run.summary.failed as f64).iter().sum::<f64>(),
            middle(|run| run.ready_s),
            middle(|run| run.memory_mib),
            middle(|run| run.server_cpu_s),
            middle(|run| run.summary.client_cpu_s),
        )?;
    }
    let short: usize = runs.iter().map(|run| run.summary.short_answers).sum();
    if short > 0 {
        writeln!(
            text,
            "\n{short} answers were shorter than asked for: this comparison is not fair."
        )?;
    }
    if runs.iter().any(|run| run.summary.counted_from != "usage") {
        writeln!(text, "\nSome server sends no usage: its events were counted as tokens.")?;
    }
    Ok(())
}

fn engine_table(text: &mut String, runs: &[&EngineRun]) -> std::fmt::Result {
    let engines = distinct(runs.iter().map(|run| &run.engine));
    let tasks = distinct(runs.iter().map(|run| task(&run.rates)));
    writeln!(
        text,
        "| | {} |",
        tasks
            .iter()
            .map(|task| format!("{task} | x"))
            .collect::<Vec<_>>()
            .join(" | ")
    )?;
    writeln!(text, "|---|{}", "---:|".repeat(tasks.len() * 2))?;
    for engine in &engines {
        write!(text, "| {engine} |")?;
        for wanted in &tasks {
            let of = |engine: &str| -> Vec<f64> {
                let runs = runs
                    .iter()
                    .filter(|run| run.engine == engine && task(&run.rates) == *wanted);
                runs.map(|run| speed(&run.rates)).collect()
            };
            let ratio = ratio(&engines, engine, true, |name| median(of(name)));
            write!(text, " {} | {ratio} |", spread(&of(engine)))?;
        }
        writeln!(text)?;
    }
    Ok(())
}

/// What was timed.
fn task(rates: &Rates) -> String {
    match rates.tg {
        0 | 1 => format!("prefill {}", rates.pp),
        _ => format!("decode, batch {}", rates.pl),
    }
}

fn speed(rates: &Rates) -> f64 {
    if rates.tg > 1 { rates.speed_tg } else { rates.speed_pp }
}

/// One line of an engine.
pub fn rate(rates: &Rates) -> String {
    format!("{}: {:.1} tokens/s", task(rates), speed(rates))
}

/// `name`'s number divided by the best one of the peers: of all others for the first, of all but the first for them.
fn ratio(names: &[&String], name: &str, higher_is_better: bool, value: impl Fn(&str) -> f64) -> String {
    let peers = names.iter().skip(1).map(|peer| value(peer)).filter(|peer| *peer > 0.0);
    let best = if higher_is_better {
        peers.reduce(f64::max)
    } else {
        peers.reduce(f64::min)
    };
    best.map_or_else(|| "-".to_owned(), |best| format!("{:.2}", value(name) / best))
}

fn spread(values: &[f64]) -> String {
    let low = values.iter().copied().reduce(f64::min);
    let high = values.iter().copied().reduce(f64::max);
    match low.zip(high) {
        None => "-".to_owned(),
        Some((low, high)) => format!("{:.1} [{low:.1}, {high:.1}]", median(values.to_vec())),
    }
}

/// Each value once, in the order of their first appearance.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut all = Vec::new();
    for value in values {
        if !all.contains(&value) {
            all.push(value);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_best_peer_and_never_to_the_first() {
        let names = ["ours".to_owned(), "a".to_owned(), "b".to_owned()];
        let names: Vec<&String> = names.iter().collect();
        let value = |name: &str| match name {
            "ours" => 300.0,
            "a" => 100.0,
            _ => 200.0,
        };
        assert_eq!(ratio(&names, "ours", true, value), "1.50");
        assert_eq!(ratio(&names, "ours", false, value), "3.00");
        assert_eq!(ratio(&names, "a", true, value), "0.50");
        assert_eq!(ratio(&names[..1], "ours", true, value), "-");
    }

    #[test]
    fn a_spread_is_the_median_with_both_ends() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), "2.0 [1.0, 3.0]");
        assert_eq!(spread(&[]), "-");
    }

    #[test]
    fn the_engine_table_has_a_column_for_each_task() {
        let run = |engine: &str, tg, pl, speed_pp, speed_tg| EngineRun {
            model: "m".to_owned(),
            engine: engine.to_owned(),
            round: 0,
            command: String::new(),
            rates: Rates {
                pp: 512,
                tg,
                pl,
                speed_pp,
                speed_tg,
                share_of_memory: None,
            },
        };
        let runs = [
            run("ours", 1, 1, 900.0, 0.0),
            run("ours", 64, 8, 1.0, 50.0),
            run("peer", 1, 1, 300.0, 7.0),
        ];
        let mut text = String::new();
        engine_table(&mut text, &runs.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(
            text,
            "| | prefill 512 | x | decode, batch 8 | x |\n|---|---:|---:|---:|---:|\n\
             | ours | 900.0 [900.0, 900.0] | 3.00 | 50.0 [50.0, 50.0] | - |\n| peer | 300.0 [300.0, 300.0] | 1.00 | - | - |\n"
        );
    }
}
