//! Which bytes a request wants (RFC 9110, section 14): one range, guarded by `If-Range`.
use axum::http::header::{self, HeaderMap};

/// The bytes to give.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No range, one that is not understood, or one for content that has changed since.
    Whole,
    /// `length` is at least 1 and the part lies inside the file.
    Part { start: u64, length: u64 },
    /// A range outside the file.
    Nothing,
}

/// Reads `Range` and `If-Range` for a file of `size` bytes with the validator `etag`.
pub fn wanted(headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if headers.contains_key(header::IF_RANGE) && text(header::IF_RANGE) != Some(etag) {
        return Wanted::Whole;
    }
    let Some((first, last)) = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
    else {
        return Wanted::Whole;
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.is_empty() => (first, size),
        (Err(_), Ok(count)) if first.is_empty() => (size.saturating_sub(count), size),
        _ => return Wanted::Whole,
    };
    if start >= end {
        return Wanted::Nothing;
    }
    Wanted::Part {
        start,
        length: end - start,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(range: &str, if_range: Option<&'static str>) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
        if let Some(value) = if_range {
            headers.insert(header::IF_RANGE, HeaderValue::from_static(value));
        }
        wanted(&headers, "\"e\"", 10)
    }

    #[test]
    fn the_three_forms_of_a_range_are_understood() {
        assert_eq!(of("bytes=0-0", None), Wanted::Part { start: 0, length: 1 });
        assert_eq!(of("bytes=4-99", None), Wanted::Part { start: 4, length: 6 });
        assert_eq!(of("bytes=4-", None), Wanted::Part { start: 4, length: 6 });
        assert_eq!(of("bytes=-3", None), Wanted::Part { start: 7, length: 3 });
        assert_eq!(of("bytes=-99", None), Wanted::Part { start: 0, length: 10 });
    }

    #[test]
    fn a_range_outside_the_file_gives_nothing() {
        for range in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(of(range, None), Wanted::Nothing, "{range}");
        }
    }

    #[test]
    fn what_is_no_single_range_gives_the_whole() {
        for range in [
            "bytes=5-4",
            "bytes=a-b",
            "bytes=0-1,3-4",
            "items=0-1",
            "bytes=-",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(of(range, None), Wanted::Whole, "{range}");
        }
    }

    #[test]
    fn a_range_of_changed_content_gives_the_whole() {
        assert_eq!(of("bytes=4-", Some("\"e\"")), Wanted::Part { start: 4, length: 6 });
        assert_eq!(of("bytes=4-", Some("\"f\"")), Wanted::Whole);
        assert_eq!(of("bytes=4-", Some("W/\"e\"")), Wanted::Whole);
    }
}
