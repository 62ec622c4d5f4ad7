//! The first 8 or 12 bytes of an element (PS3.5 §7.1.2, §7.1.3), item or delimiter (§7.5).

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    pub fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            ByteOrder::Little => u16::from_le_bytes(bytes),
            ByteOrder::Big => u16::from_be_bytes(bytes),
        }
    }

    pub fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            ByteOrder::Little => u32::from_le_bytes(bytes),
            ByteOrder::Big => u32::from_be_bytes(bytes),
        }
    }

    pub fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            ByteOrder::Little => u64::from_le_bytes(bytes),
            ByteOrder::Big => u64::from_be_bytes(bytes),
        }
    }
}

/// How elements are laid out here; it changes inside UN of undefined length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub explicit_vr: bool,
    pub byte_order: ByteOrder,
}

pub(super) const IMPLICIT_LITTLE: Layout = Layout { explicit_vr: false, byte_order: ByteOrder::Little };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ElementHeader {
    pub tag: Tag,
    pub vr: VR,
    /// `None`: undefined (FFFFFFFF).
    pub length: Option<u32>,
    /// Bytes of the header itself.
    pub size: usize,
    pub implicit_vr: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Header(ElementHeader),
    /// That many bytes make up the header.
    Needs(usize),
    /// Neither a VR nor anything that could stand for one.
    NoVr,
}

/// As much as it may take to know an element: a header, or a short one and the tag behind it.
pub(super) const LOOK_AHEAD: usize = 12;

pub(super) fn parse(bytes: &[u8], layout: Layout) -> Parsed {
    let [t0, t1, t2, t3, l0, l1, l2, l3, rest @ ..] = bytes else { return Parsed::Needs(8) };
    let order = layout.byte_order;
    let tag = Tag(order.u16([*t0, *t1]), order.u16([*t2, *t3]));
    let header = |vr, length: u32, size, implicit_vr| {
        let length = (length != u32::MAX).then_some(length);
        Parsed::Header(ElementHeader { tag, vr, length, size, implicit_vr })
    };
    let length_32 = order.u32([*l0, *l1, *l2, *l3]);
    if tag.group() == 0xFFFE {
        return header(VR::UN, length_32, 8, true);
    }
    if !layout.explicit_vr {
        let vr = dictionary_vr(tag);
        if vr != VR::SQ || matches!(length_32, 0 | u32::MAX) {
            return header(vr, length_32, 8, true);
        }
        // Some writers have other VRs here than the dictionary: a sequence begins with an item, which has 8 bytes at
        // least. Of a shorter one nothing behind it says anything.
        return match rest {
            _ if length_32 < 8 => header(VR::UN, length_32, 8, true),
            [a, b, c, d, ..] if is_item([*a, *b, *c, *d]) => header(VR::SQ, length_32, 8, true),
            [_, _, _, _, ..] => header(VR::UN, length_32, 8, true),
            _ => Parsed::Needs(12),
        };
    }
    match written_vr([*l0, *l1]) {
        Written::Short(vr) => header(vr, u32::from(order.u16([*l2, *l3])), 8, false),
        Written::Long(vr) => match rest {
            [a, b, c, d, ..] => header(vr, order.u32([*a, *b, *c, *d]), 12, false),
            _ => Parsed::Needs(12),
        },
        // Some writers leave private elements in Implicit VR in an explicit data set.
        Written::NoVr if tag.group() % 2 == 1 => header(VR::UN, length_32, 8, true),
        Written::NoVr => Parsed::NoVr,
    }
}

/// (FFFE,E000) in little endian, the only byte order of Implicit VR.
fn is_item(tag: [u8; 4]) -> bool {
    tag == [0xFE, 0xFF, 0x00, 0xE0]
}

/// What stands where the VR is written, and so the form of the length behind it.
enum Written {
    Short(VR),
    Long(VR),
    NoVr,
}

/// PS3.5 §7.1.2. VRs to come will have the long form; other printable things stand in old files
/// where no VR was known ("??", "--", blanks), in the short form.
#[rustfmt::skip]
fn written_vr(code: [u8; 2]) -> Written {
    match &code {
        b"AE" => Written::Short(VR::AE),
        b"AS" => Written::Short(VR::AS),
        b"AT" => Written::Short(VR::AT),
        b"CS" => Written::Short(VR::CS),
        b"DA" => Written::Short(VR::DA),
        b"DS" => Written::Short(VR::DS),
        b"DT" => Written::Short(VR::DT),
        b"FL" => Written::Short(VR::FL),
        b"FD" => Written::Short(VR::FD),
        b"IS" => Written::Short(VR::IS),
        b"LO" => Written::Short(VR::LO),
        b"LT" => Written::Short(VR::LT),
        b"PN" => Written::Short(VR::PN),
        b"SH" => Written::Short(VR::SH),
        b"SL" => Written::Short(VR::SL),
        b"SS" => Written::Short(VR::SS),
        b"ST" => Written::Short(VR::ST),
        b"TM" => Written::Short(VR::TM),
        b"UI" => Written::Short(VR::UI),
        b"UL" => Written::Short(VR::UL),
        b"US" => Written::Short(VR::US),
        b"OB" => Written::Long(VR::OB),
        b"OD" => Written::Long(VR::OD),
        b"OF" => Written::Long(VR::OF),
        b"OL" => Written::Long(VR::OL),
        b"OV" => Written::Long(VR::OV),
        b"OW" => Written::Long(VR::OW),
        b"SQ" => Written::Long(VR::SQ),
        b"SV" => Written::Long(VR::SV),
        b"UC" => Written::Long(VR::UC),
        b"UN" => Written::Long(VR::UN),
        b"UR" => Written::Long(VR::UR),
        b"UT" => Written::Long(VR::UT),
        b"UV" => Written::Long(VR::UV),
        [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Written::Long(VR::UN),
        [a, b] if (0x20..0x7F).contains(a) && (0x20..0x7F).contains(b) => Written::Short(VR::UN),
        _ => Written::NoVr,
    }
}

/// The VR that the data dictionary gives; where it leaves a choice, see
/// [`VirtualVr::relaxed`](dicom_core::dictionary::VirtualVr::relaxed). Private tags: UN.
fn dictionary_vr(tag: Tag) -> VR {
    if tag.group() % 2 == 1 {
        // PS3.5 §7.8.1: (gggg,0010-00FF) of odd groups are private creators.
        return if matches!(tag.element(), 0x10..=0xFF) { VR::LO } else { VR::UN };
    }
    match StandardDataDictionary.by_tag(tag).map(|entry| entry.vr()) {
        Some(VirtualVr::Ox | VirtualVr::Px | VirtualVr::Lt) => VR::OW,
        Some(vr) => vr.relaxed(),
        None => VR::UN,
    }
}
