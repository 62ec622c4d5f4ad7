use super::*;

fn parse(vr: VR, value: &str) -> Matching {
    Matching::parse(vr, value).unwrap()
}

fn matches(vr: VR, key: &str, stored: &str) -> bool {
    parse(vr, key).matches(vr, stored)
}

#[test]
fn empty_values_and_asterisks_match_everything() {
    for vr in [VR::LO, VR::PN, VR::UI, VR::DA, VR::TM, VR::DT, VR::IS, VR::US, VR::CS] {
        for value in ["", "  ", "*", "**"] {
            assert_eq!(parse(vr, value), Matching::Universal, "{vr} {value:?}");
        }
        assert!(matches(vr, "", ""));
    }
    assert_eq!(parse(VR::PN, "^^="), Matching::Universal);
    assert_eq!(parse(VR::PN, "^^=\\="), Matching::Universal);
}

#[test]
fn an_empty_stored_value_matches_only_the_universal_key() {
    assert!(!matches(VR::LO, "A", ""));
    assert!(!matches(VR::LO, "?", ""));
    assert!(!matches(VR::DA, "-20240101", ""));
    assert!(!matches(VR::DA, "-20240101", "not a date"));
}

#[test]
fn single_values_match_case_sensitively_but_names_do_not() {
    assert!(matches(VR::LO, "ABC ", "ABC"));
    assert!(matches(VR::LO, " ABC", " ABC "), "padding on either side (PS3.5 §6.2)");
    assert!(!matches(VR::ST, "ABC", " ABC"), "in text it counts");
    assert!(!matches(VR::LO, "abc", "ABC"));
    assert!(matches(VR::PN, "müller^hans", "MULLER^Hans^^"));
    assert!(!matches(VR::PN, "Müller", "Müller^Hans"));
    assert!(matches(VR::LT, "a\\b", "a\\b"));
}

#[test]
fn one_of_several_stored_values_is_enough() {
    assert!(matches(VR::CS, "PRIMARY", "ORIGINAL\\PRIMARY"));
    assert!(matches(VR::PN, "B*", "Adams\\Baker"));
    assert!(!matches(VR::CS, "PRIM", "ORIGINAL\\PRIMARY"));
}

#[test]
fn a_name_matches_by_any_of_its_groups() {
    let stored = "Yamada^Tarou=山田^太郎=やまだ^たろう";
    for key in ["yamada*", "山田^太郎", "=山田*", "Yamada*=山*", "==やまだ^たろう", "*たろう"]
    {
        assert!(matches(VR::PN, key, stored), "{key}");
    }
    for key in ["=yamada*", "Yamada", "太郎", "Yamada*=x*"] {
        assert!(!matches(VR::PN, key, stored), "{key}");
    }
}

#[test]
fn wildcards_stand_for_any_and_for_one_character() {
    assert!(matches(VR::LO, "A*C?E", "ABBBCDE"));
    assert!(matches(VR::LO, "*a*b", "aaab"));
    assert!(!matches(VR::LO, "*a*b", "aaac"));
    assert!(matches(VR::SH, "??", "äö"));
    assert!(!matches(VR::SH, "??", "a"));
    assert!(matches(VR::LO, "100%_*", "100%_x"));
    assert!(!matches(VR::LO, "100%*", "1000"));
    assert_eq!(parse(VR::LO, "A***B"), Matching::Wildcard("A*B".to_owned()));
}

#[test]
fn wildcards_are_characters_where_the_standard_has_none() {
    assert_eq!(parse(VR::IS, "1*"), Matching::Single("1*".to_owned()));
    assert!(Matching::parse(VR::UI, "1.2.*").is_err());
    assert!(Matching::parse(VR::DA, "2024*").is_err());
}

#[test]
fn a_uid_matches_by_a_list() {
    assert_eq!(parse(VR::UI, "1.2\\1.3"), Matching::List(vec!["1.2".to_owned(), "1.3".to_owned()]));
    assert_eq!(parse(VR::UI, "1.2\\"), Matching::Single("1.2".to_owned()));
    assert!(matches(VR::UI, "1.2\\1.3", "1.3"));
    assert!(!matches(VR::UI, "1.2\\1.3", "1.33"));
    assert!(matches(VR::CS, "CT\\MR", "PT\\MR"));
}

#[test]
fn date_ranges_include_their_bounds_and_may_be_open() {
    assert!(matches(VR::DA, "20240101-20240131", "20240131"));
    assert!(matches(VR::DA, "20240101-", "20240101"));
    assert!(matches(VR::DA, "-20240131", "20231231"));
    assert!(matches(VR::DA, "20240101 - 20240131", "2024.01.15"));
    assert!(!matches(VR::DA, "20240101-20240131", "20240201"));
    for value in ["-", "2024-2025", "20240101-20240131-", "yesterday", "20240230"] {
        assert!(Matching::parse(VR::DA, value).is_err(), "{value}");
    }
}

#[test]
fn times_match_by_what_their_precision_means() {
    assert!(matches(VR::TM, "10", "105959.9"));
    assert!(matches(VR::TM, "103000", "1030"));
    assert!(matches(VR::TM, "103000", "103000.00"));
    assert!(!matches(VR::TM, "103000", "103001"));
    assert!(matches(VR::TM, "1000-1030", "103059.999999"));
    assert!(!matches(VR::TM, "1000-1030", "103100"));
    assert!(matches(VR::TM, "1000-", "235959"));
}

#[test]
fn a_hyphen_in_a_date_time_is_an_offset_or_a_range() {
    let from_to = |from: &str, to: &str| Matching::Range {
        from: Some(from.to_owned()).filter(|text| !text.is_empty()),
        to: Some(to.to_owned()).filter(|text| !text.is_empty()),
    };
    assert_eq!(parse(VR::DT, "20240101-"), from_to("20240101000000.000000", ""));
    assert_eq!(parse(VR::DT, "20240101-20240102"), from_to("20240101000000.000000", "20240102235959.999999"));
    assert_eq!(
        parse(VR::DT, "20240101120000-0500"),
        from_to("20240101170000.000000", "20240101170000.999999")
    );
    assert_eq!(
        parse(VR::DT, "20240101120000-0500-20240102120000-0500"),
        from_to("20240101170000.000000", "20240102170000.999999")
    );
    assert_eq!(parse(VR::DT, "20240101120000-0500-"), from_to("20240101170000.000000", ""));
}

#[test]
fn monstrous_values_are_refused() {
    assert!(Matching::parse(VR::LO, &"*?".repeat(500_000)).is_err());
    assert!(Matching::parse(VR::LO, &"*a".repeat(17)).is_err());
    assert!(Matching::parse(VR::LO, &"a".repeat(100_000)).is_err());
}

#[test]
fn a_pattern_made_to_backtrack_costs_little() {
    let pattern = "*a".repeat(16) + "b";
    let started = std::time::Instant::now();
    assert!(!matches(VR::LO, &pattern, &"a".repeat(64 << 10)));
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
}

#[test]
fn a_control_character_is_no_universal_key() {
    for value in ["\0", "*\0", "A\0", "\u{1B}", "\n"] {
        assert!(Matching::parse(VR::PN, value).is_err(), "{value:?}");
        assert!(Matching::parse(VR::LO, value).is_err(), "{value:?}");
    }
    assert!(Matching::parse(VR::LT, "two\r\nlines").is_ok());
}
