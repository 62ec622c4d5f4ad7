//! SOP classes: which are storage, what the services are called.

/// What the registry says about a UID offered as SOP class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A registered Storage SOP class (PS3.4 §B.5), retired ones included.
    Storage,
    /// Registered, and not for storage (Verification, Query/Retrieve, DICOMDIR …).
    Other,
    /// Not in the registry: private, or newer than our dictionary.
    Unknown,
}

pub fn kind(_uid: &str) -> Kind {
    todo!()
}
