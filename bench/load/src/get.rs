//! HTTP GET of paths in turn, over and over until `count` requests are made.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::figures::Times;
use crate::http::Connection;
use crate::{Outcome, fail};

struct Plan {
    address: String,
    headers: Vec<String>,
    paths: Vec<String>,
    count: u64,
    next: AtomicU64,
}

pub fn run(arguments: &mut Arguments) -> Outcome<()> {
    let plan = Plan {
        address: arguments.next(""),
        headers: arguments.all("header"),
        paths: arguments.rest(),
        count: arguments.number("count", 10),
        next: AtomicU64::new(0),
    };
    let begun = Instant::now();
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..arguments.number("connections", 1)).map(|_| scope.spawn(|| get_all(&plan))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Outcome<Vec<_>>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let bytes: u64 = results.iter().map(|(_, bytes)| bytes).sum();
    let times = Times::new(results.into_iter().flat_map(|(times, _)| times));
    println!(
        r#"{{"count":{},"seconds":{seconds:.4},"per_second":{:.2},"mb_per_second":{:.2},"bytes":{bytes},{}}}"#,
        plan.count,
        plan.count as f64 / seconds,
        bytes as f64 / seconds / 1e6,
        times.json()
    );
    Ok(())
}

fn get_all(plan: &Plan) -> Outcome<(Vec<Duration>, u64)> {
    let mut connection = Connection::open(&plan.address, &plan.headers)?;
    let (mut times, mut bytes) = (Vec::new(), 0);
    loop {
        let n = plan.next.fetch_add(1, Ordering::Relaxed);
        if n >= plan.count {
            return Ok((times, bytes));
        }
        let path = &plan.paths[(n % plan.paths.len() as u64) as usize];
        let begun = Instant::now();
        let answer = connection.get(path)?;
        times.push(begun.elapsed());
        bytes += answer.length;
        if !matches!(answer.status, 200 | 204 | 206) {
            return fail(format!("{} to {path}", answer.status));
        }
    }
}
