//! C-FIND (PS3.4 §C.4.1) in the Study Root, query after query on a kept association.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::association::{Association, associate, command, element, p_data, status};
use crate::figures::Times;
use crate::{Outcome, fail};

const STUDY_ROOT_FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";

/// Tag and value of a key; `{n}` in the value stands for the number of the query.
type Key = (u16, u16, String);

pub fn run(arguments: &mut Arguments) -> Outcome<()> {
    let (address, called) = (arguments.next(""), arguments.next(""));
    let (count, connections) = (arguments.number("count", 10), arguments.number("connections", 1));
    let (from, step) = (arguments.number("from", 0), arguments.number("step", 1));
    let mut keys = arguments.rest().iter().map(|key| parse(key)).collect::<Outcome<Vec<Key>>>()?;
    keys.sort();
    let begun = Instant::now();
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|connection| {
                let numbers =
                    (0..count).filter(move |n| n % connections == connection).map(move |n| from + n * step);
                let (address, called, keys) = (&address, &called, &keys);
                scope.spawn(move || {
                    let association = associate(address, called, STUDY_ROOT_FIND, IMPLICIT_VR_LITTLE_ENDIAN)?;
                    ask_all(association, keys, numbers)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Outcome<Vec<_>>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let matches: u64 = results.iter().map(|(_, matches)| matches).sum();
    let times = Times::new(results.into_iter().flat_map(|(times, _)| times));
    println!(
        r#"{{"count":{count},"matches":{matches},"seconds":{seconds:.4},"per_second":{:.2},{}}}"#,
        count as f64 / seconds,
        times.json()
    );
    Ok(())
}

fn parse(key: &str) -> Outcome<Key> {
    let parsed = key.split_once('=').and_then(|(tag, value)| {
        let (group, number) = tag.split_once(',')?;
        Some((u16::from_str_radix(group, 16).ok()?, u16::from_str_radix(number, 16).ok()?, value.to_owned()))
    });
    parsed.map_or_else(|| fail(format!("gggg,eeee=value, not {key}")), Ok)
}

fn identifier(keys: &[Key], n: u64) -> Vec<u8> {
    let mut identifier = Vec::new();
    for (group, number, value) in keys {
        let mut value = value.replace("{n}", &n.to_string()).into_bytes();
        let uid = (*group, *number) == (0x0020, 0x000d);
        if value.len() % 2 == 1 && !uid {
            value.push(b' ');
        }
        element(&mut identifier, *group, *number, &value);
    }
    identifier
}

fn ask_all(
    mut association: Association,
    keys: &[Key],
    numbers: impl Iterator<Item = u64>,
) -> Outcome<(Vec<Duration>, u64)> {
    let (mut times, mut matches) = (Vec::new(), 0);
    for (message, n) in numbers.enumerate() {
        let request = command(&[
            (0x0002, STUDY_ROOT_FIND.as_bytes()),
            (0x0100, &0x20_u16.to_le_bytes()),
            (0x0110, &((message % 65_535 + 1) as u16).to_le_bytes()),
            (0x0700, &0_u16.to_le_bytes()),
            (0x0800, &1_u16.to_le_bytes()),
        ]);
        let mut bytes = Vec::new();
        p_data(&mut bytes, 1, &request, association.maximum, true);
        p_data(&mut bytes, 0, &identifier(keys, n), association.maximum, true);
        let begun = Instant::now();
        association.stream.write_all(&bytes)?;
        matches += answers(&mut association)?;
        times.push(begun.elapsed());
    }
    association.release()?;
    Ok((times, matches))
}

/// Reads responses up to the final one; how many were pending.
fn answers(association: &mut Association) -> Outcome<u64> {
    let mut matches = 0;
    loop {
        let (kind, body) = association.read()?;
        if kind != 4 {
            return fail(format!("PDU type {kind} instead of an answer"));
        }
        let mut rest = &body[..];
        while rest.len() >= 6 {
            let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let (pdv, after) = rest.split_at(4 + length);
            rest = after;
            if pdv[5] & 1 == 0 {
                continue;
            }
            match status(&pdv[6..]) {
                0xff00 | 0xff01 => matches += 1,
                0 => return Ok(matches),
                other => return fail(format!("status {other:04X}")),
            }
        }
    }
}
