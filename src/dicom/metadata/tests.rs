use serde_json::json;

use super::*;
use crate::dicom::json;

const IMPLICIT: &str = "1.2.840.10008.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const BIG: &str = "1.2.840.10008.1.2.2";

fn metadata(syntax: &str, bytes: &[u8]) -> serde_json::Value {
    let syntax = TransferSyntax::by_uid(syntax).unwrap();
    let whole = read(syntax, bytes, bytes.len().max(1));
    for chunk in [1, 3] {
        assert_eq!(read(syntax, bytes, chunk), whole);
        assert_eq!(read_useful(syntax, bytes, chunk), whole);
    }
    serde_json::to_value(json::object(&whole)).unwrap()
}

fn read_useful(syntax: &TransferSyntax, mut bytes: &[u8], chunk: usize) -> Dataset {
    let mut reader = MetadataReader::new(syntax, ScanLimits::default(), "/bulk/");
    while !bytes.is_empty() {
        let useless = bytes.len().min(reader.useless() as usize);
        reader.pass_over(useless as u64);
        bytes = &bytes[useless..];
        let useful = bytes.len().min(chunk);
        reader.push(&bytes[..useful]).unwrap();
        bytes = &bytes[useful..];
    }
    reader.finish().unwrap()
}

fn read(syntax: &TransferSyntax, bytes: &[u8], chunk: usize) -> Dataset {
    let mut reader = MetadataReader::new(syntax, ScanLimits::default(), "/bulk/");
    for piece in bytes.chunks(chunk) {
        reader.push(piece).unwrap();
    }
    reader.finish().unwrap()
}

#[test]
fn text_becomes_utf8_and_items_inherit_or_override_the_charset() {
    let mut bytes = b"\x08\0\x05\0CS\x0A\0ISO_IR 100\x08\0\x40\x11SQ\0\0\xFF\xFF\xFF\xFF".to_vec();
    bytes.extend(b"\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF\x10\0\x10\0PN\x02\0\xC4 \xFE\xFF\x0D\xE0\0\0\0\0");
    bytes.extend(b"\xFE\xFF\x00\xE0\x1C\0\0\0\x08\0\x05\0CS\x0A\0ISO_IR 144\x10\0\x10\0PN\x02\0\xC4 ");
    bytes.extend(b"\xFE\xFF\xDD\xE0\0\0\0\0\x10\0\x10\0PN\x02\0\xD6 ");
    assert_eq!(
        metadata(EXPLICIT, &bytes),
        json!({
            "00080005": { "vr": "CS", "Value": ["ISO_IR 192"] },
            "00081140": { "vr": "SQ", "Value": [
                { "00100010": { "vr": "PN", "Value": [{ "Alphabetic": "Ä" }] } },
                {
                    "00080005": { "vr": "CS", "Value": ["ISO_IR 192"] },
                    "00100010": { "vr": "PN", "Value": [{ "Alphabetic": "Ф" }] },
                },
            ] },
            "00100010": { "vr": "PN", "Value": [{ "Alphabetic": "Ö" }] },
        })
    );
}

#[test]
fn long_binary_values_are_referred_to_and_short_ones_inline() {
    let mut bytes = b"\x09\0\x10\0LO\x04\0ACME\x09\0\x01\x10OB\0\0\x02\0\0\0\x01\x02".to_vec();
    bytes.extend(b"\x09\0\x02\x10SQ\0\0\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF");
    bytes.extend(b"\x09\0\x03\x10UN\0\0\x02\x04\0\0");
    bytes.extend([7; 0x402]);
    bytes.extend(b"\xFE\xFF\x0D\xE0\0\0\0\0\xFE\xFF\xDD\xE0\0\0\0\0");
    bytes.extend(b"\xE0\x7F\x10\0OB\0\0\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\0\0\0\0");
    bytes.extend(b"\xFE\xFF\x00\xE0\x02\0\0\0ab\xFE\xFF\xDD\xE0\0\0\0\0");
    bytes.extend(b"\xFC\xFF\xFC\xFFOB\0\0\0\0\0\0");
    assert_eq!(
        metadata(EXPLICIT, &bytes),
        json!({
            "00090010": { "vr": "LO", "Value": ["ACME"] },
            "00091001": { "vr": "OB", "InlineBinary": "AQI=" },
            "00091002": { "vr": "SQ", "Value": [
                { "00091003": { "vr": "UN", "BulkDataURI": "/bulk/00091002/1/00091003" } },
            ] },
            "7FE00010": { "vr": "OB", "BulkDataURI": "/bulk/7FE00010" },
            "FFFCFFFC": { "vr": "OB" },
        })
    );
}

#[test]
fn implicit_vr_takes_the_dictionary_and_the_sign_of_the_pixels() {
    let mut bytes = b"\x08\0\0\0\x04\0\0\0\x01\0\0\0".to_vec();
    bytes.extend(b"\x28\0\x03\x01\x02\0\0\0\x01\0\x28\0\x06\x01\x02\0\0\0\xFE\xFF");
    bytes.extend(b"\x28\0\x50\x10\x04\0\0\0-1.5");
    assert_eq!(
        metadata(IMPLICIT, &bytes),
        json!({
            "00280103": { "vr": "US", "Value": [1] },
            "00280106": { "vr": "SS", "Value": [-2] },
            "00281050": { "vr": "DS", "Value": [-1.5] },
        })
    );
}

#[test]
fn big_endian_binary_is_given_in_little_endian() {
    let bytes = b"\0\x28\0\x10US\0\x02\x02\0\x60\0\x30\0OW\0\0\0\0\0\x04\x01\x02\x03\x04";
    assert_eq!(
        metadata(BIG, bytes),
        json!({
            "00280010": { "vr": "US", "Value": [512] },
            "60003000": { "vr": "OW", "InlineBinary": "AgEEAw==" },
        })
    );
}

#[test]
fn a_long_list_of_numbers_is_bulk_data() {
    let mut bytes = b"\x08\0\x06\x30FD\xF8\xFF".to_vec();
    bytes.extend([0; 0xFFF8]);
    assert_eq!(metadata(EXPLICIT, &bytes)["00083006"]["Value"].as_array().unwrap().len(), 0x1FFF);
    let mut bytes = b"\x28\0\x06\x30\0\0\x02\0".to_vec();
    bytes.extend([0; 0x2_0000]);
    assert_eq!(metadata(IMPLICIT, &bytes)["00283006"]["BulkDataURI"], "/bulk/00283006");
}

#[test]
fn what_takes_too_much_memory_is_counted_and_not_kept() {
    let item = b"\xFE\xFF\x00\xE0\x10\0\0\0\x10\0\x10\0PN\x08\0Doe^Jane";
    let mut bytes = b"\x08\0\x40\x11SQ\0\0\xFF\xFF\xFF\xFF".to_vec();
    bytes.extend(item.repeat(1000));
    bytes.extend(b"\xFE\xFF\xDD\xE0\0\0\0\0\x10\0\x10\0PN\x08\0Doe^Jane");
    let syntax = TransferSyntax::by_uid(EXPLICIT).unwrap();
    let read = |most| {
        let mut reader = MetadataReader::new(syntax, ScanLimits::default(), "/bulk").within(most);
        bytes.chunks(7).for_each(|chunk| reader.push(chunk).unwrap());
        (reader.cost(), reader.finish().unwrap())
    };
    let (cost, whole) = read(u64::MAX);
    assert!(cost > 500_000, "{cost}");
    assert_eq!(read(cost), (cost, whole));
    assert_eq!(read(cost - 1), (cost, Dataset::default()));
}

#[test]
fn sequences_of_nothing_count_too() {
    let empty = b"\x08\0\x40\x11SQ\0\0\0\0\0\0";
    let syntax = TransferSyntax::by_uid(EXPLICIT).unwrap();
    let cost = |bytes: &[u8]| {
        let mut reader = MetadataReader::new(syntax, ScanLimits::default(), "/bulk");
        reader.push(bytes).unwrap();
        reader.cost()
    };
    assert!(cost(empty) >= ELEMENT);
}
