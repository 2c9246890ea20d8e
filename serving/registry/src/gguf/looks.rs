//! Says what a file that is not GGUF looks like, so that a person knows what went wrong on the way.

/// A phrase for the first bytes of a file.
pub fn looks_like(start: &[u8]) -> String {
    let text = String::from_utf8_lossy(&start[..start.len().min(512)]);
    let lower = text.trim_start().to_ascii_lowercase();
    let known = if start.is_empty() {
        "an empty file"
    } else if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        return format!("an HTML page, such as a login or error page{}", title(&text));
    } else if lower.starts_with("version https://git-lfs") {
        "a Git LFS pointer, not the file it points to: the host's download address gives the file itself"
    } else if start.starts_with(b"PK\x03\x04") {
        "a ZIP archive, as PyTorch checkpoints are"
    } else if start.get(8) == Some(&b'{') {
        "a safetensors file"
    } else if [&b"ggml"[..], b"lmgg", b"tjgg", b"fmgg"]
        .iter()
        .any(|magic| start.starts_with(magic))
    {
        "a file of GGUF's predecessors"
    } else if start.starts_with(b"\x1f\x8b") {
        "a gzip archive"
    } else if start.starts_with(b"\x28\xb5\x2f\xfd") {
        "a zstd archive"
    } else if start.starts_with(b"\x08\x00") || start.starts_with(b"\x80\x02") {
        "a pickle or ONNX file"
    } else if start.iter().take(512).all(|byte| *byte == 0) {
        "nothing but zeros, as a download leaves that reserved its space and stopped"
    } else if lower.starts_with('{') || lower.starts_with("<?xml") {
        return format!("a message of the server ({})", quoted(&text));
    } else if start
        .iter()
        .take(512)
        .all(|byte| matches!(byte, 9..=13 | 32..=126 | 128..))
    {
        return format!("text ({})", quoted(&text));
    } else {
        "binary data of an unknown kind"
    };
    known.to_owned()
}

fn quoted(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let start: String = line.chars().filter(|c| !c.is_control()).take(60).collect();
    format!("\"{start}{}\"", if line.chars().count() > 60 { "…" } else { "" })
}

/// The title of an HTML page usually is the error itself.
fn title(page: &str) -> String {
    let lower = page.to_ascii_lowercase();
    let span = lower
        .find("<title>")
        .and_then(|at| Some(at + 7..lower[at..].find("</title>")? + at));
    span.and_then(|span| page.get(span))
        .map(|title| format!(" with the title {}", quoted(title)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_mistakes_are_recognised() {
        for (start, words) in [
            (&b""[..], "empty"),
            (
                b"<!DOCTYPE html><html><head><title>Sign in</title>",
                "with the title \"Sign in\"",
            ),
            (b"\n<html><title>", "HTML page"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:",
                "Git LFS pointer",
            ),
            (b"PK\x03\x04abc", "ZIP"),
            (b"\x40\0\0\0\0\0\0\0{\"__metadata__\":", "safetensors"),
            (b"\x1f\x8b\x08", "gzip"),
            (&[0; 600], "zeros"),
            (
                b"{\"error\": \"Entry not found\"}",
                "message of the server (\"{\"error\": \"Entry not found\"}\")",
            ),
            (b"Entry not found", "text (\"Entry not found\")"),
            (b"\x01\x02\x03\xff\xfe", "unknown kind"),
        ] {
            let phrase = looks_like(start);
            assert!(phrase.contains(words), "{phrase}");
        }
    }

    #[test]
    fn long_texts_are_shortened() {
        assert!(looks_like("word ".repeat(200).as_bytes()).len() < 90);
    }
}
