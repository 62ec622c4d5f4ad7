//! Replays what fuzzing found worth keeping (`fuzz/corpus`, docs/fuzzing.md), without a fuzzer.

use std::path::Path;

#[path = "../../fuzz/targets/mod.rs"]
mod targets;

/// Runs the target on its seeds and on every file of its corpus.
fn replay(name: &str) {
    let target = targets::TARGETS.iter().find(|target| target.name == name).expect("a target");
    (target.seeds)().iter().for_each(|seed| (target.run)(seed));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is kept") {
        let path = entry.expect("the corpus can be listed").path();
        let input = std::fs::read(&path).expect("the corpus can be read");
        if let Err(panic) = std::panic::catch_unwind(|| (target.run)(&input)) {
            eprintln!("the input was {}", path.display());
            std::panic::resume_unwind(panic);
        }
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

macro_rules! replayed {
    ($($sentence:ident: $target:literal,)*) => {
        $(
            #[test]
            fn $sentence() {
                replay($target);
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<_> = targets::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$($target),*]);
        }
    };
}

replayed! {
    whatever_pdus_come_they_are_read_or_refused_in_bounds: "pdu",
    whatever_association_items_come_negotiation_answers_what_can_be_read_back: "association",
    whatever_values_come_messages_are_assembled_the_same_however_they_are_cut: "message",
    whatever_data_set_comes_the_header_scan_stays_within_its_bounds: "header",
    whatever_file_meta_comes_its_end_is_found_or_it_is_refused: "file_meta",
    whatever_data_set_comes_its_json_and_xml_are_well_formed: "dicom_json",
    whatever_multipart_body_comes_its_parts_end_at_their_boundaries: "multipart",
    whatever_query_comes_it_is_a_search_or_a_bad_request: "qido",
    whatever_the_log_holds_no_record_is_believed_without_its_checksum: "log",
}
