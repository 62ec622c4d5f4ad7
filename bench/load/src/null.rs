//! The least that a receiver does: it answers C-STORE, and with `log` appends the data set to a file
//! and syncs it before, all that wait in one sync. It neither reads nor indexes what it gets.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::arguments::Arguments;
use crate::association::{command, item, items, p_data, pdu, quickack, read_pdu, user_information, value_of};
use crate::{Outcome, fail};

/// Bytes to write, and whom to give them back to when they are on the disk.
struct Entry {
    data: Vec<u8>,
    done: SyncSender<Vec<u8>>,
}

pub fn run(arguments: &mut Arguments) -> Outcome<()> {
    let address = arguments.next("");
    let log = match arguments.next("").as_str() {
        "log" => true,
        "discard" => false,
        other => return fail(format!("discard or log, not {other}")),
    };
    let folder = PathBuf::from(arguments.next("."));
    let (to_log, writes) = channel();
    if log {
        std::thread::spawn(move || commit(&writes, &folder).expect("the log can be written"));
    }
    for stream in TcpListener::bind(address)?.incoming() {
        let (stream, to_log) = (stream?, log.then(|| to_log.clone()));
        std::thread::spawn(move || {
            // A client that goes away ends its connection; there is nobody to tell.
            let _ = serve(stream, to_log);
        });
    }
    Ok(())
}

fn commit(writes: &Receiver<Entry>, folder: &Path) -> Outcome<()> {
    let mut file = File::create(folder.join("null.log"))?;
    while let Ok(first) = writes.recv() {
        let batch: Vec<Entry> = std::iter::once(first).chain(writes.try_iter()).collect();
        for write in &batch {
            file.write_all(&write.data)?;
        }
        file.sync_data()?;
        for write in batch {
            // Its connection may be gone.
            let _ = write.done.send(write.data);
        }
    }
    Ok(())
}

fn serve(mut stream: TcpStream, to_log: Option<Sender<Entry>>) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(1 << 18, stream.try_clone()?);
    let (kind, request) = read_pdu(&mut reader)?;
    if kind != 1 {
        return fail("no A-ASSOCIATE-RQ");
    }
    stream.write_all(&pdu(2, &acceptance(&request)))?;
    let (done, written) = sync_channel(1);
    let (mut command_set, mut data) = (Vec::new(), Vec::new());
    loop {
        quickack(&stream);
        let mut header = [0; 6];
        reader.read_exact(&mut header)?;
        if header[0] != 4 {
            return stream.write_all(&pdu(6, &[0; 4]));
        }
        let mut left = u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize;
        while left > 0 {
            quickack(&stream);
            let mut pdv = [0; 6];
            reader.read_exact(&mut pdv)?;
            let length = u32::from_be_bytes([pdv[0], pdv[1], pdv[2], pdv[3]]) as usize - 2;
            left -= length + 6;
            let into = if pdv[5] & 1 == 1 { &mut command_set } else { &mut data };
            let begin = into.len();
            into.resize(begin + length, 0);
            reader.read_exact(&mut into[begin..])?;
            if pdv[5] != 2 {
                continue;
            }
            if let Some(to_log) = &to_log {
                let write = Entry { data: std::mem::take(&mut data), done: done.clone() };
                to_log.send(write).map_err(std::io::Error::other)?;
                data = written.recv().map_err(std::io::Error::other)?;
            }
            stream.write_all(&answer(&command_set, pdv[4]))?;
            command_set.clear();
            data.clear();
        }
    }
}

/// Accepts each context with its first transfer syntax.
fn acceptance(request: &[u8]) -> Vec<u8> {
    let mut body = request[..68].to_vec();
    body.extend(item(0x10, b"1.2.840.10008.3.1.1.1"));
    for (kind, context) in items(&request[68..]) {
        let proposed = if kind == 0x20 { items(&context[4..]).find(|(kind, _)| *kind == 0x40) } else { None };
        if let Some((_, transfer_syntax)) = proposed {
            let mut accepted = vec![context[0], 0, 0, 0];
            accepted.extend(item(0x40, transfer_syntax));
            body.extend(item(0x21, &accepted));
        }
    }
    body.extend(user_information());
    body
}

/// Success to a request (C-STORE-RSP or C-ECHO-RSP).
fn answer(request: &[u8], context: u8) -> Vec<u8> {
    let value = |number| value_of(request, number).unwrap_or_default();
    let field = value(0x0100);
    let response = command(&[
        (0x0002, value(0x0002)),
        (0x0100, &[field.first().copied().unwrap_or(1), 0x80]),
        (0x0120, value(0x0110)),
        (0x0800, &0x0101_u16.to_le_bytes()),
        (0x0900, &0_u16.to_le_bytes()),
        (0x1000, value(0x1000)),
    ]);
    let mut answer = Vec::new();
    p_data(&mut answer, 1, &response, 16_384, true);
    // The context that was asked under; p_data writes ours.
    answer[10] = context;
    answer
}
