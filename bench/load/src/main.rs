//! The client and the null server of the benchmarks. Each command prints one line of JSON.
//!
//! Objects are made in memory: a head of their own (UIDs, patient, study) before pixels that all
//! objects of a set share, so that the client costs the least there is on a machine that it shares
//! with what it measures.

mod arguments;
mod association;
mod figures;
mod files;
mod find;
mod get;
mod http;
mod null;
mod object;
mod send;
mod stow;

use arguments::Arguments;

const USAGE: &str = "\
load send  HOST:PORT AE SET --count N [--from I] [--salt K] [--connections N]   C-STORE
load stow  HOST:PORT PATH SET --count N [--salt K] [--connections N] [--per N] [--header 'Name: value']
load find  HOST:PORT AE --count N [--connections N] [--step I] KEYS...  C-FIND; KEYS gggg,eeee=value, {n} counts up by I
load get   HOST:PORT --count N [--connections N] [--header 'Name: value']... PATHS...  HTTP GET
load null  HOST:PORT discard|log FOLDER                        answers C-STORE; `log` appends and syncs before
load files SET FOLDER --count N [--salt K]                     the objects as files
SETs: a (CT 0.5 MB) b (US 66 KB) c (MG 31 MB) d (US multi-frame 315 MB) m (MR 132 KB) q (US 5 KB, 10 a study)";

pub type Outcome<T> = std::io::Result<T>;

pub fn fail<T>(what: impl Into<String>) -> Outcome<T> {
    Err(std::io::Error::other(what.into()))
}

fn main() {
    let mut arguments = Arguments::of(std::env::args().skip(1));
    let outcome = match arguments.next("").as_str() {
        "send" => send::run(&mut arguments),
        "stow" => stow::run(&mut arguments),
        "find" => find::run(&mut arguments),
        "get" => get::run(&mut arguments),
        "null" => null::run(&mut arguments),
        "files" => files::run(&mut arguments),
        _ => fail(USAGE),
    };
    if let Err(error) = outcome {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
