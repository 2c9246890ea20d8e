//! Reads a histogram of the Prometheus text format, and estimates quantiles from it as Prometheus' own
//! `histogram_quantile` does: linear inside of a bucket.
use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// Counts by upper bound in seconds, summed over all label sets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Upper bound and how many observations lie at or below it, in rising order; the last bound is infinite.
    buckets: Vec<(f64, f64)>,
}

impl Histogram {
    /// Reads the series `name_bucket` of a scrape. Empty when there is none yet.
    ///
    /// # Errors
    /// When a line of the series cannot be read.
    pub fn parse(scrape: &str, name: &str) -> Result<Self> {
        let mut buckets: BTreeMap<u64, f64> = BTreeMap::new();
        for line in scrape.lines() {
            let series = line.strip_prefix(name).and_then(|rest| rest.strip_prefix("_bucket{"));
            let Some((labels, rest)) = series.and_then(|rest| rest.split_once('}')) else {
                continue;
            };
            let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            let bound: f64 = bound.with_context(|| format!("no le in {line}"))?.parse()?;
            let value = rest.split_whitespace().next().context("no value")?;
            // Bounds are positive, so their bits have their order.
            *buckets.entry(bound.to_bits()).or_default() += value.parse::<f64>()?;
        }
        let buckets = buckets.into_iter().map(|(bits, count)| (f64::from_bits(bits), count));
        Ok(Self {
            buckets: buckets.collect(),
        })
    }

    /// What was observed since `earlier`, a scrape of the same process.
    ///
    /// # Errors
    /// When the buckets are not the same.
    pub fn since(&self, earlier: &Self) -> Result<Self> {
        if earlier.buckets.is_empty() {
            return Ok(self.clone());
        }
        ensure!(self.buckets.len() == earlier.buckets.len(), "the buckets changed");
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Ok(Self {
            buckets: pairs.map(|(now, then)| (now.0, now.1 - then.1)).collect(),
        })
    }

    /// How many observations there are.
    pub fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |bucket| bucket.1)
    }

    /// An estimate of the quantile with the bounds of its bucket: `(estimate, from, to)`, in seconds.
    /// `None` without observations.
    pub fn quantile(&self, quantile: f64) -> Option<(f64, f64, f64)> {
        let rank = quantile * self.count();
        let (mut bound_below, mut count_below) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= rank && *count > 0.0 {
                if bound.is_infinite() {
                    return Some((bound_below, bound_below, *bound));
                }
                let share = (rank - count_below) / (count - count_below).max(f64::MIN_POSITIVE);
                let estimate = bound_below + (bound - bound_below) * share;
                return Some((estimate, bound_below, *bound));
            }
            (bound_below, count_below) = (*bound, *count);
        }
        None
    }
}

/// The sum of a counter's or gauge's series of this name over all label sets; 0 when there is none yet.
///
/// # Errors
/// When a value is not a number.
pub fn value(scrape: &str, name: &str) -> Result<f64> {
    let mut sum = 0.0;
    for line in scrape.lines() {
        let Some(rest) = line.strip_prefix(name) else { continue };
        let rest = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}').map_or("", |(_, value)| value),
            None if rest.starts_with(' ') => rest,
            None => continue,
        };
        let number = rest
            .split_whitespace()
            .next()
            .with_context(|| format!("no value in {line}"))?;
        sum += number.parse::<f64>().with_context(|| format!("the value of {line}"))?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = "x_count 4\nx_bucket{le=\"0.01\"} 1\nx_bucket{le=\"0.1\"} 3\nx_bucket{le=\"+Inf\"} 4\n\
        x_bucket{kind=\"A\",le=\"0.01\"} 1\nx_bucket{kind=\"A\",le=\"0.1\"} 1\nx_bucket{kind=\"A\",le=\"+Inf\"} 1\n\
        x_total{kind=\"A\"} 2\nx_total{kind=\"B\"} 3\nxy 7\n";

    #[test]
    fn label_sets_are_summed_and_a_quantile_lies_inside_of_its_bucket() {
        let histogram = Histogram::parse(SCRAPE, "x").unwrap();
        assert_eq!(histogram.count(), 5.0);
        let (estimate, from, to) = histogram.quantile(0.5).unwrap();
        assert!(
            (from, to) == (0.01, 0.1) && (estimate - 0.0325).abs() < 1e-9,
            "{estimate}"
        );
        assert_eq!(histogram.quantile(1.0).unwrap().0, 0.1);
        assert_eq!(value(SCRAPE, "x_total").unwrap(), 5.0);
        assert_eq!(value(SCRAPE, "xy").unwrap(), 7.0);
        assert_eq!(value(SCRAPE, "z").unwrap(), 0.0);
    }

    #[test]
    fn an_earlier_scrape_is_subtracted() {
        let histogram = Histogram::parse(SCRAPE, "x").unwrap();
        assert_eq!(histogram.since(&histogram).unwrap().quantile(0.5), None);
        assert_eq!(histogram.since(&Histogram::default()).unwrap(), histogram);
    }
}
