//! The examples of PS3.5 Annexes H to K, and what real files do beside them.

use super::*;
use crate::dicom::value;

fn name(specific_character_set: &str, bytes: &[u8]) -> String {
    Charset::parse(specific_character_set).decode(bytes, Delimiters::Names)
}

fn text(specific_character_set: &str, bytes: &[u8]) -> String {
    Charset::parse(specific_character_set).decode(bytes, Delimiters::Values)
}

#[test]
fn japanese_by_escapes_to_jis_x_0208() {
    let bytes = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B";
    assert_eq!(name("\\ISO 2022 IR 87", bytes), "Yamada^Tarou=山田^太郎=やまだ^たろう");
}

#[test]
fn japanese_beginning_with_half_width_katakana() {
    let bytes = b"\xD4\xCF\xC0\xDE^\xC0\xDB\xB3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J";
    assert_eq!(name("ISO 2022 IR 13\\ISO 2022 IR 87", bytes), "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう");
}

#[test]
fn supplementary_kanji() {
    assert_eq!(text("\\ISO 2022 IR 159", b"\x1b$(D0!\x1b(Bx"), "丂x");
}

#[test]
fn korean_whose_escape_is_repeated_in_each_component() {
    let bytes =
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf";
    assert_eq!(name("\\ISO 2022 IR 149", bytes), "Hong^Gildong=洪^吉洞=홍^길동");
}

#[test]
fn chinese_in_four_ways() {
    assert_eq!(name("ISO_IR 192", "Wang^XiaoDong=王^小東=".as_bytes()), "Wang^XiaoDong=王^小東=");
    assert_eq!(name("GB18030", b"Wang^XiaoDong=\xCD\xF5^\xD0\xA1\xB6\xAB="), "Wang^XiaoDong=王^小东=");
    assert_eq!(name("GBK", b"Wang^XiaoDong=\xCD\xF5^\xD0\xA1\xB6\xAB="), "Wang^XiaoDong=王^小东=");
    let bytes = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=";
    assert_eq!(name("\\ISO 2022 IR 58", bytes), "Zhang^XiaoDong=张^小东=");
}

#[test]
fn single_byte_repertoires() {
    assert_eq!(name("ISO_IR 100", b"Buc^J\xe9r\xf4me"), "Buc^Jérôme");
    assert_eq!(text("ISO_IR 101", b"W\xb3adys\xb3aw"), "Władysław");
    assert_eq!(text("ISO_IR 126", b"\xc4\xe9\xef\xed"), "Διον");
    assert_eq!(text("ISO_IR 127", b"\xe2\xc8\xc7\xe6\xea"), "قباني");
    assert_eq!(text("ISO_IR 138", b"\xf9\xf8\xe5\xef"), "שרון");
    assert_eq!(text("ISO_IR 144", b"\xbb\xee\xda"), "Люк");
    assert_eq!(text("ISO_IR 148", b"\xc7a\xf0r\xfd"), "Çağrı");
    assert_eq!(text("ISO_IR 166", b"\xb9\xd2\xc1\xca\xa1\xd8\xc5"), "นามสกุล");
    assert_eq!(text("ISO_IR 203", b"\xa4 \xbd"), "€ œ");
    assert_eq!(text("ISO_IR 13", b"\xb1\xb2"), "ｱｲ");
}

#[test]
fn several_single_byte_repertoires_in_one_value() {
    let bytes = b"\x1b-A\xc4neas^\x1b-FDi\xef\xed^\x1b-L\xbb\xee\xda";
    assert_eq!(name("ISO 2022 IR 100\\ISO 2022 IR 126\\ISO 2022 IR 144", bytes), "Äneas^Diον^Люк");
}

#[test]
fn delimiters_and_line_ends_return_to_the_first_repertoire() {
    let charset = "ISO 2022 IR 100\\ISO 2022 IR 126";
    assert_eq!(text(charset, b"\x1b-F\xc4\\\xc4"), "Δ\\Ä");
    assert_eq!(name(charset, b"\x1b-F\xc4^\xc4=\xc4"), "Δ^Ä=Ä");
    assert_eq!(text(charset, b"\x1b-F\xc4^\xc4\r\n\xc4"), "Δ^Δ\r\nÄ");
    assert_eq!(Charset::parse(charset).decode(b"\x1b-F\xc4\\\xc4", Delimiters::None), "Δ\\Δ");
}

#[test]
fn a_backslash_byte_inside_a_character_splits_nothing() {
    let value = value::text(VR::LO, b"a\x81\x5Cb\\c", Charset::parse("GB18030"));
    assert_eq!(value.split('\\').count(), 2, "{value}");
    assert!(!value.contains(char::REPLACEMENT_CHARACTER));
}

#[test]
fn what_cannot_be_decoded_is_replaced() {
    assert_eq!(text("", b"M\xfcller"), "M\u{FFFD}ller");
    assert_eq!(text("ISO_IR 192", b"M\xfcller"), "M\u{FFFD}ller");
    assert_eq!(text("\\ISO 2022 IR 87", b"\x1b$B;"), "\u{FFFD}");
    assert_eq!(text("\\ISO 2022 IR 149", b"\x1b$)C\xfb"), "\u{FFFD}");
    assert_eq!(text("ISO_IR 100", b"\x1b[31m"), "\u{FFFD}[31m");
    assert_eq!(text("", b"\x1b"), "\u{FFFD}");
}

#[test]
fn misspelt_and_unknown_terms_are_understood_or_ignored() {
    for term in ["ISO_IR 100", "ISO-IR 100", "ISO IR 100 ", "iso_ir 100", "ISO 2022 IR 100", "ISO_IR_100"] {
        assert_eq!(text(term, b"\xe9"), "é", "{term}");
    }
    for term in ["", "ISO_IR 6", "ISO 2022 IR 6", "KLINGON", "IR", "ISO_IR 99999999999"] {
        assert_eq!(Charset::parse(term), Charset::default(), "{term}");
    }
}

#[test]
fn codes_dates_and_uids_keep_the_default_repertoire() {
    assert_eq!(value::text(VR::CS, b"\xe9", Charset::parse("ISO_IR 100")), "\u{FFFD}");
    assert_eq!(value::text(VR::LO, b"\xe9", Charset::parse("ISO_IR 100")), "é");
}
