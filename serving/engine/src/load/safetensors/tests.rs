//! Files with heads that are right and wrong.
use super::*;

fn file(head: &[u8], data: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes = [&(head.len() as u64).to_le_bytes(), head, data].concat();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn refusal(head: &str, data: &[u8]) -> String {
    let file = file(head.as_bytes(), data);
    SafeTensors::open(file.path()).unwrap_err().fault.to_string()
}

#[test]
fn every_float_type_is_read_as_f32() {
    let head = br#"{"__metadata__":{"format":"pt"},
        "a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},
        "c":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]},
        "b":{"dtype":"F16","shape":[1,2],"data_offsets":[8,12]}}  "#;
    let data = [0, 0, 128, 63, 0, 0, 0, 192, 0, 60, 0, 192, 128, 63, 0, 192];
    let file = file(head, &data);
    let tensors = SafeTensors::open(file.path()).unwrap();
    for (name, shape) in [("a", &[2, 1][..]), ("b", &[1, 2]), ("c", &[2])] {
        assert_eq!(tensors.read(name, shape).unwrap(), [1.0, -2.0], "{name}");
    }
    let error = tensors.read("a", &[1, 2]).unwrap_err().fault.to_string();
    assert_eq!(error, "tensor `a` has the shape [2, 1], and [1, 2] is needed");
    let error = tensors.read("d", &[1]).unwrap_err().fault.to_string();
    assert_eq!(error, "has no tensor `d`, which this model needs");
}

#[test]
fn entries_that_do_not_fit_the_file_are_refused_by_name() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (head, words) in [
        (one("F32", "[2]", "[0,4]"), "has 4 bytes for the shape [2] of F32"),
        (one("F32", "[2]", "[0,8]"), "beyond the file's"),
        (one("F32", "[1]", "[4,8]"), "the one before it ends at 0"),
        (one("F32", "[1]", "[4,0]"), "the one before it ends at 0"),
        (one("F4", "[1]", "[0,4]"), "unknown type F4"),
        (one("F32", "[4294967296,4294967296]", "[0,4]"), "has 4 bytes for"),
        (one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "has 9 dimensions"),
        (one("F32", "[1]", "[0,18446744073709551615]"), "beyond the file's"),
    ] {
        let refusal = refusal(&head, &[0; 4]);
        assert!(
            refusal.starts_with("tensor `x` ") && refusal.contains(words),
            "{refusal}"
        );
    }
    let two = |second: &str| {
        let first = r#""x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
        refusal(&format!("{{{first},{second}}}"), &[0; 8])
    };
    let overlap = two(r#""y":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}"#);
    assert!(overlap.starts_with("tensor `y` lies at 2..6"), "{overlap}");
    let hole = two(r#""y":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}"#);
    assert!(hole.starts_with("tensor `y` lies at 6..8"), "{hole}");
    let twice = two(r#""x":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#);
    assert_eq!(twice, "tensor `x` is there twice");
    let rest = two(r#""y":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}"#);
    assert!(rest.contains("end at byte 6 of the data"), "{rest}");
}

#[test]
fn what_a_head_says_at_length_is_cut_in_an_error() {
    let long = "ü".repeat(1 << 20);
    let entry = r#"{"dtype":"U8","shape":[5],"data_offsets":[0,4]}"#;
    let good = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    for (head, start) in [
        (format!(r#"{{"{long}":{entry}}}"#), "tensor `üü"),
        (format!(r#"{{"{long}":{good},"{long}":{good}}}"#), "tensor `üü"),
        (
            format!(r#"{{"x":{{"dtype":"{long}","shape":[4],"data_offsets":[0,4]}}}}"#),
            "tensor `x` has the unknown type üü",
        ),
        (format!(r#"{{"x":"{long}"}}"#), "is not a safetensors file"),
    ] {
        let refusal = refusal(&head, &[0; 4]);
        assert!(refusal.starts_with(start) && refusal.contains("ü…"), "{refusal:.300}");
        assert!(refusal.len() < 400, "{} bytes", refusal.len());
    }
}

#[test]
fn what_is_no_safetensors_file_is_refused() {
    for bytes in [
        &b""[..],
        b"GGUF",
        &[255; 16],
        &[9, 0, 0, 0, 0, 0, 0, 0, b'{'],
        b"GGUF\x03\0\0\0\0\0\0\0",
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let fault = SafeTensors::open(file.path()).unwrap_err().fault;
        assert!(matches!(fault, Fault::Head(_)), "{fault}");
    }
    let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
    for head in [
        "[]",
        "{",
        "{}x",
        r#"{"x":5}"#,
        r#"{"x":{"dtype":"F32"}}"#,
        r#"{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        &deep,
    ] {
        assert!(refusal(head, &[]).starts_with("is not a safetensors file"), "{head}");
    }
    assert!(
        SafeTensors::open(Path::new("/"))
            .unwrap_err()
            .to_string()
            .contains("not a regular file")
    );
}
