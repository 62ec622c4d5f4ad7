//! STOW-RS (PS3.18 §10.5): requests of several objects, on several connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::figures::Times;
use crate::http::Connection;
use crate::object::{Set, file_meta};
use crate::{Outcome, fail};

const CONTENT_TYPE: &str = r#"multipart/related; type="application/dicom"; boundary=LOADBOUNDARY"#;

pub fn run(arguments: &mut Arguments) -> Outcome<()> {
    let (address, path) = (arguments.next(""), arguments.next(""));
    let set = Set::named(&arguments.next(""));
    let (count, salt) = (arguments.number("count", 1), arguments.number("salt", 1));
    let per = arguments.number("per", 1);
    let mut headers = arguments.all("header");
    headers.push("Accept: application/dicom+json".to_owned());
    let numbers: Vec<u64> = (0..count).collect();
    let bodies: Vec<Vec<u8>> = numbers.chunks(per as usize).map(|part| body(&set, salt, part)).collect();
    let next = AtomicU64::new(0);
    let begun = Instant::now();
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.number("connections", 1))
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(&address, &headers)?;
                    let mut times: Vec<Duration> = Vec::new();
                    while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                        let begun = Instant::now();
                        let answer = connection.post(&path, CONTENT_TYPE, body)?;
                        times.push(begun.elapsed());
                        if answer.status != 200 {
                            return fail(format!("{} to a store request", answer.status));
                        }
                    }
                    Ok(times)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Outcome<Vec<_>>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        r#"{{"count":{count},"seconds":{seconds:.4},"per_second":{:.2},"mb_per_second":{:.2},{}}}"#,
        count as f64 / seconds,
        count as f64 * set.pixels.len() as f64 / seconds / 1e6,
        Times::new(results.into_iter().flatten()).json()
    );
    Ok(())
}

fn body(set: &Set, salt: u64, numbers: &[u64]) -> Vec<u8> {
    let mut body = Vec::new();
    for n in numbers {
        let object = set.object(salt, *n);
        body.extend(b"--LOADBOUNDARY\r\nContent-Type: application/dicom\r\n\r\n");
        body.extend(file_meta(set.sop_class, &object.sop_instance));
        body.extend(object.head);
        body.extend(set.pixels.iter());
        body.extend(b"\r\n");
    }
    body.extend(b"--LOADBOUNDARY--\r\n");
    body
}
