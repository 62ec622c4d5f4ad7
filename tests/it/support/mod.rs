//! What the tests share: databases, peers, objects.

pub mod postgres;
