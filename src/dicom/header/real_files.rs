//! The scanner over every file of `RELAYPACS_TESTDATA`: real ones of many makers, and malformed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::dicom::metadata::MetadataReader;
use crate::dicom::part10::{self, MetaProgress};
use crate::dicom::{Dataset, json, xml};

/// The data sets with their transfer syntaxes, and the files that don't even have a file meta.
struct Corpus {
    data_sets: Vec<(PathBuf, &'static TransferSyntax, Vec<u8>)>,
    not_part10: Vec<(PathBuf, String)>,
}

fn corpus(keep: impl Fn(&Path) -> bool) -> Option<Corpus> {
    let Some(root) = std::env::var_os("RELAYPACS_TESTDATA") else {
        eprintln!("SKIPPED: RELAYPACS_TESTDATA is not set, no real file was scanned");
        return None;
    };
    let mut corpus = Corpus { data_sets: Vec::new(), not_part10: Vec::new() };
    let manifest = std::fs::read_to_string(Path::new(&root).join("MANIFEST.tsv")).unwrap();
    let names = manifest.lines().skip(1).filter_map(|line| line.split('\t').next());
    for name in names.map(PathBuf::from).filter(|name| keep(name)) {
        if name.extension().is_some_and(|extension| extension == "dic") {
            continue;
        }
        let bytes = std::fs::read(Path::new(&root).join(&name)).unwrap();
        let meta = match part10::read_meta(&bytes) {
            Ok(MetaProgress::Complete(meta)) => meta,
            Ok(MetaProgress::Incomplete) => {
                corpus.not_part10.push((name, "incomplete".to_owned()));
                continue;
            }
            Err(what) => {
                corpus.not_part10.push((name, what.to_owned()));
                continue;
            }
        };
        match TransferSyntax::by_uid(&meta.transfer_syntax_uid) {
            Some(syntax) => corpus.data_sets.push((name, syntax, bytes[meta.data_set_offset..].to_vec())),
            None => corpus.not_part10.push((name, format!("syntax {}", meta.transfer_syntax_uid))),
        }
    }
    Some(corpus)
}

fn is_malformed(name: &Path) -> bool {
    name.starts_with("malformed")
}

fn scan(syntax: &'static TransferSyntax, bytes: &[u8], chunk: usize) -> Result<Header, ScanError> {
    let mut scanner = HeaderScanner::new(syntax, ScanLimits::default());
    for piece in bytes.chunks(chunk) {
        scanner.push(piece)?;
    }
    scanner.finish()
}

#[test]
fn chunking_changes_nothing_and_nothing_hangs() {
    let Some(corpus) = corpus(|_| true) else { return };
    assert!(corpus.data_sets.len() > 300);
    for (name, syntax, bytes) in &corpus.data_sets {
        let started = Instant::now();
        let whole = scan(syntax, bytes, bytes.len().max(1));
        assert!(started.elapsed() < Duration::from_secs(2), "{}", name.display());
        for chunk in [1, 7, 4096] {
            assert_eq!(scan(syntax, bytes, chunk), whole, "{} by {chunk}", name.display());
        }
    }
}

/// What lacks an identifier is no SOP instance: DICOMDIRs, palettes, snippets made to test readers.
#[test]
fn nearly_all_real_instances_are_taken() {
    let Some(corpus) = corpus(|name| !is_malformed(name)) else { return };
    let (mut taken, mut no_instance, mut broken) = (0, Vec::new(), Vec::new());
    for (name, syntax, bytes) in &corpus.data_sets {
        match scan(syntax, bytes, 64 << 10) {
            Ok(_) => taken += 1,
            Err(error @ ScanError::Identifier { .. }) => no_instance.push((name, error)),
            Err(error) => broken.push((name, error)),
        }
    }
    for (name, error) in no_instance.iter().chain(&broken) {
        eprintln!("refused: {}: {error}", name.display());
    }
    for (name, why) in &corpus.not_part10 {
        eprintln!("no Part 10 file: {}: {why}", name.display());
    }
    assert!(taken >= 248, "{taken} taken");
    assert!(taken * 100 >= (taken + broken.len()) * 98, "{taken} taken, {} broken", broken.len());
}

#[test]
fn what_the_scan_takes_has_metadata_whatever_the_chunks() {
    let Some(corpus) = corpus(|_| true) else { return };
    let mut lines = String::new();
    for (name, syntax, bytes) in &corpus.data_sets {
        let taken = scan(syntax, bytes, 64 << 10);
        let whole = metadata(syntax, bytes, bytes.len().max(1));
        assert_eq!(metadata(syntax, bytes, 7), whole, "{}", name.display());
        let dataset = match (taken, whole) {
            (Ok(_), whole) => whole.unwrap(),
            (Err(_), Ok(_)) => continue,
            (Err(scan), Err(metadata)) => {
                assert_eq!(scan, metadata, "{}", name.display());
                continue;
            }
        };
        assert!(!xml::document(&dataset).contains('\0'));
        lines += &format!("{}\t{}\n", name.display(), json::object(&dataset));
    }
    if let Some(path) = std::env::var_os("RELAYPACS_DUMP") {
        std::fs::write(Path::new(&path).with_extension("metadata"), lines).unwrap();
    }
}

fn metadata(syntax: &TransferSyntax, bytes: &[u8], chunk: usize) -> Result<Dataset, ScanError> {
    let mut reader = MetadataReader::new(syntax, ScanLimits::default(), "/bulk");
    for piece in bytes.chunks(chunk) {
        reader.push(piece)?;
    }
    reader.finish()
}

/// For a look by eye, and for comparing with other readers: `RELAYPACS_DUMP=file cargo nextest …`.
#[test]
fn captured_attributes_can_be_dumped() {
    let Some(path) = std::env::var_os("RELAYPACS_DUMP") else { return };
    let Some(corpus) = corpus(|_| true) else { return };
    let mut lines = String::new();
    for (name, syntax, bytes) in &corpus.data_sets {
        let attributes = scan(syntax, bytes, 64 << 10).map(|header| header.attributes);
        let json = match attributes {
            Ok(attributes) => serde_json::json!({ "file": name, "attributes": attributes }),
            Err(error) => serde_json::json!({ "file": name, "error": error.to_string() }),
        };
        lines += &format!("{json}\n");
    }
    std::fs::write(path, lines).unwrap();
}
