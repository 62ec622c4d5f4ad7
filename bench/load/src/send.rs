//! C-STORE as fast as the peer answers, one object at a time on each association.

use std::io::{IoSlice, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::association::{Association, associate, command, p_data, status};
use crate::figures::{Times, now};
use crate::object::{EXPLICIT_VR_LITTLE_ENDIAN, Set};
use crate::{Outcome, fail};

struct Job<'a> {
    set: &'a Set,
    salt: u64,
    numbers: Vec<u64>,
}

#[derive(Default)]
struct Sent {
    times: Vec<Duration>,
    refused: u64,
    last_answer: f64,
}

pub fn run(arguments: &mut Arguments) -> Outcome<()> {
    let (address, called) = (arguments.next(""), arguments.next(""));
    let set = Set::named(&arguments.next(""));
    let connections = arguments.number("connections", 1);
    let (salt, from, count) =
        (arguments.number("salt", 1), arguments.number("from", 0), arguments.number("count", 1));
    let start = Barrier::new(connections as usize + 1);
    let (sent, seconds) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|connection| {
                let numbers = (from..from + count).filter(|n| n % connections == connection).collect();
                let job = Job { set: &set, salt, numbers };
                let (address, called, start) = (&address, &called, &start);
                scope.spawn(move || {
                    let association =
                        associate(address, called, job.set.sop_class, EXPLICIT_VR_LITTLE_ENDIAN);
                    start.wait();
                    send_all(association?, &job)
                })
            })
            .collect();
        start.wait();
        let begun = Instant::now();
        let sent: Vec<Outcome<Sent>> =
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        (sent, begun.elapsed().as_secs_f64())
    });
    report(sent, &set, seconds)
}

fn report(all: Vec<Outcome<Sent>>, set: &Set, seconds: f64) -> Outcome<()> {
    let (mut times, mut refused, mut last_answer) = (Vec::new(), 0, 0.0_f64);
    for sent in all {
        let sent = sent?;
        times.extend(sent.times);
        refused += sent.refused;
        last_answer = last_answer.max(sent.last_answer);
    }
    if refused > 0 {
        return fail(format!("{refused} of {} were not answered with success", times.len()));
    }
    let count = times.len() as f64;
    println!(
        r#"{{"count":{count},"seconds":{seconds:.4},"per_second":{:.2},"mb_per_second":{:.2},"mb":{:.3},"last_answer":{last_answer:.4},{}}}"#,
        count / seconds,
        count * set.pixels.len() as f64 / seconds / 1e6,
        count * set.pixels.len() as f64 / 1e6,
        Times::new(times).json()
    );
    Ok(())
}

fn send_all(mut association: Association, job: &Job) -> Outcome<Sent> {
    let mut sent = Sent::default();
    let mut pixels = Vec::with_capacity(job.set.pixels.len() + job.set.pixels.len() / 1000 + 64);
    p_data(&mut pixels, 0, &job.set.pixels, association.maximum, true);
    for (message, n) in job.numbers.iter().enumerate() {
        let object = job.set.object(job.salt, *n);
        let mut head = Vec::with_capacity(object.head.len() + 512);
        let request = command(&[
            (0x0002, job.set.sop_class.as_bytes()),
            (0x0100, &1_u16.to_le_bytes()),
            (0x0110, &((message % 65_535 + 1) as u16).to_le_bytes()),
            (0x0700, &0_u16.to_le_bytes()),
            (0x0800, &1_u16.to_le_bytes()),
            (0x1000, object.sop_instance.as_bytes()),
        ]);
        p_data(&mut head, 1, &request, association.maximum, true);
        p_data(&mut head, 0, &object.head, association.maximum, false);
        let begun = Instant::now();
        write_both(&mut association.stream, &head, &pixels)?;
        let (kind, answer) = association.read()?;
        sent.times.push(begun.elapsed());
        if kind != 4 {
            return fail(format!("PDU type {kind} instead of an answer"));
        }
        sent.refused += u64::from(status(&answer[6..]) != 0);
    }
    sent.last_answer = now();
    association.release()?;
    Ok(sent)
}

/// Two buffers in as few calls as the socket takes.
fn write_both(stream: &mut TcpStream, head: &[u8], tail: &[u8]) -> Outcome<()> {
    let mut slices = [IoSlice::new(head), IoSlice::new(tail)];
    let mut left = &mut slices[..];
    while !left.is_empty() {
        let written = stream.write_vectored(left)?;
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}
