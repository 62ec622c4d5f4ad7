//! The targets: what the node reads from others, each as one function that takes any bytes and panics
//! where a promise does not hold. libFuzzer drives them (`src/main.rs`), and `tests/it/corpus.rs`
//! replays what it found worth keeping. They share no state between runs.

use std::sync::OnceLock;

mod association;
mod data_set;
mod dicom_json;
mod file_meta;
mod header;
mod log;
mod message;
mod multipart;
mod pdu;
mod qido;
mod wire;

pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs to begin with: synthetic, and close to what real peers send.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    Target { name: "pdu", run: pdu::run, seeds: pdu::seeds },
    Target { name: "association", run: association::run, seeds: association::seeds },
    Target { name: "message", run: message::run, seeds: message::seeds },
    Target { name: "header", run: header::run, seeds: header::seeds },
    Target { name: "file_meta", run: file_meta::run, seeds: file_meta::seeds },
    Target { name: "dicom_json", run: dicom_json::run, seeds: dicom_json::seeds },
    Target { name: "multipart", run: multipart::run, seeds: multipart::seeds },
    Target { name: "qido", run: qido::run, seeds: qido::seeds },
    Target { name: "log", run: log::run, seeds: log::seeds },
];

/// A bug that is there only for the fuzzer to find, before its silence means anything: with
/// `RELAYPACS_FUZZ_PLANTED` set, what `reached` describes is one. Stands last in a run where it can: the fuzzer tries
/// what was compared last.
fn plant(reached: impl FnOnce() -> bool) {
    static PLANTED: OnceLock<bool> = OnceLock::new();
    if *PLANTED.get_or_init(|| std::env::var_os("RELAYPACS_FUZZ_PLANTED").is_some()) && reached() {
        panic!("the planted bug");
    }
}

/// Takes the first byte as a choice of the target's own.
fn split(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// How bytes arrive: one by one, or in pieces of sizes that fit nothing.
const CHUNKS: [usize; 3] = [1, 7, 61];
/// Longer inputs arrive in longer pieces, or there would be few runs in a second.
const MOST_CHUNKS: usize = 64;

/// What was read must not depend on how it arrived.
fn same_in_all_chunks<T: PartialEq + std::fmt::Debug>(
    choice: u8,
    length: usize,
    read: impl Fn(usize) -> T,
) -> T {
    let whole = read(usize::MAX);
    let chunk = CHUNKS[usize::from(choice) % CHUNKS.len()].max(length / MOST_CHUNKS);
    assert_eq!(read(chunk), whole, "in chunks of {chunk}");
    whole
}

/// For planted bugs. A number that is compared is one that the fuzzer can get nearer to; where others are compared
/// beside it, it gets there byte by byte, for each of the branches is something new.
#[inline(always)]
fn begins_with(bytes: &[u8], magic: &[u8; 4]) -> bool {
    use std::hint::black_box;
    let Some(begins) = bytes.first_chunk() else { return false };
    black_box(u32::from_be_bytes(*begins)) == u32::from_be_bytes(*magic)
        || black_box(begins[0]) == magic[0]
            && black_box(begins[1]) == magic[1]
            && black_box(begins[2]) == magic[2]
            && black_box(begins[3]) == magic[3]
}
