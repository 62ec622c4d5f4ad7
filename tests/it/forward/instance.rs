//! Small data sets made by hand, Explicit VR Little Endian.

pub const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

pub struct Instance {
    pub uid: String,
    pub sop_class: &'static str,
    pub data_set: Vec<u8>,
}

/// A CT image of one of two series, with `padding` bytes of pixel data.
pub fn instance(number: u32, padding: usize) -> Instance {
    instance_of(CT, number, padding)
}

pub fn instance_of(sop_class: &'static str, number: u32, padding: usize) -> Instance {
    let uid = format!("1.2.826.0.1.3680043.10.1.{number}");
    let series = format!("1.2.826.0.1.3680043.10.2.{}", number % 2);
    let rows = (padding / 2).max(1);
    let mut data_set = [
        text(0x0008, 0x0016, b"UI", sop_class),
        text(0x0008, 0x0018, b"UI", &uid),
        text(0x0008, 0x0060, b"CS", "CT"),
        text(0x0010, 0x0010, b"PN", "Test^Forward"),
        text(0x0010, 0x0020, b"LO", "FWD1"),
        text(0x0020, 0x000d, b"UI", "1.2.826.0.1.3680043.10.3"),
        text(0x0020, 0x000e, b"UI", &series),
        text(0x0020, 0x0013, b"IS", &number.to_string()),
        short(0x0028, 0x0002, 1),
        text(0x0028, 0x0004, b"CS", "MONOCHROME2"),
        short(0x0028, 0x0010, rows as u16),
        short(0x0028, 0x0011, 1),
        short(0x0028, 0x0100, 16),
        short(0x0028, 0x0101, 16),
        short(0x0028, 0x0102, 15),
        short(0x0028, 0x0103, 0),
    ]
    .concat();
    data_set.extend(0x7FE0_u16.to_le_bytes());
    data_set.extend(0x0010_u16.to_le_bytes());
    data_set.extend(b"OW\0\0");
    data_set.extend((rows as u32 * 2).to_le_bytes());
    data_set.extend((0..rows * 2).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]));
    Instance { uid, sop_class, data_set }
}

pub fn text(group: u16, element: u16, vr: &[u8; 2], value: &str) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(if vr == b"UI" { 0 } else { b' ' });
    }
    let mut out = Vec::new();
    out.extend(group.to_le_bytes());
    out.extend(element.to_le_bytes());
    out.extend(vr);
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    out
}

fn short(group: u16, element: u16, value: u16) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(group.to_le_bytes());
    out.extend(element.to_le_bytes());
    out.extend(b"US\x02\0");
    out.extend(value.to_le_bytes());
    out
}
