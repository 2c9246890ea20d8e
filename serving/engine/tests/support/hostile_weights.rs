//! The corpus of the fuzz target `encoder`: safetensors files that lie about sizes, places and names, and good ones to start
//! from.
use crate::support::encoder::{TensorBytes, file_with_head, safetensors, tiny_tensors};

/// Each with its name.
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    [heads(), entries(), tensors()].concat()
}

/// Files whose beginning is wrong.
fn heads() -> Vec<(&'static str, Vec<u8>)> {
    let whole = safetensors(&tiny_tensors());
    let announced = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    let in_head =
        |before: &str, nested: &str| file_with_head((before.to_owned() + &nested.repeat(5000)).as_bytes(), &[]);
    vec![
        ("length-cut", b"\x02\0\0\0\0\0\0".to_vec()),
        ("length-0", announced(0)),
        ("length-1-too-many", announced(3)),
        ("length-2-63", announced(1 << 63)),
        ("length-max", announced(u64::MAX)),
        // With the eight bytes before the head it is 0.
        ("length-wraps", announced(u64::MAX - 7)),
        ("head-not-json", file_with_head(b"{", &[])),
        ("head-not-utf8", file_with_head(b"{\"\xff\":1}", &[])),
        ("head-an-array", file_with_head(b"[]", &[])),
        ("head-empty", file_with_head(b"{}", &[])),
        ("head-trailing", file_with_head(b"{}{}", &[])),
        ("head-deep", in_head("{\"x\":", "[")),
        ("head-deep-objects", in_head("{\"x\":", "{\"x\":")),
        ("head-deep-metadata", in_head("{\"__metadata__\":", "[")),
        ("weights-cut-in-their-head", whole[..200].to_vec()),
        ("weights-cut", whole[..whole.len() - 1].to_vec()),
        ("weights-trailing", [&whole[..], &[0]].concat()),
        ("weights", whole),
    ]
}

/// Files with an entry that is wrong. There are eight bytes of data.
fn entries() -> Vec<(&'static str, Vec<u8>)> {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#""x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let two = |offsets: &str| one("F32", "[1]", "[0,4]") + "," + &one("F32", "[1]", offsets).replace('x', "y");
    [
        ("offsets-max", one("F32", "[2]", "[0,18446744073709551615]")),
        // With the place where the data begins, they are beyond 64 bits.
        (
            "offsets-wrap",
            one("F32", "[2]", "[18446744073709551608,18446744073709551615]"),
        ),
        ("offsets-beyond-64-bits", one("F32", "[2]", "[0,18446744073709551616]")),
        ("offsets-negative", one("F32", "[2]", "[-8,0]")),
        ("offsets-reversed", one("F32", "[2]", "[8,0]")),
        ("offsets-three", one("F32", "[2]", "[0,8,8]")),
        ("offsets-past-the-end", one("F32", "[3]", "[0,12]")),
        ("offsets-overlap", two("[2,6]")),
        ("offsets-the-same", two("[0,4]")),
        ("offsets-with-a-hole", two("[5,8]")),
        ("name-twice", two("[4,8]").replace('y', "x")),
        ("field-twice", one("F32", "[2],\"shape\":[2]", "[0,8]")),
        (
            "metadata-twice",
            "\"__metadata__\":{},\"__metadata__\":{},".to_owned() + &one("F32", "[2]", "[0,8]"),
        ),
        ("dtype-unknown", one("F33", "[2]", "[0,8]")),
        ("dtype-of-half-bytes", one("F4", "[16]", "[0,8]")),
        ("dtype-long", one(&"F".repeat(5000), "[2]", "[0,8]")),
        ("shape-scalar", one("F64", "[]", "[0,8]")),
        ("shape-0", one("F32", "[0]", "[0,0]")),
        ("shape-0-and-max", one("F32", "[18446744073709551615,0]", "[0,0]")),
        ("shape-negative", one("F32", "[-2]", "[0,8]")),
        ("shape-a-fraction", one("F32", "[2.0]", "[0,8]")),
        // 2^62 elements of four bytes are 2^64 bytes, which is 0.
        ("shape-wraps", one("F32", "[4611686018427387904]", "[0,0]")),
        ("shape-product-wraps", one("F32", "[4294967296,4294967296,2]", "[0,0]")),
        ("shape-dimensions-9", one("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]")),
        (
            "shape-dimensions-many",
            one("F32", &format!("[{}1]", "1,".repeat(5000)), "[0,8]"),
        ),
    ]
    .map(|(name, entries)| (name, file_with_head(format!("{{{entries}}}").as_bytes(), &[0; 8])))
    .into()
}

/// Files that are right in themselves, and not what the model needs.
fn tensors() -> Vec<(&'static str, Vec<u8>)> {
    type Change = fn(&mut Vec<TensorBytes>);
    let changes: [(&str, Change); 9] = [
        ("tensor-missing", |tensors| drop(tensors.pop())),
        ("tensor-without-shape", |tensors| tensors[0].shape.clear()),
        ("tensor-transposed", |tensors| tensors[0].shape.reverse()),
        ("tensor-of-integers", |tensors| tensors[0].dtype = "I32"),
        ("tensors-in-a-model", |tensors| {
            tensors.iter_mut().for_each(|tensor| tensor.name.insert_str(0, "bert."));
        }),
        ("tensors-zero", |tensors| {
            tensors.iter_mut().for_each(|tensor| tensor.data.fill(0));
        }),
        // All ones are no number, as f32 and as f16.
        ("tensors-not-a-number", |tensors| {
            tensors.iter_mut().for_each(|tensor| tensor.data.fill(255));
        }),
        ("tensors-huge", |tensors| {
            let huge = f32::MAX.to_le_bytes();
            tensors
                .iter_mut()
                .for_each(|tensor| tensor.data = huge.repeat(tensor.data.len() / 4));
        }),
        ("tensors-bf16", |tensors| {
            for tensor in tensors {
                tensor.dtype = "BF16";
                tensor.data = tensor
                    .data
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .flat_map(|x| [x[2], x[3]])
                    .collect();
            }
        }),
    ];
    let file = |(name, change): (_, Change)| {
        let mut tensors = tiny_tensors();
        change(&mut tensors);
        (name, safetensors(&tensors))
    };
    let mut files: Vec<_> = changes.into_iter().map(file).collect();
    files.push((
        "tensors-none",
        file_with_head(br#"{"__metadata__":{"format":"pt"}}"#, &[]),
    ));
    files
}
