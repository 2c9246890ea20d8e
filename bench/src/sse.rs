//! Server-sent events out of the pieces in which they arrived, each with the moment at which it was complete.
//! Only what streams of answers use: `data` lines; other fields and comments are dropped.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<T> {
    /// Of the piece that completed it.
    pub at: T,
    /// Its `data` lines, joined by line feeds.
    pub data: String,
}

/// The events of a body that arrived in `pieces`. What follows the last empty line is no event.
pub fn events<T: Copy, B: AsRef<[u8]>>(pieces: impl IntoIterator<Item = (T, B)>) -> Vec<Event<T>> {
    let (mut events, mut line, mut data) = (Vec::new(), Vec::new(), None);
    for (at, piece) in pieces {
        for &byte in piece.as_ref() {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            let text = text.strip_suffix('\r').unwrap_or(&text);
            if text.is_empty() {
                events.extend(data.take().map(|data| Event { at, data }));
            } else if let Some(value) = text.strip_prefix("data:") {
                let value = value.strip_prefix(' ').unwrap_or(value);
                match &mut data {
                    None => data = Some(value.to_owned()),
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                }
            }
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(pieces: &[&str]) -> Vec<(usize, String)> {
        let events = events(pieces.iter().enumerate());
        events.into_iter().map(|event| (event.at, event.data)).collect()
    }

    #[test]
    fn an_event_has_the_time_of_the_piece_that_completes_it() {
        let pieces = ["data: a\n\ndata: b", "c\n", "\ndata: d\n\n"];
        assert_eq!(parsed(&pieces), [(0, "a".into()), (2, "bc".into()), (2, "d".into())]);
    }

    #[test]
    fn characters_and_line_ends_may_be_cut_anywhere() {
        let text = "data: {\"text\":\"é\"}\r\n\r\ndata:x\n\n";
        for cut in 0..text.len() {
            let pieces = [(0, &text.as_bytes()[..cut]), (1, &text.as_bytes()[cut..])];
            let data: Vec<String> = events(pieces).into_iter().map(|event| event.data).collect();
            assert_eq!(data, ["{\"text\":\"é\"}", "x"], "cut at {cut}");
        }
    }

    #[test]
    fn comments_and_other_fields_are_no_events_and_data_lines_join() {
        assert_eq!(parsed(&[": ping\n\nevent: x\nid: 1\n\n"]), []);
        assert_eq!(parsed(&["event: x\ndata: a\ndata: b\n\n"]), [(0, "a\nb".into())]);
    }

    #[test]
    fn an_event_that_was_cut_off_is_dropped() {
        assert_eq!(parsed(&["data: a\n\ndata: b\n"]), [(0, "a".into())]);
    }
}
