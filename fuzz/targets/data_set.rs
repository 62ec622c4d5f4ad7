//! Data sets for the targets that read them: in every transfer syntax, and synthetic ones to begin
//! with, written by hand so that no encoder of the node vouches for its parser.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use relaypacs::dicom::transfer_syntax::Encoding;
use relaypacs::dicom::{ScanError, ScanLimits, TransferSyntax};

/// One for each way that a data set lies on the wire: native in every encoding, encapsulated, and
/// both deflated ones.
const SYNTAXES: [&str; 7] = [
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.95",
];

/// Small enough to be met by small inputs.
pub const LIMITS: ScanLimits = ScanLimits { depth: 8, elements: 500, non_pixel_bytes: 32 << 10 };

/// A data set as it arrives.
pub struct Sent {
    pub syntax: &'static TransferSyntax,
    pub bytes: Vec<u8>,
    /// Chooses how it is cut.
    pub chunks: u8,
}

impl Sent {
    /// The first byte chooses transfer syntax and chunks. For a deflated one its highest bit says that
    /// the rest is to be deflated first: few inputs are deflate streams by themselves.
    pub fn of(data: &[u8]) -> Sent {
        let (choice, bytes) = super::split(data);
        let uid = SYNTAXES[usize::from(choice & 0x7F) % SYNTAXES.len()];
        let syntax = TransferSyntax::by_uid(uid).expect("a registered transfer syntax");
        let deflates = choice & 0x80 != 0 && syntax.encoding == Encoding::DeflatedExplicitLittleEndian;
        let bytes = if deflates { deflate(bytes) } else { bytes.to_vec() };
        Sent { syntax, bytes, chunks: (choice & 0x7F) / SYNTAXES.len() as u8 }
    }

    /// An error, or only that there was one: how much comes out before a deflate stream breaks depends on how its bytes
    /// arrive, and so what is found wrong first.
    pub fn told(&self, error: ScanError) -> ScanError {
        if self.is_deflated() { ScanError::Malformed { at: 0, what: "something" } } else { error }
    }

    /// The encoding under the deflate stream, if there is one, is that of the bytes.
    pub fn is_deflated(&self) -> bool {
        self.syntax.encoding == Encoding::DeflatedExplicitLittleEndian
    }
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes all")
}

/// How elements are written.
#[derive(Clone, Copy)]
struct Layout {
    explicit: bool,
    big: bool,
}

/// Tag, VR and value; a VR of two letters, and its value without padding.
type Row<'a> = (u32, &'a str, &'a [u8]);

const IDENTIFIERS: [Row<'static>; 10] = [
    (0x0008_0005, "CS", b"ISO_IR 100"),
    (0x0008_0016, "UI", b"1.2.840.10008.5.1.4.1.1.7\0"),
    (0x0008_0018, "UI", b"1.2.3.4.5\0"),
    (0x0008_0020, "DA", b"20261122"),
    (0x0008_0060, "CS", b"OT"),
    (0x0010_0010, "PN", b"Test^Synthetic=\xC4\xE4"),
    (0x0010_0020, "LO", b"TEST\\1"),
    (0x0020_000D, "UI", b"1.2.3.4\0"),
    (0x0020_000E, "UI", b"1.2.3.4.6\0"),
    (0x0028_0103, "US", b"\x01\0"),
];

impl Layout {
    fn u16(self, number: u16) -> [u8; 2] {
        if self.big { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    fn u32(self, number: u32) -> [u8; 4] {
        if self.big { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    fn header(self, out: &mut Vec<u8>, tag: u32, vr: &str, length: u32) {
        out.extend_from_slice(&self.u16((tag >> 16) as u16));
        out.extend_from_slice(&self.u16(tag as u16));
        if !self.explicit || tag >> 16 == 0xFFFE {
            return out.extend_from_slice(&self.u32(length));
        }
        out.extend_from_slice(vr.as_bytes());
        if ["OB", "OW", "SQ", "UN", "UT"].contains(&vr) {
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&self.u32(length));
        } else {
            out.extend_from_slice(&self.u16(length as u16));
        }
    }

    fn rows(self, out: &mut Vec<u8>, rows: &[Row<'_>]) {
        for (tag, vr, value) in rows {
            self.header(out, *tag, vr, value.len() as u32);
            out.extend_from_slice(value);
        }
    }

    /// One sequence of undefined length with an item of each kind, and in the second a sequence of
    /// defined length.
    fn sequence(self, out: &mut Vec<u8>) {
        const UNDEFINED: u32 = u32::MAX;
        self.header(out, 0x0040_0275, "SQ", UNDEFINED);
        self.header(out, 0xFFFE_E000, "", UNDEFINED);
        self.rows(out, &[(0x0040_0007, "LO", b"step")]);
        self.header(out, 0xFFFE_E00D, "", 0);
        let mut inner = Vec::new();
        self.rows(&mut inner, &[(0x0008_0100, "SH", b"code")]);
        let mut item = Vec::new();
        let (in_item, in_sequence) = (inner.len() as u32, inner.len() as u32 + 8);
        self.header(&mut item, 0x0040_0008, "SQ", in_sequence);
        self.header(&mut item, 0xFFFE_E000, "", in_item);
        item.append(&mut inner);
        self.header(out, 0xFFFE_E000, "", item.len() as u32);
        out.append(&mut item);
        self.header(out, 0xFFFE_E0DD, "", 0);
    }

    fn instance(self, encapsulated: bool) -> Vec<u8> {
        let mut out = Vec::new();
        self.rows(&mut out, &IDENTIFIERS[..9]);
        self.rows(
            &mut out,
            &[
                (0x0028_0103, "US", &self.u16(1)),
                (0x0029_0010, "LO", b"SEED"),
                (0x0029_1001, "UN", b"private!"),
            ],
        );
        self.sequence(&mut out);
        if encapsulated {
            self.header(&mut out, 0x7FE0_0010, "OB", u32::MAX);
            self.header(&mut out, 0xFFFE_E000, "", 0);
            self.header(&mut out, 0xFFFE_E000, "", 4);
            out.extend_from_slice(b"\xFF\xD8\xFF\xD9");
            self.header(&mut out, 0xFFFE_E0DD, "", 0);
        } else {
            self.rows(&mut out, &[(0x7FE0_0010, "OW", &[0x5A; 32])]);
        }
        out
    }
}

/// The same instance in every transfer syntax, each with the byte that chooses it.
pub fn seeds() -> Vec<Vec<u8>> {
    let explicit = Layout { explicit: true, big: false };
    let with = |choice: usize, bytes: Vec<u8>| [&[choice as u8][..], &bytes].concat();
    vec![
        with(0, Layout { explicit: false, big: false }.instance(false)),
        with(1, explicit.instance(false)),
        with(2, Layout { explicit: true, big: true }.instance(false)),
        with(3, deflate(&explicit.instance(false))),
        // 0x80 | 3 and 0x80 | 6: see `Sent::of`.
        with(0x80 | 3, explicit.instance(false)),
        with(4 + SYNTAXES.len(), explicit.instance(true)),
        with(5, explicit.instance(true)),
        with(0x80 | 6, explicit.instance(false)),
    ]
}
