//! How long and how often a source is asked: time-outs, retries that end, waits that grow.
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

/// The longest wait that a server's `Retry-After` is granted.
const LONGEST_WISH: Duration = Duration::from_secs(300);

/// The limits of one fetch.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// No byte for so long: the connection is given up.
    pub stall: Duration,
    /// Attempts that brought nothing, in a row, before the fetch fails.
    pub attempts: u32,
    /// The wait after the first failed attempt; it doubles with each.
    pub first_wait: Duration,
    /// The wait never grows beyond this.
    pub longest_wait: Duration,
}

impl Patience {
    /// How long to wait after the `failed`-th failed attempt in a row (from 1). A server's wish prolongs it.
    pub fn wait(&self, failed: u32, wish: Option<Duration>) -> Duration {
        let doubled = self
            .first_wait
            .saturating_mul(1 << failed.saturating_sub(1).min(16))
            .min(self.longest_wait);
        // Up to a quarter more at random: pods that failed together must not return together.
        let share = RandomState::new().hash_one(failed) % 256;
        let spread = doubled.saturating_mul(u32::try_from(share).unwrap_or_default()) / 1024;
        (doubled + spread).max(wish.unwrap_or_default().min(LONGEST_WISH))
    }
}

/// Reads a `Retry-After` header: seconds, or a date.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(value.trim()).ok()?.duration_since(now).ok()
}

/// Reads a duration such as `500ms`, `30s`, `5m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let milliseconds: u64 = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(format!("`{text}` is not a duration; write 500ms, 30s or 5m")),
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; write 500ms, 30s or 5m"))?;
    let total = count
        .checked_mul(milliseconds)
        .ok_or_else(|| format!("`{text}` is too long"))?;
    if total == 0 {
        return Err(format!("`{text}`: must be more than nothing"));
    }
    Ok(Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        stall: Duration::from_secs(30),
        attempts: 8,
        first_wait: Duration::from_secs(1),
        longest_wait: Duration::from_secs(30),
    };

    #[test]
    fn waits_double_up_to_the_longest_with_a_quarter_of_spread() {
        for (failed, seconds) in [(1, 1), (2, 2), (5, 16), (6, 30), (u32::MAX, 30)] {
            let (wait, least) = (PATIENCE.wait(failed, None), Duration::from_secs(seconds));
            assert!(wait >= least && wait <= least + least / 4, "{failed}: {wait:?}");
        }
    }

    #[test]
    fn a_wish_of_the_server_is_granted_up_to_five_minutes() {
        assert_eq!(PATIENCE.wait(1, Some(Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!(PATIENCE.wait(1, Some(Duration::from_secs(9000))), LONGEST_WISH);
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now = httpdate::parse_http_date("Fri, 31 Dec 1999 23:59:00 GMT").unwrap();
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(
            retry_after("Fri, 31 Dec 1999 23:59:59 GMT", now),
            Some(Duration::from_secs(59))
        );
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:58:00 GMT", now), None);
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        for text in [
            "",
            "5",
            "0s",
            "-1s",
            "1.5s",
            "s",
            "99999999999999999999s",
            "18446744073709551615m",
            "5h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
