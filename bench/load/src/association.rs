//! The least of the upper layer (PS3.8 §9.3) that a client and a null server need.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use crate::{Outcome, fail};

pub const OUR_MAXIMUM: u32 = 262_144;

pub struct Association {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
    /// The longest P-DATA body that we send.
    pub maximum: usize,
}

/// Requests one abstract syntax under presentation context 1.
pub fn associate(
    address: &str,
    called: &str,
    abstract_syntax: &str,
    transfer_syntax: &str,
) -> Outcome<Association> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut association =
        Association { reader: BufReader::with_capacity(1 << 16, stream.try_clone()?), stream, maximum: 0 };
    let mut context = vec![1, 0, 0, 0];
    context.extend(item(0x30, abstract_syntax.as_bytes()));
    context.extend(item(0x40, transfer_syntax.as_bytes()));
    let mut body = vec![0, 1, 0, 0];
    body.extend(title(called));
    body.extend(title("LOAD"));
    body.extend([0; 32]);
    body.extend(item(0x10, b"1.2.840.10008.3.1.1.1"));
    body.extend(item(0x20, &context));
    body.extend(user_information());
    association.stream.write_all(&pdu(1, &body))?;
    let (kind, answer) = association.read()?;
    if kind != 2 {
        return fail(format!("the association was refused: PDU type {kind}, {answer:?}"));
    }
    association.maximum = accepted(&answer)?;
    Ok(association)
}

impl Association {
    /// Type and body of the next PDU.
    pub fn read(&mut self) -> Outcome<(u8, Vec<u8>)> {
        quickack(&self.stream);
        read_pdu(&mut self.reader)
    }

    pub fn release(mut self) -> Outcome<()> {
        self.stream.write_all(&pdu(5, &[0; 4]))?;
        self.read().map(drop)
    }
}

/// With `QUICKACK=1` acknowledges what comes at once: peers with Nagle's algorithm wait for it.
pub fn quickack(stream: &TcpStream) {
    static ON: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("QUICKACK").is_some());
    if *ON {
        let _ = rustix::net::sockopt::set_tcp_quickack(stream, true);
    }
}

/// The peer's maximum length; an error when it did not accept the context.
fn accepted(answer: &[u8]) -> Outcome<usize> {
    let mut maximum = 16_384;
    for (kind, body) in items(&answer[68..]) {
        match kind {
            0x21 if body[2] != 0 => {
                return fail(format!("the presentation context was refused: {}", body[2]));
            }
            0x50 => {
                for (kind, body) in items(body) {
                    if kind == 0x51 {
                        maximum = u32::from_be_bytes([body[0], body[1], body[2], body[3]]);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(if maximum == 0 { OUR_MAXIMUM } else { maximum.min(OUR_MAXIMUM) } as usize)
}

pub fn items(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.get(..4)?;
        let length = u16::from_be_bytes([header[2], header[3]]) as usize;
        let body = rest.get(4..4 + length)?;
        rest = &rest[4 + length..];
        Some((header[0], body))
    })
}

pub fn item(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut item = vec![kind, 0];
    item.extend((body.len() as u16).to_be_bytes());
    item.extend(body);
    item
}

pub fn user_information() -> Vec<u8> {
    let mut user = item(0x51, &OUR_MAXIMUM.to_be_bytes());
    user.extend(item(0x52, b"1.2.826.0.1.3680043.10.1338.1"));
    item(0x50, &user)
}

fn title(of: &str) -> Vec<u8> {
    format!("{of:<16}").into_bytes()
}

pub fn pdu(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut pdu = vec![kind, 0];
    pdu.extend((body.len() as u32).to_be_bytes());
    pdu.extend(body);
    pdu
}

pub fn read_pdu(from: &mut impl Read) -> Outcome<(u8, Vec<u8>)> {
    let mut header = [0; 6];
    from.read_exact(&mut header)?;
    let mut body = vec![0; u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize];
    from.read_exact(&mut body)?;
    Ok((header[0], body))
}

/// Appends `data` as P-DATA-TF PDUs of one PDV each. `control` is the message control header of all
/// (PS3.8 §E.2); the last gets bit 1 when `last`.
pub fn p_data(to: &mut Vec<u8>, control: u8, data: &[u8], maximum: usize, last: bool) {
    let mut chunks = data.chunks((maximum - 6) & !1).peekable();
    while let Some(chunk) = chunks.next() {
        let end = last && chunks.peek().is_none();
        to.extend([4, 0]);
        to.extend((chunk.len() as u32 + 6).to_be_bytes());
        to.extend((chunk.len() as u32 + 2).to_be_bytes());
        to.extend([1, control | if end { 2 } else { 0 }]);
        to.extend(chunk);
    }
}

/// A command set (PS3.7 §6.3.1), with its group length.
pub fn command(elements: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (number, value) in elements {
        element(&mut body, 0, *number, value);
    }
    let mut command = Vec::new();
    element(&mut command, 0, 0, &(body.len() as u32).to_le_bytes());
    command.extend(body);
    command
}

/// An element in Implicit VR Little Endian; odd values are padded with NULL.
pub fn element(to: &mut Vec<u8>, group: u16, number: u16, value: &[u8]) {
    let odd = value.len() % 2;
    to.extend(group.to_le_bytes());
    to.extend(number.to_le_bytes());
    to.extend(((value.len() + odd) as u32).to_le_bytes());
    to.extend(value);
    to.extend(std::iter::repeat_n(0, odd));
}

/// The value of an element of group 0000.
pub fn value_of(command: &[u8], number: u16) -> Option<&[u8]> {
    let mut rest = command;
    while rest.len() >= 8 {
        let length = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        let value = rest.get(8..8 + length)?;
        if rest[..2] == [0, 0] && rest[2..4] == number.to_le_bytes() {
            return Some(value);
        }
        rest = &rest[8 + length..];
    }
    None
}

/// The status of a response, of a P-DATA body whose first PDV is a whole command set.
pub fn status(command: &[u8]) -> u16 {
    value_of(command, 0x0900).map_or(0xffff, |value| u16::from_le_bytes([value[0], value[1]]))
}
