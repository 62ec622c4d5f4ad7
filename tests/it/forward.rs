//! Delivery as a destination sees it: real peers (DCMTK, Orthanc), and an archive of our own that
//! can be told to misbehave. Every object that was received arrives, whatever happens on the way.

mod archive;
mod bench;
mod faults;
mod instance;
mod peers;
mod real;
mod routing;
mod stow;
mod verification;
mod web;
