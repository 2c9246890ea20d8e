//! Durations as the spec carries them: hours, minutes, seconds and milliseconds, in this order, each at most once.
use std::time::Duration;

/// The duration, if the text is one that fits.
pub fn read(text: &str) -> Option<Duration> {
    // The iterator is consumed once, so units come in this order, each at most once.
    let mut units = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)].into_iter();
    let mut millis: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let (_, factor) = units.find(|(name, _)| *name == unit)?;
        millis = millis.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, millis) in [
            ("0s", 0),
            ("40ms", 40),
            ("1s500ms", 1500),
            ("1m40ms", 60_040),
            ("1h30m", 5_400_000),
            ("1h2m3s4ms", 3_723_004),
        ] {
            assert_eq!(read(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_duration_are_refused() {
        for text in [
            "",
            "40",
            "ms",
            "1s5",
            "0.5s",
            "5ms1s",
            "1m1h",
            "1ms1ms",
            "-5ms",
            "40 ms",
            "1d",
            "٣s",
            "99999999999999999999ms",
            "9999999999999999h",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
