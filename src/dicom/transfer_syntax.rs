//! Transfer syntaxes (PS3.5 §10): the ones whose data-set encoding we know.

use std::sync::Arc;

/// How the elements of a data set are laid out on the wire; pixel data stay opaque to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    ImplicitLittleEndian,
    ExplicitLittleEndian,
    ExplicitBigEndian,
    /// Explicit VR Little Endian under a raw deflate stream (PS3.5 §A.5).
    DeflatedExplicitLittleEndian,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferSyntax {
    pub uid: &'static str,
    pub name: &'static str,
    pub encoding: Encoding,
}

impl TransferSyntax {
    /// The known transfer syntax with this UID (no padding), registered ones only.
    pub fn by_uid(uid: &str) -> Option<&'static TransferSyntax> {
        KNOWN.iter().find(|syntax| syntax.uid == uid)
    }

    /// All known transfer syntaxes, in the order of PS3.6 table A-1.
    pub fn all() -> &'static [TransferSyntax] {
        KNOWN
    }

    /// Whether Pixel Data may be encapsulated; in the native syntaxes it never is (PS3.5 §A.4).
    pub fn is_encapsulated(&self) -> bool {
        let native = [IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN, DEFLATED_EXPLICIT];
        !native.contains(&self.uid)
    }
}

/// The registered transfer syntaxes, and private ones that a node was told of. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct TransferSyntaxes {
    private: Arc<[&'static TransferSyntax]>,
}

impl TransferSyntaxes {
    /// Private ones are taken for Explicit VR Little Endian. They live as long as the process, like
    /// the registered ones; a node makes them once, from its configuration.
    pub fn with_private(uids: &[String]) -> Self {
        let unregistered = uids.iter().filter(|uid| TransferSyntax::by_uid(uid).is_none());
        let leak = |uid: &String| -> &'static TransferSyntax {
            Box::leak(Box::new(syntax(uid.clone().leak(), "private", EXPLICIT)))
        };
        Self { private: unregistered.map(leak).collect() }
    }

    pub fn by_uid(&self, uid: &str) -> Option<&'static TransferSyntax> {
        let private = || self.private.iter().copied().find(|syntax| syntax.uid == uid);
        TransferSyntax::by_uid(uid).or_else(private)
    }
}

/// The default transfer syntax (PS3.5 §10.1), and the other native ones.
pub const IMPLICIT_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";
pub const EXPLICIT_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
pub const EXPLICIT_BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
pub const DEFLATED_EXPLICIT: &str = "1.2.840.10008.1.2.1.99";

const IMPLICIT: Encoding = Encoding::ImplicitLittleEndian;
const EXPLICIT: Encoding = Encoding::ExplicitLittleEndian;
const BIG: Encoding = Encoding::ExplicitBigEndian;
const DEFLATED: Encoding = Encoding::DeflatedExplicitLittleEndian;

const fn syntax(uid: &'static str, name: &'static str, encoding: Encoding) -> TransferSyntax {
    TransferSyntax { uid, name, encoding }
}

/// Every registered transfer syntax (PS3.6 table A-1, retired ones included) that encodes a data
/// set; not MIME and XML encapsulation, Papyrus, and the real-time flows of PS3.22.
#[rustfmt::skip]
static KNOWN: &[TransferSyntax] = &[
    syntax("1.2.840.10008.1.2", "Implicit VR Little Endian", IMPLICIT),
    syntax("1.2.840.10008.1.2.1", "Explicit VR Little Endian", EXPLICIT),
    syntax("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed Explicit VR Little Endian", EXPLICIT),
    syntax("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian", DEFLATED),
    syntax("1.2.840.10008.1.2.2", "Explicit VR Big Endian (Retired)", BIG),
    syntax("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.100.1", "Fragmentable MPEG2 Main Profile / Main Level", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.101", "MPEG2 Main Profile / High Level", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.101.1", "Fragmentable MPEG2 Main Profile / High Level", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile / Level 4.1", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.102.1", "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.103", "MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.103.1", "Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.104", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.104.1", "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.105", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.105.1", "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.106", "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.106.1", "Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.107", "HEVC/H.265 Main Profile / Level 5.1", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.108", "HEVC/H.265 Main 10 Profile / Level 5.1", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.110", "JPEG XL Lossless", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.112", "JPEG XL", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Image Compression (Lossless Only)", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.202", "High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000 Image Compression", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.204", "JPIP HTJ2K Referenced", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.205", "JPIP HTJ2K Referenced Deflate", DEFLATED),
    syntax("1.2.840.10008.1.2.4.50", "JPEG Baseline (Process 1)", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.51", "JPEG Extended (Process 2", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.52", "JPEG Extended (Process 3", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.53", "JPEG Spectral Selection, Non-Hierarchical (Process 6", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.54", "JPEG Spectral Selection, Non-Hierarchical (Process 7", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.55", "JPEG Full Progression, Non-Hierarchical (Process 10", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.56", "JPEG Full Progression, Non-Hierarchical (Process 11", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.57", "JPEG Lossless, Non-Hierarchical (Process 14)", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.58", "JPEG Lossless, Non-Hierarchical (Process 15) (Retired)", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.59", "JPEG Extended, Hierarchical (Process 16", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.60", "JPEG Extended, Hierarchical (Process 17", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.61", "JPEG Spectral Selection, Hierarchical (Process 20", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.62", "JPEG Spectral Selection, Hierarchical (Process 21", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.63", "JPEG Full Progression, Hierarchical (Process 24", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.64", "JPEG Full Progression, Hierarchical (Process 25", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.65", "JPEG Lossless, Hierarchical (Process 28) (Retired)", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.66", "JPEG Lossless, Hierarchical (Process 29) (Retired)", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.70", "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless Image Compression", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.81", "JPEG-LS Lossy (Near-Lossless) Image Compression", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.90", "JPEG 2000 Image Compression (Lossless Only)", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.91", "JPEG 2000 Image Compression", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 Multi-component Image Compression (Lossless Only)", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2 Multi-component Image Compression", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.94", "JPIP Referenced", EXPLICIT),
    syntax("1.2.840.10008.1.2.4.95", "JPIP Referenced Deflate", DEFLATED),
    syntax("1.2.840.10008.1.2.5", "RLE Lossless", EXPLICIT),
    syntax("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression", EXPLICIT),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_follow_the_standard() {
        let encoding = |uid| TransferSyntax::by_uid(uid).map(|syntax| syntax.encoding);
        assert_eq!(encoding("1.2.840.10008.1.2"), Some(Encoding::ImplicitLittleEndian));
        assert_eq!(encoding("1.2.840.10008.1.2.4.70"), Some(Encoding::ExplicitLittleEndian));
        assert_eq!(encoding("1.2.840.10008.1.2.2"), Some(Encoding::ExplicitBigEndian));
        assert_eq!(encoding("1.2.840.10008.1.2.1.99"), Some(Encoding::DeflatedExplicitLittleEndian));
        assert_eq!(encoding("1.2.840.10008.1.2.7.1"), None);
        assert_eq!(encoding("1.2.3.4"), None);
    }
}
