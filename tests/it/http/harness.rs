//! A served door with keys, and the objects and bodies that the tests send to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use relaypacs::auth::Scope;
use relaypacs::config::Config;
use relaypacs::dicom::{ScanLimits, Uid, part10};
use relaypacs::http::health::{Condition, Dependency};
use relaypacs::http::{Api, HttpState, MetadataMemory, PartBuffers, serve};
use relaypacs::index::{Index, IndexOptions};
use relaypacs::ingest::{Ingest, IngestOptions};
use relaypacs::lifecycle::{Shutdown, Stage};
use relaypacs::node::Foundation;
use reqwest::{Client, RequestBuilder, Response};
use tokio::net::TcpListener;

pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";
pub const JPEG_BASELINE: &str = "1.2.840.10008.1.2.4.50";
pub const SECONDARY_CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";
pub const PUBLIC_URL: &str = "https://node.example/gateway";
pub const DICOM_ANY: &str = r#"multipart/related; type="application/dicom"; transfer-syntax=*"#;
const BOUNDARY: &str = "a-boundary";

/// The door, until it is dropped.
pub struct Door {
    pub address: std::net::SocketAddr,
    pub url: String,
    /// May read and write.
    pub key: String,
    pub client: Client,
    pub foundation: Foundation,
    pub shutdown: Shutdown,
    pub served: tokio::task::JoinHandle<()>,
    index_stage: Stage,
    _dir: tempfile::TempDir,
}

pub async fn door() -> Door {
    door_with("").await
}

/// `limits` are lines of the configuration's section of that name.
pub async fn door_with(limits: &str) -> Door {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[node]\ndata_dir = {:?}\n[spool]\nany_file_system = true\nsegment_size = \"4 MiB\"\n\
         high_watermark = 0.99\ncritical_watermark = 0.999\n[limits]\n{limits}\n",
        dir.path().join("data")
    );
    let config = Config::from_toml(&text).unwrap();
    let foundation = Foundation::open(config).await.unwrap();
    let limits = foundation.config.limits.clone();
    let scan = ScanLimits { depth: 64, elements: limits.elements, non_pixel_bytes: limits.non_pixel };
    let options = IngestOptions { scan, object_limit: limits.object, ..IngestOptions::default() };
    let ingest = Ingest::new(foundation.spool.clone(), foundation.clock.clone(), options);
    let index_stage = Stage::default();
    let index = Index::start(
        foundation.store.clone(),
        foundation.spool.clone(),
        foundation.clock.clone(),
        IndexOptions::default(),
        &index_stage,
    );
    let state = Arc::new(HttpState {
        ingest,
        index,
        spool: foundation.spool.clone(),
        keys: foundation.keys.clone(),
        api: Api::new(foundation.admin(None)),
        public_url: PUBLIC_URL.to_owned(),
        instance: "".into(),
        limits,
        part_buffers: PartBuffers::default(),
        metadata: MetadataMemory::default(),
        dependencies: Arc::new(|| {
            let line = Dependency { name: "database".into(), condition: Condition::Degraded, detail: None };
            Box::pin(async move { vec![line] })
        }),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::default();
    let served = tokio::spawn(serve(listener, state, shutdown.clone()));
    let scopes = [Scope::DicomwebRead, Scope::DicomwebWrite];
    let key = foundation.keys.add("test", &scopes, None).await.unwrap();
    Door {
        address,
        url: format!("http://{address}"),
        key,
        client: Client::builder().no_proxy().build().unwrap(),
        foundation,
        shutdown,
        served,
        index_stage,
        _dir: dir,
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shutdown.abort();
        self.index_stage.abort();
        self.foundation.spool.close();
    }
}

impl Door {
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// Below `/dicom-web`, with an Accept header.
    pub async fn dicomweb(&self, path: &str, accept: &str) -> Response {
        self.get(&format!("/dicom-web{path}")).header("accept", accept).send().await.unwrap()
    }

    pub async fn search(&self, path: &str) -> serde_json::Value {
        let response = self.dicomweb(path, "application/dicom+json").await;
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client
            .post(format!("{}/dicom-web{path}", self.url))
            .bearer_auth(&self.key)
            .header("content-type", content_type())
    }

    pub async fn store(&self, objects: &[&Object]) -> Response {
        let files: Vec<Vec<u8>> = objects.iter().map(|object| object.file()).collect();
        self.post("/studies").body(body_of(&files)).send().await.unwrap()
    }

    pub async fn store_all(&self, objects: &[&Object]) {
        let response = self.store(objects).await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    }
}

pub fn content_type() -> String {
    format!("multipart/related; type=\"application/dicom\"; boundary={BOUNDARY}")
}

/// Parts of application/dicom, framed.
pub fn body_of<B: AsRef<[u8]>>(files: &[B]) -> Vec<u8> {
    let mut body = Vec::new();
    for file in files {
        body.extend_from_slice(&part(file.as_ref()));
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

pub fn part(content: &[u8]) -> Vec<u8> {
    raw_part("Content-Type: application/dicom\r\n", content)
}

pub fn raw_part(headers: &str, content: &[u8]) -> Vec<u8> {
    let mut part = format!("--{BOUNDARY}\r\n{headers}\r\n").into_bytes();
    part.extend_from_slice(content);
    part.extend_from_slice(b"\r\n");
    part
}

/// A synthetic instance.
#[derive(Clone)]
pub struct Object {
    pub study: String,
    pub series: String,
    pub instance: String,
    pub sop_class: String,
    pub transfer_syntax: &'static str,
    pub patient_name: String,
    pub study_date: String,
    pub pixels: Vec<u8>,
}

pub fn object() -> Object {
    Object {
        study: Uid::generate().to_string(),
        series: Uid::generate().to_string(),
        instance: Uid::generate().to_string(),
        sop_class: SECONDARY_CAPTURE.to_owned(),
        transfer_syntax: EXPLICIT,
        patient_name: "Doe^Jane".to_owned(),
        study_date: "20240131".to_owned(),
        pixels: (0..64).collect(),
    }
}

impl Object {
    /// Another instance of the same series.
    pub fn sibling(&self) -> Object {
        Object { instance: Uid::generate().to_string(), ..self.clone() }
    }

    pub fn path(&self) -> String {
        format!("/studies/{}/series/{}/instances/{}", self.study, self.series, self.instance)
    }

    pub fn data_set(&self) -> Vec<u8> {
        let mut bytes = [
            element(0x0008, 0x0005, "CS", "ISO_IR 192"),
            element(0x0008, 0x0016, "UI", &self.sop_class),
            element(0x0008, 0x0018, "UI", &self.instance),
            element(0x0008, 0x0020, "DA", &self.study_date),
            element(0x0008, 0x0060, "CS", "OT"),
            element(0x0008, 0x1030, "LO", "Chest"),
            element(0x0010, 0x0010, "PN", &self.patient_name),
            element(0x0010, 0x0020, "LO", "P-1"),
            element(0x0020, 0x000d, "UI", &self.study),
            element(0x0020, 0x000e, "UI", &self.series),
            element(0x0020, 0x0013, "IS", "7"),
        ]
        .concat();
        if self.transfer_syntax == EXPLICIT {
            bytes.extend_from_slice(&[0xe0, 0x7f, 0x10, 0x00]);
            bytes.extend_from_slice(b"OB\0\0");
            bytes.extend_from_slice(&(self.pixels.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&self.pixels);
        }
        bytes
    }

    pub fn file(&self) -> Vec<u8> {
        let uid = |text: &str| Uid::parse(text).unwrap();
        let prefix = part10::prefix(&uid(&self.sop_class), &uid(&self.instance), self.transfer_syntax, None);
        [prefix.as_ref(), &self.data_set()].concat()
    }
}

fn element(group: u16, element: u16, vr: &str, value: &str) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(if vr == "UI" { 0 } else { b' ' });
    }
    let mut out = Vec::new();
    out.extend(group.to_le_bytes());
    out.extend(element.to_le_bytes());
    out.extend(vr.as_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    out
}

/// Headers and content of each part of a multipart answer.
pub async fn parts_of(response: Response) -> Vec<(String, Vec<u8>)> {
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(content_type.starts_with("multipart/related"), "{content_type}");
    let boundary = content_type.split("boundary=").nth(1).unwrap().trim_matches('"').to_owned();
    let body = response.bytes().await.unwrap();
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let mut pieces = Vec::new();
    let mut rest = &body[..];
    while let Some(at) = rest.windows(delimiter.len()).position(|window| window == delimiter) {
        pieces.push(&rest[..at]);
        rest = &rest[at + delimiter.len()..];
    }
    assert_eq!(rest, b"--\r\n", "the body ends with its final boundary");
    let parts = pieces.into_iter().skip(1).map(|piece| {
        let split = piece.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        (String::from_utf8(piece[..split].to_vec()).unwrap(), piece[split + 4..].to_vec())
    });
    parts.collect()
}

/// Asks until it is so, for ten seconds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "in ten seconds it did not happen that {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
