//! What strangers wrote, as errors repeat it.

/// The beginning of a text, at most `max` bytes of it, with `…` behind where it goes on.
pub fn shortened(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(max)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_only_where_it_is_longer() {
        assert_eq!(shortened("zwölf", 6), "zwölf");
        assert_eq!(shortened("zwölf", 5), "zwöl…");
        assert_eq!(shortened("zwölf", 3), "zw…");
        assert_eq!(shortened("", 0), "");
    }
}
