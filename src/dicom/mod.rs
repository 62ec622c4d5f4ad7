//! The field's words: UIDs, AE titles, transfer syntaxes, attributes, headers. Pure: no I/O.

pub mod ae_title;
pub mod attributes;
pub mod charset;
pub mod comparison;
pub mod dataset;
pub mod header;
pub mod json;
pub mod metadata;
pub mod part10;
pub mod sop_class;
pub mod status;
pub mod tokens;
pub mod transfer_syntax;
pub mod uid;
pub mod value;
pub mod xml;

pub use ae_title::AeTitle;
pub use attributes::{Attribute, Attributes, Level};
pub use dataset::Dataset;
pub use header::{Header, HeaderScanner, ScanError, ScanLimits};
pub use transfer_syntax::{TransferSyntax, TransferSyntaxes};
pub use uid::{InstanceKey, Uid};

/// Implementation Class UID of this node (PS3.7 §D.3.3.2), under a UUID-derived root (PS3.5 §B.2).
pub const IMPLEMENTATION_CLASS_UID: &str = "2.25.287044218347915406129845177201963421553.1";
/// Implementation Version Name (PS3.7 §D.3.3.2): at most 16 characters.
pub const IMPLEMENTATION_VERSION_NAME: &str =
    concat!("RELAYPACS_", env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));
