//! One function per matching type of PS3.4 §C.2.2.2.

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Matching {
    /// §C.2.2.2.3: an empty value matches everything.
    Universal,
    /// §C.2.2.2.1
    Single(String),
    /// §C.2.2.2.4: `*` and `?`.
    Wildcard(String),
    /// §C.2.2.2.2: any of these UIDs; for other VRs any of several values.
    List(Vec<String>),
    /// §C.2.2.2.5: either bound may be open; bounds are inclusive.
    Range { from: Option<String>, to: Option<String> },
}
