//! RelayPACS: a DICOM gateway node. It receives by C-STORE and STOW-RS, makes every object
//! durable before it answers, indexes it, and delivers it to the archive behind it.
//!
//! ```text
//!  C-STORE ─┐                                     ┌─ Indexer ─▶ Index(SQL) ◀─ Query ◀─ C-FIND, QIDO
//!  STOW-RS ─┴▶ Ingest: admit ▶ validate ▶ Spool ──┤
//!                       │          (log)          └─ Router ─▶ Deliveries ─▶ Scheduler ─▶ Transport ─▶ peer
//!                    Refusal                                                     (C-STORE | STOW)
//! ```
//!
//! Every door turns bytes into an [`ingest::Offer`]; [`ingest::Ingest`] alone turns an offer into
//! a [`ingest::Receipt`]; the [`spool::Spool`] alone makes it durable; indexer and router follow
//! the spool's log. Nothing flows back. Modules, in flow order:
//!
//! - [`scp`], [`http`]: the two doors. They parse, call once, and answer; they never meet.
//! - [`ingest`]: the single way in.
//! - [`spool`]: the single place of durability; an append-only log and its projection.
//! - [`index`], [`query`], [`store`]: what is there, what is being asked, and the SQL under both.
//! - [`forward`]: rules, deliveries, and the two transports.
//! - [`auth`]: who may use the HTTP door.
//! - [`dimse`], [`dicom`]: the protocol and the field's words, without policy.
//! - [`admin`]: what an administrator does to a node.
//! - [`node`], [`lifecycle`], [`control`], [`cli`], [`config`], [`telemetry`], [`clock`],
//!   [`failpoint`]: running it.
//!
//! Errors: outcomes that a peer must hear are enums ([`ingest::Refusal`]); failures are a
//! `thiserror` enum per module; `anyhow` appears only in `main`, `node`, `cli` and tests.

pub mod admin;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod dicom;
pub mod dimse;
pub mod failpoint;
pub mod forward;
pub mod http;
pub mod index;
pub mod ingest;
pub mod lifecycle;
pub mod node;
pub mod query;
pub mod scp;
pub mod spool;
pub mod store;
pub mod telemetry;
