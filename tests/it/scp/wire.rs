//! A DICOM peer made of bytes, sharing no code with the node: so that a test can break every rule.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const VERIFICATION: &str = "1.2.840.10008.1.1";
pub const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
pub const SECONDARY_CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";
pub const PATIENT_ROOT: &str = "1.2.840.10008.5.1.4.1.2.1.1";
pub const STUDY_ROOT: &str = "1.2.840.10008.5.1.4.1.2.2.1";
pub const COMMITMENT: &str = "1.2.840.10008.1.20.1";
pub const IMPLICIT: &str = "1.2.840.10008.1.2";
pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";
pub const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
pub const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
pub const JPEG_LOSSLESS: &str = "1.2.840.10008.1.2.4.70";

const DEADLINE: Duration = Duration::from_secs(20);

/// A PDU, or the end of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Accepted(Vec<u8>),
    /// Result, source, reason.
    Rejected([u8; 3]),
    Data(Vec<u8>),
    ReleaseConfirmed,
    /// Source, reason.
    Aborted([u8; 2]),
    Closed,
}

/// A response: its command elements by element number, and its data set.
#[derive(Debug, Default)]
pub struct Response {
    pub context: u8,
    pub elements: BTreeMap<u16, Vec<u8>>,
    pub data_set: Option<Vec<u8>>,
}

impl Response {
    pub fn u16(&self, element: u16) -> Option<u16> {
        self.elements.get(&element).map(|value| u16::from_le_bytes([value[0], value[1]]))
    }

    pub fn text(&self, element: u16) -> Option<String> {
        let value = self.elements.get(&element)?;
        Some(String::from_utf8_lossy(value).trim_end_matches(['\0', ' ']).to_owned())
    }

    pub fn status(&self) -> u16 {
        self.u16(0x0900).expect("a response has a status")
    }
}

pub struct Wire {
    pub io: TcpStream,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        let io = TcpStream::connect(address).await.unwrap();
        io.set_nodelay(true).unwrap();
        Self { io }
    }

    /// Connects and associates; the contexts have ids 1, 3, 5 … in order.
    pub async fn associate(address: SocketAddr, contexts: &[(&str, &[&str])]) -> Self {
        let mut request = Request::new();
        for (index, (abstract_syntax, transfer_syntaxes)) in contexts.iter().enumerate() {
            request = request.context(2 * index as u8 + 1, abstract_syntax, transfer_syntaxes);
        }
        let mut wire = Self::connect(address).await;
        wire.send(&request.pdu()).await;
        match wire.hear().await {
            Heard::Accepted(_) => wire,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The node may have closed already; what it answered is then read all the same.
        let _ = self.io.write_all(bytes).await;
    }

    pub async fn hear(&mut self) -> Heard {
        timeout(DEADLINE, self.read_pdu()).await.expect("an answer in time")
    }

    async fn read_pdu(&mut self) -> Heard {
        let mut header = [0; 6];
        if self.io.read_exact(&mut header).await.is_err() {
            return Heard::Closed;
        }
        let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        let mut body = vec![0; length as usize];
        if self.io.read_exact(&mut body).await.is_err() {
            return Heard::Closed;
        }
        match header[0] {
            2 => Heard::Accepted(body),
            3 => Heard::Rejected([body[1], body[2], body[3]]),
            4 => Heard::Data(body),
            6 => Heard::ReleaseConfirmed,
            7 => Heard::Aborted([body[2], body[3]]),
            other => panic!("PDU type {other}"),
        }
    }

    /// The next message.
    pub async fn response(&mut self) -> Response {
        let mut response = Response::default();
        let (mut command, mut data_set, mut commanded) = (Vec::new(), Vec::new(), false);
        loop {
            let body = match self.hear().await {
                Heard::Data(body) => body,
                other => panic!("no response but {other:?}"),
            };
            let mut rest = &body[..];
            while !rest.is_empty() {
                let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                response.context = rest[4];
                let (control, data) = (rest[5], &rest[6..4 + length]);
                let part = if control & 1 == 1 { &mut command } else { &mut data_set };
                part.extend_from_slice(data);
                rest = &rest[4 + length..];
                match control {
                    3 => {
                        response.elements = parse_command(&command);
                        commanded = true;
                        if response.u16(0x0800) == Some(0x0101) {
                            return response;
                        }
                    }
                    2 if commanded => {
                        response.data_set = Some(data_set);
                        return response;
                    }
                    _ => {}
                }
            }
        }
    }

    pub async fn echo(&mut self, context: u8) -> u16 {
        self.send(&message(context, &echo_rq(7), None)).await;
        self.response().await.status()
    }

    pub async fn release(&mut self) -> Heard {
        self.send(&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0]).await;
        self.hear().await
    }
}

fn parse_command(mut bytes: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    let mut elements = BTreeMap::new();
    while bytes.len() >= 8 {
        assert_eq!(&bytes[..2], [0, 0], "group 0000 only");
        let element = u16::from_le_bytes([bytes[2], bytes[3]]);
        let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        elements.insert(element, bytes[8..8 + length].to_vec());
        bytes = &bytes[8 + length..];
    }
    elements
}

pub fn pdu(pdu_type: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![pdu_type, 0];
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
    out
}

pub fn item(item_type: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![item_type, 0];
    out.extend_from_slice(&(content.len() as u16).to_be_bytes());
    out.extend_from_slice(content);
    out
}

/// An A-ASSOCIATE-RQ; what is not set is valid.
#[derive(Clone)]
pub struct Request {
    pub version: u16,
    pub called: Vec<u8>,
    pub calling: Vec<u8>,
    pub reserved: [u8; 32],
    pub application_context: Vec<u8>,
    pub contexts: Vec<u8>,
    pub user: Vec<u8>,
}

impl Request {
    pub fn new() -> Self {
        Self {
            version: 1,
            called: b"RELAYPACS".to_vec(),
            calling: b"CT_1".to_vec(),
            reserved: [0; 32],
            application_context: b"1.2.840.10008.3.1.1.1".to_vec(),
            contexts: Vec::new(),
            user: [item(0x51, &16384u32.to_be_bytes()), item(0x52, b"1.2.3.4")].concat(),
        }
    }

    pub fn verification() -> Self {
        Self::new().context(1, VERIFICATION, &[IMPLICIT])
    }

    pub fn context(mut self, id: u8, abstract_syntax: &str, transfer_syntaxes: &[&str]) -> Self {
        let mut content = vec![id, 0, 0, 0];
        content.extend(item(0x30, abstract_syntax.as_bytes()));
        for syntax in transfer_syntaxes {
            content.extend(item(0x40, syntax.as_bytes()));
        }
        self.contexts.extend(item(0x20, &content));
        self
    }

    pub fn calling(mut self, title: &[u8]) -> Self {
        self.calling = title.to_vec();
        self
    }

    pub fn called(mut self, title: &[u8]) -> Self {
        self.called = title.to_vec();
        self
    }

    pub fn user(mut self, sub_item: Vec<u8>) -> Self {
        self.user.extend(sub_item);
        self
    }

    pub fn body(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([0, 0]);
        for title in [&self.called, &self.calling] {
            let mut title = title.clone();
            title.resize(16, b' ');
            body.extend(title);
        }
        body.extend(self.reserved);
        body.extend(item(0x10, &self.application_context));
        body.extend(&self.contexts);
        body.extend(item(0x50, &self.user));
        body
    }

    pub fn pdu(&self) -> Vec<u8> {
        pdu(1, &self.body())
    }
}

/// A P-DATA-TF with one value; control: 1 command, 2 last.
pub fn p_data(context: u8, control: u8, data: &[u8]) -> Vec<u8> {
    let mut body = ((data.len() + 2) as u32).to_be_bytes().to_vec();
    body.extend([context, control]);
    body.extend_from_slice(data);
    pdu(4, &body)
}

pub fn message(context: u8, command: &[u8], data_set: Option<&[u8]>) -> Vec<u8> {
    let mut out = p_data(context, 3, command);
    if let Some(data_set) = data_set {
        out.extend(p_data(context, 2, data_set));
    }
    out
}

/// Command elements; the group length is added.
pub fn command(elements: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (element, value) in elements {
        let mut value = value.to_vec();
        if value.len() % 2 == 1 {
            value.push(0);
        }
        body.extend([0, 0]);
        body.extend(element.to_le_bytes());
        body.extend((value.len() as u32).to_le_bytes());
        body.extend(value);
    }
    let mut out = vec![0, 0, 0, 0, 4, 0, 0, 0];
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(body);
    out
}

const NO_DATA_SET: &[u8] = &[1, 1];
const DATA_SET: &[u8] = &[0, 0];

pub fn echo_rq(message_id: u16) -> Vec<u8> {
    command(&[
        (0x0002, VERIFICATION.as_bytes()),
        (0x0100, &[0x30, 0]),
        (0x0110, &message_id.to_le_bytes()),
        (0x0800, NO_DATA_SET),
    ])
}

pub fn store_rq(sop_class: &str, sop_instance: Option<&str>) -> Vec<u8> {
    let mut elements: Vec<(u16, &[u8])> = vec![
        (0x0002, sop_class.as_bytes()),
        (0x0100, &[1, 0]),
        (0x0110, &[9, 0]),
        (0x0700, &[0, 0]),
        (0x0800, DATA_SET),
    ];
    if let Some(sop_instance) = sop_instance {
        elements.push((0x1000, sop_instance.as_bytes()));
    }
    command(&elements)
}

pub fn find_rq(sop_class: &str, message_id: u16) -> Vec<u8> {
    command(&[
        (0x0002, sop_class.as_bytes()),
        (0x0100, &[0x20, 0]),
        (0x0110, &message_id.to_le_bytes()),
        (0x0700, &[0, 0]),
        (0x0800, DATA_SET),
    ])
}

pub fn cancel_rq(message_id: u16) -> Vec<u8> {
    command(&[(0x0100, &[0xFF, 0x0F]), (0x0120, &message_id.to_le_bytes()), (0x0800, NO_DATA_SET)])
}

/// An element in Explicit VR Little Endian with a 16-bit length.
pub fn element(tag: (u16, u16), vr: &str, value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    if value.len() % 2 == 1 {
        value.push(if vr == "UI" { 0 } else { b' ' });
    }
    let mut out = tag.0.to_le_bytes().to_vec();
    out.extend(tag.1.to_le_bytes());
    out.extend(vr.as_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    out
}

/// Elements of a short-length explicit data set, by tag.
pub fn elements(mut bytes: &[u8]) -> BTreeMap<(u16, u16), String> {
    let mut out = BTreeMap::new();
    while bytes.len() >= 8 {
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (tag, length) = ((number(0), number(2)), usize::from(number(6)));
        let value = String::from_utf8_lossy(&bytes[8..8 + length]);
        out.insert(tag, value.trim_end_matches(['\0', ' ']).to_owned());
        bytes = &bytes[8 + length..];
    }
    out
}
